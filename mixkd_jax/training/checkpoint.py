"""Checkpoints of one model's training, kept by orbax and restored exactly or not at all."""

from __future__ import annotations

from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization, traverse_util

from mixkd_jax.training.state import TrainState


class CheckpointError(ValueError):
    """A checkpoint that doesn't fit the state it is restored into."""


class Checkpoints:
    """The newest checkpoints in a folder; on many hosts every process calls every method."""

    def __init__(self, folder: str | epath.Path, *, keep: int, config: dict[str, Any]):
        """Opens or creates a folder.

        Args:
          folder: absolute, local or in a bucket.
          keep: how many of the newest checkpoints stay.
          config: written beside each state.
        """
        self._folder = epath.Path(folder)
        self._config = config
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "config": ocp.JsonCheckpointHandler(),
            },
        )

    def latest(self) -> int | None:
        """Returns the newest checkpoint's step."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Saves in the background; returns when the state may be donated."""
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(serialization.to_state_dict(state)),  # pyright: ignore[reportCallIssue]
                config=ocp.args.JsonSave(self._config),  # pyright: ignore[reportCallIssue]
            ),
        )

    def restore(self, like: TrainState) -> TrainState:
        """Returns the newest state, laid out as `like` is.

        Raises:
          CheckpointError: if there is none, or a name, shape or dtype differs; orbax alone would
            cast dtypes.
        """
        self._manager.wait_until_finished()  # with the newest one, if this very object saves it
        step = self.latest()
        if step is None:
            raise CheckpointError(f"expected a checkpoint in {self._folder}, found none")
        wanted = serialization.to_state_dict(like)
        stored: Any = self._manager.item_metadata(step)["state"]
        self._check(step, wanted, stored.tree if hasattr(stored, "tree") else stored)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract)),  # pyright: ignore[reportCallIssue]
        )
        return serialization.from_state_dict(like, restored["state"])  # pyright: ignore[reportReturnType]

    def _check(self, step: int, wanted: Any, stored: Any) -> None:
        wanted, stored = _kinds(wanted), _kinds(stored)
        wrong = [f"{name} is not in it" for name in wanted if name not in stored]
        wrong += [f"{name} is not in the model" for name in stored if name not in wanted]
        wrong += [
            f"{name} is {stored[name]}, expected {wanted[name]}"
            for name in wanted
            if name in stored and stored[name] != wanted[name]
        ]
        if wrong:
            raise CheckpointError(
                f"checkpoint {self._folder / str(step)} doesn't fit: {'; '.join(wrong)}"
            )

    def __enter__(self) -> Checkpoints:
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for what is being saved."""
        self._manager.wait_until_finished()
        self._manager.close()


def _kinds(tree: Any) -> dict[str, str]:
    """Returns {name: "dtype[shape]"} of every array."""
    flat: dict[str, Any] = traverse_util.flatten_dict(tree, sep="/")  # pyright: ignore[reportAssignmentType]
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in flat.items()}
