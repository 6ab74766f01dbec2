"""Metrics of a run folder: one JSON object a line for all models, TensorBoard events for each.

Beside them, which images could not be learned from.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

from etils import epath

from mixkd_jax.files import (
    append_text,
    in_bucket,
    load_json_if_whole,
    write_bytes,
    write_json,
)
from mixkd_jax.folder import Folder

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter


class MetricsLog:
    """Writes `metrics.jsonl` and `tensorboard/<model>/`; only process 0 should have one enabled."""

    def __init__(self, folder: Folder, *, enabled: bool = True):
        """Writes into the folder of a run, or nothing at all if not `enabled`."""
        self.folder = folder
        self.enabled = enabled
        if enabled:
            _loading()

    def start(self, model: str, step: int) -> ModelLog:
        """Opens the log of a model that goes on after `step`: what came later is taken back."""
        lines = self.folder.metrics
        if self.enabled and lines.exists():
            text = lines.read_bytes()
            whole = [line for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
            read = [(line, *_place(line)) for line in whole]
            if unread := sum(own is None for _, own, _ in read):
                print(f"{lines}: {unread} lines of no run are left out", file=sys.stderr)
            kept = b"".join(
                line
                for line, own, at in read
                if own is not None and not (own == model and at > step)
            )
            if kept != text:
                write_bytes(lines, kept)
        return ModelLog(self, model, step)


class ModelLog:
    """The log of one model."""

    def __init__(self, log: MetricsLog, model: str, step: int):
        """Goes on after `step`; see `MetricsLog.start`."""
        self._folder = log.folder
        self._enabled = log.enabled
        self._model = model
        self._step = step
        self._copied_from: tempfile.TemporaryDirectory | None = None
        self._writer: SummaryWriter | None = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line {"run", "step", "time" in Unix seconds, **values}; values are finite."""
        if not self._enabled:
            return
        now = round(time.time(), 3)
        line = {"run": self._model, "step": step, "time": now, **values}
        append_text(self._folder.metrics, json.dumps(line, allow_nan=False) + "\n")
        self._writer = self._writer or self._open_events()
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._copy_events(self._writer)

    def _open_events(self) -> SummaryWriter:
        _loading().join()
        from tensorboardX import SummaryWriter

        # A bucket takes whole files, so that events are written here and copied there.
        local = self._folder.tensorboard / self._model
        if in_bucket(local):
            self._copied_from = tempfile.TemporaryDirectory(prefix="mixkd-")
            local = epath.Path(self._copied_from.name)
        return SummaryWriter(
            str(local),
            # At 0 too, where a run may have been killed before a checkpoint.
            purge_step=self._step + 1,
            flush_secs=1,  # not 120: a run that is killed keeps nearly all its events
            write_to_disk=True,
        )

    def write_skipped(self, names: Set[str]) -> None:
        """Adds the names of broken images to `skipped.json`, a sorted list."""
        file = self._folder.skipped
        if not self._enabled or not names:
            return
        read = load_json_if_whole(file, _are_names, "names are gathered from now on")
        known = set(read or ())
        if not names <= known:
            write_json(file, sorted(names | known))

    def close(self) -> None:
        """Ends the log."""
        if self._writer is not None:
            self._writer.close()
        if self._copied_from is not None:
            self._copied_from.cleanup()

    def _copy_events(self, writer: SummaryWriter) -> None:
        if self._copied_from is None:
            return
        writer.flush()
        for file in epath.Path(self._copied_from.name).iterdir():
            write_bytes(self._folder.tensorboard / self._model / file.name, file.read_bytes())


@functools.cache
def _loading() -> threading.Thread:
    """Begins to import tensorboardX, while programs are compiled: it imports PyTorch if it can.

    Once: two threads that import the same modules may see them half made, and fail for good.
    """
    load = functools.partial(importlib.import_module, "tensorboardX")
    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    return thread


def _are_names(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(name, str) for name in found)


def _place(line: bytes) -> tuple[str | None, int]:
    """Returns the model and the step that a line is of; None and 0 if it is none of a run."""
    try:
        written: Any = json.loads(line)
        return str(written["run"]), int(written["step"])
    except (ValueError, KeyError, TypeError):
        return None, 0
