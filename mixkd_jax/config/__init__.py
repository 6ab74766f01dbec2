"""The config: every field of a run, with its type, default, meaning and bounds.

`python -m mixkd_jax.config` prints them all as docs/config.md has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mixkd_jax.config import fields
from mixkd_jax.config.data import Data, Mixup
from mixkd_jax.config.duration import Duration
from mixkd_jax.config.experiment import Analysis, Checkpoint, Evaluation, Experiment, Log
from mixkd_jax.config.fields import choose
from mixkd_jax.config.loss import Loss
from mixkd_jax.config.training import Optimizer, Schedule, Training
from mixkd_jax.errors import ConfigError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

__all__ = [
    "Analysis",
    "Checkpoint",
    "ConfigError",
    "Data",
    "Duration",
    "Evaluation",
    "Experiment",
    "Log",
    "Loss",
    "Mixup",
    "Optimizer",
    "Schedule",
    "Training",
    "choose",
    "get_defaults",
    "markdown",
    "parse",
    "rows",
]


def get_defaults() -> ConfigDict:
    """Returns the defaults: the paper's loss and mixup, on no data in particular."""
    from ml_collections import ConfigDict

    return ConfigDict(fields.defaults(Experiment))


def parse(values: Mapping[str, Any]) -> Experiment:
    """Checks a config's values and returns them as an `Experiment`.

    Args:
      values: all fields, as a `ConfigDict` or nested dictionaries.

    Raises:
      ConfigError: at the first field that is missing, unknown, of a wrong type or out of range.
    """
    return fields.build(Experiment, values, "config")


def rows() -> list[fields.Row]:
    """Returns all fields, for people to read."""
    return list(fields.rows(Experiment))


def markdown() -> str:
    """Returns docs/config.md."""
    lines = [
        "# Config fields",
        "",
        "Made by `python -m mixkd_jax.config > docs/config.md` from `mixkd_jax/config/`. Any field",
        "can be set on the command line, as in `--config.student.batch_size=128`. Durations are",
        'text: "240 epochs", "1500 steps" or "2e6 examples". The last column says what a field',
        "changes in a run: its folder takes other values of all but those that change its models,",
        "and more arms and seeds.",
        "",
        "| field | default | meaning | expected | changes |",
        "|---|---|---|---|---|",
    ]
    for row in rows():
        cells = (f"`{row.path}`", f"`{row.default}`", row.meaning, row.expected, row.changes)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
