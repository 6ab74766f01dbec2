"""Tables of a run: the same cells for the report, for CSV and for LaTeX, and all numbers as CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Sequence
from typing import Any

import tabulate
from etils import epath

from mixkd_jax.report import comparison, results
from mixkd_jax.report.comparison import at
from mixkd_jax.report.metrics import METRICS
from mixkd_jax.report.run_folder import RunFolder, split_run
from mixkd_jax.files import write_text

_PEAK = ("splits", "test", "mixed", "all", "peak")
_OVERALL = ("splits", "test", "mixed", "all", "overall")
# heading -> where in analysis.json; decimals
VICINAL = {
    "L_NL": ((*_OVERALL, "nonlinearity", "mean"), 3),
    "L_NL, peak": ((*_PEAK, "nonlinearity", "mean"), 3),
    "gain, peak": ((*_PEAK, "linearity_gain", "mean"), 3),
    "entropy, peak": ((*_PEAK, "entropy", "mean"), 3),
    "KL mixed": ((*_OVERALL, "kl_teacher", "mean"), 3),
    "KL real": (("splits", "test", "real", "kl_teacher", "mean"), 3),
    "agree mixed": ((*_OVERALL, "agreement", "mean"), 3),
    "agree real": (("splits", "test", "real", "agreement", "mean"), 3),
    "CKA mixed": (("splits", "test", "cka", "mixed"), 3),
    "CKA real": (("splits", "test", "cka", "real"), 3),
    "straightness": (("splits", "test", "straightness", "mean"), 3),
}
CALIBRATION = {
    "ECE": (("calibration", "scores", "ece"), 4),
    "adaptive": (("calibration", "scores", "adaptive_ece"), 4),
    "classwise": (("calibration", "scores", "classwise_ece"), 4),
    "AURC": (("calibration", "scores", "aurc"), 4),
    "T": (("calibration", "temperature"), 2),
    "ECE at T": (("calibration", "scaled", "ece"), 4),
    "NLL": (("calibration", "scores", "nll"), 3),
    "NLL at T": (("calibration", "scaled", "nll"), 3),
}


@dataclasses.dataclass(frozen=True)
class Table:
    """Text cells.

    Attributes:
      name: of its files.
      headings: of all columns.
      rows: cells; the first of each row names it.
    """

    name: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def metrics(summary: dict[str, Any]) -> Table:
    """The main table, as it is printed at the end of a run."""
    headings = ["model", *(metric.heading for metric in METRICS.values()), "beats ce (acc, ECE)"]
    return Table("results", headings, results.rows(summary))


def differences(summary: dict[str, Any]) -> Table:
    """Paired differences between arms: mean and 95 % interval, and seeds won."""
    rows = []
    for name, found in summary["differences"].items():
        cells = [_difference(metric, found[metric]) for metric in METRICS]
        rows.append([name, *cells])
    headings = [
        f"|{metric.heading}|" if metric.better == "zero" else metric.heading
        for metric in METRICS.values()
    ]
    return Table("differences", ["arms", *headings], rows)


def analysed(folder: RunFolder, name: str, columns: dict[str, Any]) -> Table:
    """Numbers of `analysis.json`: `columns` is `VICINAL` or `CALIBRATION`."""
    rows = []
    if "teacher" in folder.analyses:
        teacher = folder.analyses["teacher"]
        rows.append(["teacher", *(_cell([at(teacher, *p)], d) for p, d in columns.values())])
    for arm in folder.arms():
        seeds = [comparison.analysis_values(folder, arm, *path) for path, _ in columns.values()]
        if any(seeds):
            digits = [decimals for _, decimals in columns.values()]
            cells = (_cell(list(s.values()), d) for s, d in zip(seeds, digits, strict=True))
            rows.append([arm, *cells])
    return Table(name, ["model", *columns], rows)


def values(folder: RunFolder) -> Table:
    """Every number, unrounded, one a row: model, seed, quantity, value."""
    rows = []
    for run, evaluation in folder.evaluations.items():
        arm, seed = split_run(run)
        found = {name: evaluation["metrics"].get(name) for name in METRICS}
        analysis = folder.analyses.get(run)
        found |= {f"vicinal: {name}": at(analysis, *path) for name, (path, _) in VICINAL.items()}
        found |= {
            f"calibration: {name}": at(analysis, *path) for name, (path, _) in CALIBRATION.items()
        }
        where = [arm or "teacher", str(seed) if arm else ""]
        rows += [[*where, name, repr(value)] for name, value in found.items() if value is not None]
    return Table("values", ["model", "seed", "quantity", "value"], rows)


def write(tables: Iterable[Table], folder: epath.Path) -> None:
    """Writes <name>.csv of every table, and <name>.tex (booktabs) of all but "values"."""
    for table in tables:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([table.headings, *table.rows])
        write_text(folder / f"{table.name}.csv", text.getvalue())
        if table.name != "values":
            tex = tabulate.tabulate(
                table.rows,
                headers=table.headings,
                tablefmt="latex_booktabs",
                disable_numparse=True,
                colalign=("left", *["right"] * (len(table.headings) - 1)),
            )
            write_text(folder / f"{table.name}.tex", tex + "\n")


def _cell(known: list[float | None], decimals: int) -> str:
    if not known or None in known:
        return results.MISSING
    found = comparison.interval(x for x in known if x is not None)
    text = f"{found['mean']:.{decimals}f}"
    if found["low"] is None:
        return text
    return f"{text} ± {found['mean'] - found['low']:.{decimals}f}"


def _difference(metric: str, found: dict[str, Any]) -> str:
    if found["mean"] is None:
        return results.MISSING
    spec = METRICS[metric]
    text = f"{found['mean'] * spec.scale:+.{spec.decimals}f}"
    if found["low"] is not None:
        half = (found["mean"] - found["low"]) * spec.scale
        text += f" ± {half:.{spec.decimals}f}"
    return f"{text} ({found['won']}/{found['seeds']})"
