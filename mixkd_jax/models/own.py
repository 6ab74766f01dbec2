"""Models of a user's own, named by where they are made: "package.module:factory"."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

CONTRACT = """\
a factory takes num_classes and dtype by name and returns a flax.linen.Module: its
__call__(images, train=False) maps f32[B, H, W, C] to logits f32[B, num_classes], its parameters are
float32 whatever dtype it computes in, its variables are "params" and, if it has BatchNorm,
"batch_stats", and dropout draws from the stream "dropout". A method features(images, train=False)
that __call__ calls may give the input of the classifier [B, ...]; without one the analysis leaves
out what is said of representations"""


def create(name: str, *, num_classes: int, dtype: Any) -> nn.Module:
    """Returns the module that a factory makes.

    Args:
      name: "package.module:factory"; the package must be importable, as by PYTHONPATH.
      num_classes: number of logits.
      dtype: of the computation.

    Raises:
      ValueError: if it can't be imported or makes something else; the message says what it must be.
    """
    where, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(where)
    except Exception as error:  # whatever the user's module raises
        raise ValueError(
            f"{name}: can't import {where} ({type(error).__name__}: {error}); is its folder on "
            "PYTHONPATH?"
        ) from error
    factory = getattr(found, attribute, None)
    if not callable(factory):
        raise ValueError(f"{name}: expected a factory called {attribute!r} in {where}, found none")
    try:
        module = factory(num_classes=num_classes, dtype=dtype)
    except TypeError as error:
        raise ValueError(f"{name}: {error}; {CONTRACT}") from error
    if not isinstance(module, nn.Module):
        raise ValueError(f"{name}: got {type(module).__name__}; {CONTRACT}")
    return module


def check(name: str, module: nn.Module, image_shape: tuple[int, ...], num_classes: int) -> None:
    """Raises ValueError if a module isn't what `CONTRACT` says; only traces it."""
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)

    def fail(problem: str) -> ValueError:
        return ValueError(f"{name}: {problem}; {CONTRACT}")

    try:
        variables: Any = jax.eval_shape(functools.partial(module.init, train=False), key, images)
        if extra := sorted(set(variables) - {"params", "batch_stats"}):
            raise fail(f"got variables {', '.join(extra)}")
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
            if leaf.dtype != jnp.float32:
                raise fail(f"got {leaf.dtype} at {jax.tree_util.keystr(path)}")
        evaluated: Any = jax.eval_shape(
            functools.partial(module.apply, train=False), variables, images
        )
        trained: Any = jax.eval_shape(
            lambda v, x, k: module.apply(
                v, x, train=True, rngs={"dropout": k}, mutable=["batch_stats"]
            )[0],
            variables,
            images,
            key,
        )
    except ValueError:
        raise
    except Exception as error:  # whatever the user's module raises
        raise fail(f"{type(error).__name__}: {error}") from error
    for logits in (evaluated, trained):
        shape, dtype = getattr(logits, "shape", None), getattr(logits, "dtype", None)
        if shape != (2, num_classes) or dtype != jnp.float32:
            raise fail(f"got logits {dtype}{list(shape or ())} for 2 images")
