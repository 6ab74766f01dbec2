"""What the models of a run say between images of one class, and between images of two.

    python docs/results/cifar10/pairs.py runs/study --out=pairs.json

Of the mixed test images of the run's analysis: L_NL in nats, the entropy at the peak (0.45 < λ <
0.55) in nats, and the probability outside the pair's classes, each for pairs of the same class and
for pairs of different ones; means over seeds, with their sample standard deviation.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import tabulate

from mixkd_jax.config import ConfigError
from mixkd_jax.files import write_json
from mixkd_jax.report.intervals import interval
from mixkd_jax.report.records import by_model, read

# Name of a quantity, which λ, and the factor and the digits of its cells, by heading.
QUANTITIES = {
    "L_NL": ("nonlinearity", "overall", 1, 3),
    "entropy, peak": ("entropy", "peak", 1, 3),
    "outside %": ("outside", "overall", 100, 1),
}
HEADINGS = [(name, pairs) for name in QUANTITIES for pairs in ("same", "different")]


def main() -> None:
    """Prints the table, and writes JSON if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("--out", help="JSON file to write")
    options = parser.parse_args()
    try:
        records = read(options.run)
    except (FileNotFoundError, ConfigError) as error:
        sys.exit(f"error: {error}")
    found = {
        model: {f"{name}, {pairs}": over_seeds(analyses, pairs, name) for name, pairs in HEADINGS}
        for model, analyses in by_model(records, records.analyses).items()
    }
    print(table(found))
    if options.out:
        write_json(options.out, found)


def over_seeds(analyses: list[Any], pairs: str, name: str) -> dict[str, Any]:
    """Returns what `intervals.interval` does of a quantity, for "same" or "different" pairs."""
    quantity, where, *_ = QUANTITIES[name]
    mixed = [analysis["splits"]["test"]["mixed"][pairs][where] for analysis in analyses]
    return interval([each[quantity]["mean"] for each in mixed])


def table(found: dict[str, dict[str, Any]]) -> str:
    """Returns a table in Markdown: mean ± standard deviation over seeds."""

    def cell(heading: str, spread: dict[str, Any]) -> str:
        *_, scale, digits = QUANTITIES[heading.rpartition(", ")[0]]
        text = f"{scale * spread['mean']:.{digits}f}"
        return text if spread["std"] is None else f"{text} ± {scale * spread['std']:.{digits}f}"

    rows = [
        [model, *(cell(h, spread) for h, spread in row.items())] for model, row in found.items()
    ]
    headings = ["model", *(", ".join(both) for both in HEADINGS)]
    align = ("left", *["right"] * len(HEADINGS))
    return tabulate.tabulate(rows, headings, "github", disable_numparse=True, colalign=align)


if __name__ == "__main__":
    main()
