"""What the scripts beside it share: the models of a finished run by arm, and tables over seeds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import tabulate

from mixkd_jax import data
from mixkd_jax.config import ConfigError
from mixkd_jax.folder import TEACHER, Folder, student_name
from mixkd_jax.report.records import read


def models_of(
    run: str, arms: Sequence[str] | None = None
) -> tuple[dict[str, list[os.PathLike[str]]], data.Split]:
    """Returns the folders of a run's models, one a seed, and its test images.

    Args:
      run: the folder of a finished run.
      arms: of the run; all of them if None. The teacher comes first in any case.

    Raises:
      ConfigError: for an arm that the run doesn't have.
    """
    records, folder = read(run), Folder.at(run)
    models: dict[str, list[os.PathLike[str]]] = {TEACHER: [folder.model(TEACHER).path]}
    for arm in arms or records.arms:
        if not records.seeds(arm):
            raise ConfigError(f"--arms: expected arms of {run}, got {arm}")
        names = [student_name(arm, seed) for seed in records.seeds(arm)]
        models[arm] = [folder.model(name).path for name in names]
    of_run = records.config["data"]
    found = data.load(of_run["name"], data_dir=of_run["dir"], download=of_run["download"])
    return models, found.test


def markdown(
    found: Mapping[str, Mapping[str, Mapping[str, Any]]], columns: Mapping[str, tuple[float, int]]
) -> str:
    """Returns a table in Markdown: mean ± sample standard deviation over seeds.

    Args:
      found: by model and heading what `report.intervals.interval` returns; a mean of None is empty.
      columns: by heading what its numbers are multiplied with, and their digits.
    """

    def cell(spread: Mapping[str, Any], scale: float, digits: int) -> str:
        if spread["mean"] is None:
            return ""
        text = f"{scale * spread['mean']:.{digits}f}"
        return text if spread["std"] is None else f"{text} ± {scale * spread['std']:.{digits}f}"

    rows = [
        [model, *(cell(row[heading], *shown) for heading, shown in columns.items())]
        for model, row in found.items()
    ]
    align = ("left", *["right"] * len(columns))
    return tabulate.tabulate(
        rows, ["model", *columns], "github", disable_numparse=True, colalign=align
    )
