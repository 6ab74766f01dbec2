"""More of a run's analysis than its report has: four tables of its arms.

    python docs/results/cifar10/analysed.py runs/study --table=pairs --out=pairs.json

pairs: L_NL in nats, the entropy at the peak (0.45 < λ < 0.55) in nats, and the probability outside
the pair's classes, for mixed test images of one class and of two. outside: the last one by λ.
corruption: accuracy and confidence - accuracy of the first test images (as many as
`analysis.corrupted_images`), averaged over the corruptions, by severity, 0 being none. learned:
accuracy on images that students learned from, as they are, beside that on test images (1,000 each,
or as many as `analysis.pairs`). Cells are means over seeds with their sample standard deviation.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from seeds import markdown

from mixkd_jax.config import ConfigError
from mixkd_jax.files import write_json
from mixkd_jax.report.intervals import interval
from mixkd_jax.report.records import by_model, read


class Column(NamedTuple):
    """A column of a table: how a value is read off `analysis.json`, and shown."""

    heading: str
    value: Callable[[Any], float]
    scale: float = 100
    digits: int = 1


def _mixed(kind: str, where: str, quantity: str) -> Callable[[Any], float]:
    return lambda found: found["splits"]["test"]["mixed"][kind][where][quantity]["mean"]


def _outside(first: int, last: int) -> Callable[[Any], float]:
    """Returns a function to the mean over the bins of λ from `first` to before `last`, of 20."""

    def mean(found: Any) -> float:
        bins = found["splits"]["test"]["mixed"]["all"]["bins"]["outside"]
        count, means = (np.array(bins[n][first:last], float) for n in ("count", "mean"))
        return float(np.sum(np.where(count > 0, count * means, 0)) / np.sum(count))

    return mean


def _corrupted(measure: str, severity: int) -> Callable[[Any], float]:
    return lambda found: found["corruption"]["scores"]["mean"][measure][severity]


def _accuracy(split: str) -> Callable[[Any], float]:
    return lambda found: found["splits"][split]["real"]["accuracy"]["mean"]


TABLES = {
    "pairs": [
        Column(f"{heading}, {kind}", _mixed(kind, where, quantity), *shown)
        for heading, where, quantity, *shown in (
            ("L_NL", "overall", "nonlinearity", 1, 3),
            ("entropy, peak", "peak", "entropy", 1, 3),
            ("outside %", "overall", "outside"),
        )
        for kind in ("same", "different")
    ],
    "outside": [
        Column(f"outside %, λ {k / 20:g} to {(k + 4) / 20:g}", _outside(k, k + 4))
        for k in range(0, 20, 4)
    ],
    "corruption": [
        Column(f"{heading} at {severity}", _corrupted(measure, severity))
        for heading, measure in (("accuracy %", "accuracy"), ("conf-acc %", "overconfidence"))
        for severity in (0, 1, 3, 5)
    ],
    "learned": [
        Column("accuracy %, learned from", _accuracy("train")),
        Column("accuracy %, test", _accuracy("test")),
        Column("difference", lambda found: _accuracy("train")(found) - _accuracy("test")(found)),
    ],
}


def main() -> None:
    """Prints the table, and writes JSON if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("--table", choices=TABLES, required=True)
    parser.add_argument("--out", help="JSON file to write")
    options = parser.parse_args()
    try:
        records = read(options.run)
    except (FileNotFoundError, ConfigError) as error:
        sys.exit(f"error: {error}")
    found = {
        model: summarized(analyses, options.table)
        for model, analyses in by_model(records, records.analyses).items()
    }
    print(markdown(found, columns_of(options.table)))
    if options.out:
        write_json(options.out, found)


def columns_of(name: str) -> dict[str, tuple[float, int]]:
    """Returns by heading what numbers are multiplied with, and their digits."""
    return {column.heading: (column.scale, column.digits) for column in TABLES[name]}


def summarized(analyses: list[Any], name: str) -> dict[str, Any]:
    """Returns by heading what `intervals.interval` does over seeds; NaN is no value."""
    values = {column.heading: [column.value(each) for each in analyses] for column in TABLES[name]}
    return {
        heading: interval(value for value in each if not math.isnan(value))
        for heading, each in values.items()
    }


if __name__ == "__main__":
    main()
