"""Checkpoints of one model's training, kept by orbax and restored exactly or not at all."""

from __future__ import annotations

import itertools
import os
import sys
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from flax import serialization, traverse_util

from mixkd_jax.files import write_text
from mixkd_jax.models.network import Variables
from mixkd_jax.training.state import TrainState


class CheckpointError(ValueError):
    """A checkpoint that doesn't fit the state it is restored into."""


class _Damaged(Exception):
    """A checkpoint that can't be read, or isn't what was saved."""


class _Manager(ocp.CheckpointManager):
    """Orbax's, which leaves it to `preemption.StopRequest` to ask for a preemption notice.

    Processes agree on when to stop by the number that they ask with, which has to rise: orbax would
    ask with each model's own step, and a notice that came then would pass unseen.
    """

    def reached_preemption(self, step: int) -> bool:
        """Whether orbax is to save because of a notice: never."""
        del step
        return False


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
        # The models of a group are saved at one step and at one time: without names of their own,
        # the barriers of one among many processes would be taken for another's.
        barriers = ocp.options.MultiprocessingOptions(
            barrier_sync_key_prefix=os.fspath(self._folder)
        )
        self._manager = _Manager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, multiprocessing_options=barriers
            ),
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "config": ocp.JsonCheckpointHandler(),
                "fingerprints": ocp.JsonCheckpointHandler(),
            },
        )

    def latest(self) -> int | None:
        """Returns the newest checkpoint's step; None if there never was one.

        Raises:
          CheckpointError: if all were damaged, and moved aside by an earlier command.
        """
        step = self._manager.latest_step()
        if step is None and any(self._folder.glob("damaged-[0-9]*")):
            raise self._none_is_whole()
        return step

    def save(self, state: TrainState) -> None:
        """Saves in the background; returns when the state may be donated."""
        tree = serialization.to_state_dict(state)
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(tree),  # pyright: ignore[reportCallIssue]
                config=ocp.args.JsonSave(self._config),  # pyright: ignore[reportCallIssue]
                fingerprints=ocp.args.JsonSave(fingerprints(tree)),  # pyright: ignore[reportCallIssue]
            ),
        )

    def restore(self, like: TrainState) -> TrainState:
        """Returns the newest state, laid out as `like` is.

        A damaged checkpoint is told of, moved aside, and the one before it taken: one that can't be
        read, or with an array that isn't what was saved. A text file beside it says which. With
        many processes, which would have to agree on it, a damaged one is an error.

        Raises:
          CheckpointError: if there is none, none that is whole, or a name, shape or dtype differs;
            orbax alone would cast dtypes.
        """
        _, restored = self._newest_whole(serialization.to_state_dict(like), alone=True)
        return serialization.from_state_dict(like, restored)  # pyright: ignore[reportReturnType]

    def restore_variables(self, like: Variables) -> tuple[int, Variables]:
        """Returns the step and the variables of the newest state, laid out as `like` is.

        What the optimizer keeps isn't read, and damage to it isn't seen. Errors and other damage
        are as in `restore`.
        """
        step, restored = self._newest_whole(_parts_of(like), alone=False)
        return step, {name: restored[name] for name in like}

    def _newest_whole(self, wanted: dict[str, Any], *, alone: bool) -> tuple[int, dict[str, Any]]:
        """Returns the step of the newest checkpoint that is whole, and its parts; see `_read`."""
        self._manager.wait_until_finished()  # with the newest one, if this very object saves it
        step = self.latest()
        if step is None:
            raise CheckpointError(f"expected a checkpoint in {self._folder}, found none")
        while step is not None:
            path = self._folder / str(step)
            try:
                return step, _read(path, wanted, alone=alone)
            except _Damaged as error:
                if jax.process_count() > 1:
                    raise CheckpointError(
                        f"checkpoint {path} is damaged: {error}; move it away to go on from the "
                        "one before"
                    ) from None
                aside = self._move_aside(step)
                step = self._manager.latest_step()
                instead = "none is left" if step is None else f"step {step:,} is taken instead"
                print(f"damaged: {aside}: {error}; {instead}", file=sys.stderr, flush=True)
                write_text(aside.with_name(f"{aside.name}.txt"), f"{error}; {instead}")
        raise self._none_is_whole()

    def _none_is_whole(self) -> CheckpointError:
        return CheckpointError(
            f"{self._folder}: every checkpoint is damaged; they were moved aside and none was "
            "deleted. Move the model's folder away to train it anew"
        )

    def _move_aside(self, step: int) -> epath.Path:
        """Renames a checkpoint's folder to a name that isn't a step's; returns the new path."""
        aside = next(
            path
            for path in (self._folder / f"damaged-{step}-{k}" for k in itertools.count())
            if not path.exists()
        )
        (self._folder / str(step)).rename(aside)
        self._manager.reload()
        return aside

    def __enter__(self) -> Checkpoints:
        """Returns itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits for what is being saved."""
        self._manager.wait_until_finished()
        self._manager.close()


def _check(checkpoint: epath.Path, wanted: dict[str, str], stored: dict[str, str]) -> None:
    wrong = [f"{name} is not in it" for name in wanted if name not in stored]
    wrong += [f"{name} is not in the model" for name in stored if name not in wanted]
    wrong += [
        f"{name} is {stored[name]}, expected {wanted[name]}"
        for name in wanted
        if name in stored and stored[name] != wanted[name]
    ]
    if wrong:
        raise CheckpointError(f"checkpoint {checkpoint} doesn't fit: {'; '.join(wrong)}")


def read_variables(folder: str | epath.Path, like: Variables) -> tuple[int, Variables]:
    """Returns the step and the variables of the newest checkpoint in a folder; writes nothing.

    What the optimizer keeps isn't read.

    Args:
      folder: of one model.
      like: arrays or their shapes, as `TrainState.variables` has them.

    Raises:
      CheckpointError: if there is none, it is damaged, or a name, shape or dtype differs.
    """
    folder = epath.Path(folder)
    steps = ocp.utils.checkpoint_steps(folder) if folder.exists() else []
    if not steps:
        raise CheckpointError(f"expected a checkpoint in {folder}, found none")
    path = folder / str(max(steps))
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), _parts_of(like)
    )
    try:
        restored = _read(path, wanted, alone=False)
    except _Damaged as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from None
    return max(steps), {name: restored[name] for name in wanted if restored[name]}


def _parts_of(variables: Variables) -> dict[str, Any]:
    """Returns the parts of a state's tree that are a model's variables."""
    return {"batch_stats": {}, **serialization.to_state_dict(variables)}


def _read(checkpoint: epath.Path, wanted: dict[str, Any], *, alone: bool) -> dict[str, Any]:
    """Returns the parts of a state's tree that `wanted` names, laid out as it has them.

    Args:
      checkpoint: its folder.
      wanted: shapes, dtypes and shardings.
      alone: whether the checkpoint may have no part beside them.

    Raises:
      CheckpointError: if a name, shape or dtype differs.
      _Damaged: if they can't be read, or aren't what was saved.
    """
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree: Any = handler.metadata(checkpoint / "state")
        tree = getattr(tree, "tree", tree)
        stored = _kinds(tree if alone else {name: tree.get(name, {}) for name in wanted})
    except Exception as error:  # orbax and tensorstore raise all kinds
        raise _Damaged(f"its description can't be read ({_first_line(error)})") from None
    _check(checkpoint, _kinds(wanted), stored)
    item = jax.tree.map(ocp.utils.to_shape_dtype_struct, wanted)
    places = ocp.checkpoint_utils.construct_restore_args(item)
    args = ocp.args.PyTreeRestore(item, places, partial_restore=True)  # pyright: ignore[reportCallIssue]
    try:
        restored: Any = handler.restore(checkpoint / "state", args=args)
        saved: Any = ocp.JsonCheckpointHandler().restore(checkpoint / "fingerprints")
    except Exception as error:
        raise _Damaged(f"it can't be read ({_first_line(error)})") from None
    wrong = [name for name, found in fingerprints(restored).items() if saved.get(name) != found]
    if wrong:
        raise _Damaged(f"{len(wrong)} arrays are not what was saved, {wrong[0]} among them")
    return restored


def _kinds(tree: Any) -> dict[str, str]:
    """Returns {name: "dtype[shape]"} of every array."""
    flat: dict[str, Any] = traverse_util.flatten_dict(tree, sep="/")  # pyright: ignore[reportAssignmentType]
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in flat.items()}


def fingerprints(tree: Any) -> dict[str, int]:
    """Returns a number for every array, which any flipped bit changes.

    The bits of each element times an odd number that tells its place, added up modulo 2^32: on the
    devices, wherever the parts of an array lie, and the same on any number of them.
    """
    flat: dict[str, Any] = traverse_util.flatten_dict(tree, sep="/")  # pyright: ignore[reportAssignmentType]
    return {name: int(number) for name, number in jax.device_get(_fingerprints(flat)).items()}


@jax.jit
def _fingerprints(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    def fingerprint(array: jax.Array) -> jax.Array:
        width = {1: jnp.uint8, 2: jnp.uint16}.get(array.dtype.itemsize, jnp.uint32)
        bits = jax.lax.bitcast_convert_type(array, width).astype(jnp.uint32).ravel()
        place = 2 * jax.lax.iota(jnp.uint32, bits.size) + 1
        return jnp.sum(bits * place, dtype=jnp.uint32)

    return {name: fingerprint(array) for name, array in arrays.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
