"""Tables of a report, as numbers: for the page, for CSV and for LaTeX."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tabulate
from etils import epath

from mixkd_jax.files import csv_cell, write_text
from mixkd_jax.folder import TEACHER, split_name
from mixkd_jax.report import latex, results
from mixkd_jax.report.intervals import at, interval
from mixkd_jax.report.quantities import CALIBRATION, METRICS, VICINAL, Quantity
from mixkd_jax.report.records import Records

_NUMBERS = ("mean", "std", "ci_low", "ci_high", "n")
_NONE = interval([])


@dataclasses.dataclass(frozen=True)
class Cell:
    """A quantity of a model, or the difference of two, over seeds.

    Attributes:
      quantity: what it is.
      found: as `intervals.interval` returns it; with "won" it is a difference.
    """

    quantity: Quantity
    found: Mapping[str, Any]

    @property
    def is_difference(self) -> bool:
        """Whether it is the difference of two arms."""
        return "won" in self.found

    @property
    def text(self) -> str:
        """The mean, in the heading's unit."""
        mean = self.found["mean"]
        if mean is None:
            return results.MISSING
        return self.quantity.text(mean, signed=self.is_difference)

    @property
    def detail(self) -> str:
        """What is known of the mean: the standard deviation, or the interval of a difference."""
        if self.found["low"] is None:
            return ""
        if not self.is_difference:
            return f"± {self.quantity.size(self.found['std'])}"
        limits = (self.quantity.text(self.found[end], signed=True) for end in ("low", "high"))
        return f"[{', '.join(limits)}]"

    @property
    def won(self) -> str:
        """Of a difference: in how many seeds the first arm is better."""
        if not self.is_difference or not self.found["seeds"]:
            return ""
        return f"{self.found['won']}/{self.found['seeds']}"

    def numbers(self) -> list[str]:
        """Mean, std, limits and number of seeds for CSV, in the unit of the heading."""
        keys = ("mean", "std", "low", "high")
        values = [self.found[key] for key in keys]
        scaled = ["" if v is None else repr(self.quantity.scale * v) for v in values]
        return [*scaled, str(self.found["seeds"])]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of cells.

    Attributes:
      name: of its files.
      caption: what a screen reader says of it.
      headings: of all columns; of the first, what the rows are.
      rows: the row's name, then a `Cell` or a text for each further column.
    """

    name: str
    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]


def every(summary: Mapping[str, Any]) -> dict[str, Table]:
    """Returns all tables that `results.json` has something for, by name."""
    made = [metrics(summary), best(summary), differences(summary)]
    made += [vicinal(summary), calibration(summary)]
    return {table.name: table for table in made if table.rows}


def metrics(summary: Mapping[str, Any]) -> Table:
    """The main table: all metrics of the teacher and of every arm."""
    rows: list[list[Cell | str]] = []
    if summary["teacher"]:
        known = {name: summary["teacher"].get(name) for name in METRICS}
        one = [Cell(METRICS[name], interval(_if_known(value))) for name, value in known.items()]
        rows.append([TEACHER, *one, ""])
    won = {row[0]: row[-1] for row in results.rows(summary)}
    for arm, found in summary["arms"].items():
        seeds = {"seeds": len(summary["seeds"][arm])}
        cells = [Cell(METRICS[name], {**found.get(name, _NONE), **seeds}) for name in METRICS]
        rows.append([arm, *cells, won[arm]])
    headings = ["model", *(metric.heading for metric in METRICS.values())]
    return Table("results", "Metrics on the test images", [*headings, "beats ce: acc, ECE"], rows)


def best(summary: Mapping[str, Any]) -> Table:
    """The metrics of students as they were where they did best on the validation images."""
    rows: list[list[Cell | str]] = []
    for arm, found in summary["best"].items():
        cells = [
            Cell(metric, {**found.get(name, _NONE), "seeds": len(found["steps"])})
            for name, metric in METRICS.items()
        ]
        rows.append([arm, *cells, ", ".join(map(str, found["steps"]))])
    headings = ["model", *(metric.heading for metric in METRICS.values()), "steps"]
    return Table("best", "Metrics on the test set of the best students", headings, rows)


def differences(summary: Mapping[str, Any]) -> Table:
    """Paired differences between arms: mean and 95 % interval, and seeds won."""
    rows = [
        [name, *(Cell(_size(METRICS[metric]), found[metric]) for metric in METRICS)]
        for name, found in summary["differences"].items()
    ]
    headings = ["arms", *(_size(metric).heading for metric in METRICS.values())]
    return Table("differences", "Differences between arms of the same seed", headings, rows)


def vicinal(summary: Mapping[str, Any]) -> Table:
    """What models predict between two test images."""
    return _analysed(summary, "vicinal", "Between two images", VICINAL)


def calibration(summary: Mapping[str, Any]) -> Table:
    """Calibration beyond the ECE."""
    return _analysed(summary, "calibration", "Calibration", CALIBRATION)


def _analysed(
    summary: Mapping[str, Any],
    name: str,
    caption: str,
    columns: Mapping[tuple[str, ...], Quantity],
) -> Table:
    rows = [
        [model, *(Cell(spec, found["/".join(path)]) for path, spec in columns.items())]
        for model, found in summary["analyses"].items()
    ]
    headings = ["model", *(spec.heading for spec in columns.values())]
    return Table(name, caption, headings, rows)


def _if_known(value: float | None) -> list[float]:
    return [] if value is None else [value]


def _size(metric: Quantity) -> Quantity:
    """Returns what is compared of a signed metric: its size, so that less is better."""
    if metric.better != "zero":
        return metric
    return dataclasses.replace(metric, name=f"|{metric.name}|", better="lower", lowest=0)


def write(tables: Iterable[Table], folder: epath.Path) -> None:
    """Writes <name>.csv, <name>.tex and <name>.md of every table."""
    for table in tables:
        write_text(folder / f"{table.name}.csv", _csv(_long(table)))
        write_text(folder / f"{table.name}.tex", latex.render(table))
        write_text(folder / f"{table.name}.md", markdown(table))


def markdown(table: Table) -> str:
    """Returns a table in Markdown: "68.08 ± 0.53", or "+1.20 [+0.40, +2.00], 3/3" of a difference.

    A bar in a name is escaped, so that it ends no cell.
    """

    def text(cell: Cell | str) -> str:
        if isinstance(cell, str):
            return cell.replace("|", "\\|")
        shown = " ".join(filter(None, (cell.text, cell.detail)))
        return ", ".join(filter(None, (shown, cell.won)))

    rows = [[text(cell) for cell in row] for row in table.rows]
    headings = [text(heading) for heading in table.headings]
    align = ("left", *["right"] * (len(headings) - 1))
    body = tabulate.tabulate(rows, headings, "github", disable_numparse=True, colalign=align)
    return f"{body}\n"


def write_values(records: Records, folder: epath.Path) -> None:
    """Writes values.csv: every number of every model, unrounded."""
    write_text(folder / "values.csv", _csv(values(records)))


def values(records: Records) -> list[list[str]]:
    """Every number of every model, one a row, below a row of headings."""
    rows = [["model", "seed", "step", "quantity", "unit", "value"]]
    for name, evaluation in records.evaluations.items():
        arm, seed = split_name(name) or (TEACHER, "")
        where = [csv_cell(arm), str(seed), str(evaluation["step"])]
        analysis = records.analyses.get(name)
        found = [(q, q.name, evaluation["metrics"].get(key)) for key, q in METRICS.items()]
        found += [(q, f"vicinal: {q.name}", at(analysis, *path)) for path, q in VICINAL.items()]
        found += [
            (q, f"calibration: {q.name}", at(analysis, *path)) for path, q in CALIBRATION.items()
        ]
        rows += [
            [*where, text, quantity.unit, repr(quantity.scale * value)]
            for quantity, text, value in found
            if value is not None
        ]
    return rows


def _long(table: Table) -> list[list[str]]:
    """Returns a row for each cell of numbers; a table of texts as it is."""
    cells = [cell for row in table.rows for cell in row[1:] if isinstance(cell, Cell)]
    if not cells:
        texts = [[csv_cell(str(text)) for text in row] for row in table.rows]
        return [list(table.headings), *texts]
    compared = any(cell.is_difference for cell in cells)
    first = ["ours", "theirs"] if compared else ["model"]
    rows = [[*first, "quantity", "unit", *_NUMBERS, *(["won"] if compared else [])]]
    for name, *columns in table.rows:
        names = str(name).split(" - ") if compared else [str(name)]
        for cell in columns:
            if isinstance(cell, Cell):
                quantity = [cell.quantity.name, cell.quantity.unit]
                won = [str(cell.found["won"])] if compared else []
                rows.append([*map(csv_cell, names), *quantity, *cell.numbers(), *won])
    return rows


def _csv(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
