import csv
import re

import numpy as np
import pytest
import run_folders
from scipy import stats

from mixkd_jax.report import intervals, results, tables
from mixkd_jax.report.quantities import CALIBRATION, METRICS, VICINAL
from mixkd_jax.report.records import read


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    written = run_folders.make(root, arms=("ce", "mixkd"), seeds=3)
    return root, written, run_folders.add_analyses(root, written)


def text(cell):
    return cell if isinstance(cell, str) else " ".join(filter(None, (cell.text, cell.detail)))


@pytest.mark.parametrize(
    ("make", "columns"), [(tables.vicinal, VICINAL), (tables.calibration, CALIBRATION)]
)
def test_cells_are_means_and_deviations(made, make, columns):
    root, _, analyses = made
    table = make(results.collect(root))
    assert [row[0] for row in table.rows] == ["teacher", "ce", "mixkd"]
    for column, (path, quantity) in enumerate(columns.items(), 1):
        values = [intervals.at(analyses[f"arms/mixkd/{s}"], *path) for s in range(3)]
        scaled = np.array(values) * (100 if "%" in table.headings[column] else 1)
        digits = quantity.decimals
        expected = f"{scaled.mean():.{digits}f} ± {scaled.std(ddof=1):.{digits}f}"
        assert text(table.rows[2][column]) == expected
        value = intervals.at(analyses["teacher"], *path)
        expected = "-" if value is None else f"{value * quantity.scale:.{digits}f}"
        assert text(table.rows[0][column]) == expected


def test_differences_show_mean_interval_and_wins(made):
    root, written, _ = made
    table = tables.differences(results.collect(root))
    a, b = (
        np.array([written[f"arms/{arm}/{s}"]["metrics"]["accuracy"] for s in range(3)])
        for arm in ("mixkd", "ce")
    )
    half = 100 * stats.t.ppf(0.975, 2) * stats.sem(a - b)
    mean = 100 * (a - b).mean()
    name, cell = table.rows[0][:2]
    assert name == "mixkd - ce" and not isinstance(cell, str)
    assert text(cell) == f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"
    assert cell.won == f"{np.sum(a > b)}/3"
    assert table.headings[3] == "|conf-acc| %"


def test_csv_has_numbers(made, tmp_path):
    root, written, _ = made
    records = read(root)
    summary = results.summarize(records)
    tables.write([tables.metrics(summary), tables.differences(summary)], tmp_path)
    with (tmp_path / "results.csv").open() as file:
        rows = {(row["model"], row["quantity"]): row for row in csv.DictReader(file)}
    row = rows["mixkd", "accuracy"]
    values = 100 * np.array([written[f"arms/mixkd/{s}"]["metrics"]["accuracy"] for s in range(3)])
    low, high = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    found = [float(row[key]) for key in ("mean", "std", "ci_low", "ci_high", "n")]
    assert found == pytest.approx([values.mean(), values.std(ddof=1), low, high, 3])
    assert row["unit"] == "%" and rows["teacher", "NLL"]["std"] == ""
    assert len(rows) == 3 * len(METRICS)
    with (tmp_path / "differences.csv").open() as file:
        (first, *_) = csv.DictReader(file)
    assert (first["ours"], first["theirs"], first["quantity"]) == ("mixkd", "ce", "accuracy")
    assert float(first["mean"]) == pytest.approx(
        100 * summary["differences"]["mixkd - ce"]["accuracy"]["mean"]
    )


def test_values_are_unrounded(made, tmp_path):
    root, written, analyses = made
    tables.write_values(read(root), tmp_path)
    with (tmp_path / "values.csv").open() as file:
        rows = {(r["model"], r["seed"], r["quantity"]): r for r in csv.DictReader(file)}
    row = rows["mixkd", "1", "NLL"]
    assert float(row["value"]) == written["arms/mixkd/1"]["metrics"]["nll"]
    assert row["step"] == "40" and row["unit"] == "nats"
    aurc = analyses["teacher"]["calibration"]["scores"]["aurc"]
    assert float(rows["teacher", "", "calibration: AURC"]["value"]) == 100 * aurc


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx"])
def test_no_text_is_a_formula(name, tmp_path):
    tables.write([tables.Table("t", "T", ["field", "run"], [[name, "4"], ["x", name]])], tmp_path)
    rows = list(csv.reader((tmp_path / "t.csv").read_text("utf-8").splitlines()))
    assert rows[1][0] == rows[2][1] == f"'{name}"


def test_a_value_that_is_not_known_leaves_its_cell_empty(made):
    root, _, _ = made
    records = read(root)
    records.evaluations["arms/mixkd/1"]["metrics"]["nll"] = None
    table = tables.metrics(results.summarize(records))
    assert text(table.rows[2][4]) == "-"


def test_markdown_has_the_cells_of_a_table(made):
    root, _, _ = made
    summary = results.collect(root)
    for table in tables.every(summary).values():
        lines = tables.markdown(table).splitlines()
        assert len(lines) == len(table.rows) + 2
        assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {len(table.headings) + 1}
    lines = tables.markdown(tables.differences(summary)).splitlines()
    cell = tables.differences(summary).rows[0][1]
    assert f"| {text(cell)}, {cell.won} |" in " ".join(lines[2].split())
    assert "\\|conf-acc\\|" in lines[0]
