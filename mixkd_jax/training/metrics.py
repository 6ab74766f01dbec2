"""Metrics of a run folder: one JSON object a line for all models, TensorBoard events for each.

Beside them, which images could not be learned from.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Set
from typing import Any

from etils import epath
from tensorboardX import SummaryWriter

from mixkd_jax.files import append_text, in_bucket, write_bytes, write_json, write_text


class MetricsLog:
    """Writes `metrics.jsonl` and `tensorboard/<run>/`; only process 0 should have one enabled."""

    def __init__(self, workdir: epath.Path, *, enabled: bool = True):
        """Writes below `workdir`, or nothing at all if not `enabled`."""
        self._skipped = workdir / "skipped.json"
        self._lines = workdir / "metrics.jsonl"
        self._events = workdir / "tensorboard"
        self._enabled = enabled
        self._writer: SummaryWriter | None = None
        self._run = ""
        self._copied_from: tempfile.TemporaryDirectory | None = None

    def start(self, run: str, step: int) -> None:
        """Opens the log of a model that goes on after `step`: what came later is taken back."""
        if not self._enabled:
            return
        if self._lines.exists():
            text = self._lines.read_text()
            kept = "".join(
                line
                for line in text.splitlines(keepends=True)
                if line.endswith("\n") and not _is_later(json.loads(line), run, step)
            )
            if kept != text:
                write_text(self._lines, kept)
        # A bucket takes whole files, so that events are written here and copied there.
        local = self._events / run
        if in_bucket(local):
            self._copied_from = tempfile.TemporaryDirectory(prefix="mixkd-")
            local = epath.Path(self._copied_from.name)
        self._run = run
        self._writer = SummaryWriter(
            str(local),
            purge_step=step + 1 if step else None,
            flush_secs=1,  # not 120: a run that is killed keeps nearly all its events
            write_to_disk=True,
        )

    def write(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """Adds a line {"run", "step", **values}; values are finite."""
        if self._writer is None:
            return
        line = json.dumps({"run": run, "step": step, **values}, allow_nan=False)
        append_text(self._lines, line + "\n")
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._copy_events(self._writer)

    def write_skipped(self, names: Set[str]) -> None:
        """Adds the names of broken images to `skipped.json`, a sorted list."""
        if not self._enabled or not names:
            return
        known = set(json.loads(self._skipped.read_text())) if self._skipped.exists() else set()
        if not names <= known:
            write_json(self._skipped, sorted(names | known))

    def close(self) -> None:
        """Ends the log of the model that was started last."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._copied_from is not None:
            self._copied_from.cleanup()
            self._copied_from = None

    def _copy_events(self, writer: SummaryWriter) -> None:
        if self._copied_from is None:
            return
        writer.flush()
        for file in epath.Path(self._copied_from.name).iterdir():
            write_bytes(self._events / self._run / file.name, file.read_bytes())


def _is_later(line: Mapping[str, Any], run: str, step: int) -> bool:
    return line["run"] == run and line["step"] > step
