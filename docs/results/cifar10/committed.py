"""The tables of a study from what is committed of it, as they stand on the page.

    python docs/results/cifar10/committed.py docs/results/cifar10/medium

Prints those of `results.json`, which `--mode=report` writes too, and those of the scripts beside.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import analysed
import seeds
import softness
import unfamiliar
from etils import epath

from mixkd_jax.report import tables
from mixkd_jax.report.shapes import ShapeError, load

COLUMNS = {name: analysed.columns_of(name) for name in analysed.TABLES}
COLUMNS |= {"unfamiliar": unfamiliar.COLUMNS, "softness": softness.COLUMNS}


def main() -> None:
    """Prints every table under its name."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("study", type=pathlib.Path, help="a folder with results.json")
    study = epath.Path(parser.parse_args().study)
    try:
        made = of_run(study / "results.json")
    except ShapeError as error:
        sys.exit(f"error: {study / 'results.json'}: {error}")
    files = sorted(study.glob("*.json"))
    made |= {file.stem: of_script(file) for file in files if file.stem in COLUMNS}
    for name, table in made.items():
        print(f"{name}\n\n{table.strip()}\n")


def of_run(file: epath.Path) -> dict[str, str]:
    """Returns the tables of a `results.json` by name, in Markdown."""
    return {name: tables.markdown(table) for name, table in tables.every(load(file)).items()}


def of_script(file: epath.Path) -> str:
    """Returns the table of what a script has written, in Markdown."""
    return seeds.markdown(load(file), COLUMNS[file.stem])


if __name__ == "__main__":
    main()
