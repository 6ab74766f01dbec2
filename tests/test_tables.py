import csv

import numpy as np
import pytest
import run_folders
from scipy import stats

from mixkd_jax.report import intervals, results, tables
from mixkd_jax.report.records import read


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    written = run_folders.make(root, arms=("ce", "mixkd"), seeds=3)
    return root, written, run_folders.add_analyses(root, written)


def dig(tree, path):
    for name in path:
        tree = tree[name]
    return tree


@pytest.mark.parametrize("columns", [tables.VICINAL, tables.CALIBRATION])
def test_cells_are_means_and_half_intervals(made, columns):
    root, _, analyses = made
    table = tables.analysed(read(root), "some", columns)
    assert [row[0] for row in table.rows] == ["teacher", "ce", "mixkd"]
    for column, (path, decimals) in enumerate(columns.values(), 1):
        values = [dig(analyses[f"arms/mixkd/{seed}"], path) for seed in range(3)]
        half = stats.t.ppf(0.975, 2) * stats.sem(values)
        expected = f"{np.mean(values):.{decimals}f} ± {half:.{decimals}f}"
        assert table.rows[2][column] == expected
        if (value := comparison.at(analyses["teacher"], *path)) is not None:
            assert table.rows[0][column] == f"{value:.{decimals}f}"


def test_what_a_teacher_lacks_is_marked(made):
    table = tables.analysed(read(made[0]), "vicinal", tables.VICINAL)
    assert table.rows[0][list(tables.VICINAL).index("KL mixed") + 1] == results.MISSING


def test_differences_show_mean_interval_and_wins(made):
    root, written, _ = made
    table = tables.differences(results.collect(root))
    a, b = (
        np.array([written[f"arms/{arm}/{s}"]["metrics"]["accuracy"] for s in range(3)])
        for arm in ("mixkd", "ce")
    )
    half = 100 * stats.t.ppf(0.975, 2) * stats.sem(a - b)
    expected = f"{100 * (a - b).mean():+.2f} ± {half:.2f} ({np.sum(a > b)}/3)"
    assert table.rows[0][:2] == ["mixkd - ce", expected]
    assert table.headings[3] == "|conf-acc %|"


def test_values_are_unrounded(made):
    root, written, analyses = made
    rows = {tuple(row[:3]): row[3] for row in tables.values(read(root)).rows}
    assert float(rows["mixkd", "1", "nll"]) == written["arms/mixkd/1"]["metrics"]["nll"]
    aurc = analyses["teacher"]["calibration"]["scores"]["aurc"]
    assert float(rows["teacher", "", "calibration: AURC"]) == aurc


def test_files_hold_the_cells(made, tmp_path):
    table = tables.Table("t", ["model", "a_b %"], [["x", "1 ± 2"], ["y", "3, 4"]])
    tables.write([table, tables.Table("values", ["a"], [["1"]])], tmp_path)
    rows = list(csv.reader((tmp_path / "t.csv").read_text("utf-8").splitlines()))
    assert rows == [["model", "a_b %"], ["x", "1 ± 2"], ["y", "3, 4"]]
    tex = (tmp_path / "t.tex").read_text("utf-8")
    assert tex.startswith("\\begin{tabular}{lr}") and "a\\_b \\%" in tex
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.csv", "t.tex", "values.csv"]
