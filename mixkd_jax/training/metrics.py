"""Metrics of a run folder: one JSON object a line for all models, TensorBoard events for each.

Beside them, which images could not be learned from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from typing import Any

from etils import epath
from tensorboardX import SummaryWriter

from mixkd_jax.files import write_json, write_text


class MetricsLog:
    """Writes `metrics.jsonl` and `tensorboard/<run>/`; only process 0 should have one enabled."""

    def __init__(self, workdir: epath.Path, *, enabled: bool = True):
        """Writes below `workdir`, or nothing at all if not `enabled`."""
        self._skipped = workdir / "skipped.json"
        self._lines = workdir / "metrics.jsonl"
        self._events = workdir / "tensorboard"
        self._enabled = enabled
        self._writer: SummaryWriter | None = None

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
        self._writer = SummaryWriter(
            str(self._events / run),
            purge_step=step + 1 if step else None,
            flush_secs=1,  # not 120: a run that is killed keeps nearly all its events
            write_to_disk=True,
        )

    def write(self, run: str, step: int, values: Mapping[str, float]) -> None:
        """Adds a line {"run", "step", **values}; values are finite."""
        if self._writer is None:
            return
        line = json.dumps({"run": run, "step": step, **values}, allow_nan=False)
        with self._lines.open("a") as file:
            file.write(line + "\n")
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

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


def _is_later(line: Mapping[str, Any], run: str, step: int) -> bool:
    return line["run"] == run and line["step"] > step
