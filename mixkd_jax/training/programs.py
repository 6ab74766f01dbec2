"""The compiled programs of a run, each compiled once however many models use it.

Batches, the teacher's logits and each kind of update are programs of their own. So what a model
computes doesn't depend on which others share its batch, and arms that differ in numbers alone, and
all seeds, share one update.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

from mixkd_jax.models.network import Classifier
from mixkd_jax.training.fit import Fit
from mixkd_jax.training.step import draw_batch, query_teacher, update_student

Program = Callable[..., Any]


class Programs:
    """What has been compiled so far; `len` of it grows when something new is asked for."""

    def __init__(self, compiling: Callable[[], None] = lambda: None) -> None:
        """Begins with nothing; `compiling` is called before something new is compiled."""
        self._known: dict[Any, Program] = {}
        self._compiling = compiling

    def __len__(self) -> int:
        """Returns how many programs there are."""
        return len(self._known)

    def draw(self, fit: Fit) -> Program:
        """Returns (feed, key, step, mixing) -> batch, for all fits with batches like this one's.

        `mixing` has the numbers of `fit.mixup`; None doesn't mix.
        """
        per_example = fit.mixup.per_example if fit.mixup else None

        def draw(feed, key, step, mixing):
            options = None if mixing is None else {**mixing, "per_example": per_example}
            return draw_batch(fit.batching, fit.recipe.mesh, feed, key, step, options)

        return self._once(("draw", fit.batching, per_example), lambda: jax.jit(draw))

    def query(self, teacher: Classifier, fit: Fit) -> Program:
        """Returns (the teacher's variables, images) -> its logits."""
        query = functools.partial(query_teacher, teacher, fit.recipe.mesh)
        # One on the host is no program: a callback within one hangs on several CPU devices.
        return self._once(("query", teacher), lambda: query if teacher.on_host else jax.jit(query))

    def variables(self, fit: Fit) -> Program:
        """Returns key -> the model's variables; one program for a network, whatever its loss."""
        recipe = fit.recipe
        # It runs once for a model. XLA's usual optimizations for a CPU would change no bit of it,
        # and take three times as long as compiling it like this.
        options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else None
        return self._once(
            ("variables", recipe.network, recipe.mesh, recipe.parameters, fit.images.image_shape),
            lambda: jax.jit(
                fit.create_variables,
                out_shardings=places_of(fit.abstract_state.variables),
                compiler_options=options,
            ),
        )

    def init(self, fit: Fit) -> Program:
        """Returns key -> the state before the first step."""
        variables = self.variables(fit)
        state = self._once(
            ("state", fit.recipe, fit.metrics, fit.images.image_shape),
            lambda: jax.jit(
                fit.create_state,
                donate_argnums=_donated(0),
                out_shardings=places_of(fit.abstract_state),
            ),
        )
        return lambda key: state(variables(key))

    def update(self, fit: Fit) -> Program:
        """Returns (state, batch, teacher's logits, key, numbers) -> the state after them.

        The old state must not be used again: on an accelerator its memory is.
        """
        update = functools.partial(update_student, fit.recipe)
        return self._once(
            ("update", fit.recipe),
            lambda: jax.jit(
                update,
                donate_argnums=_donated(0),
                out_shardings=places_of(fit.abstract_state),
            ),
        )

    def _once(self, kind: Any, make: Callable[[], Program]) -> Program:
        if kind not in self._known:
            self._compiling()
            self._known[kind] = make()
        return self._known[kind]


def _donated(argument: int) -> tuple[int, ...]:
    """Returns the arguments that a program may overwrite: the given one, and none on a CPU.

    A CPU has memory for two states, and updating one in place costs 4 % of a step there.
    """
    return () if jax.default_backend() == "cpu" else (argument,)


def places_of(abstract: Any) -> Any:
    """Returns the shardings of a tree of arrays or of their shapes."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract)
