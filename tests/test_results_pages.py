"""The pages of results say what the committed results say."""

import re
import runpy

import pytest
import small
from etils import epath

from mixkd_jax.report import tables
from mixkd_jax.report.formats import RESULTS
from mixkd_jax.report.shapes import check, load

ROOT = small.ROOT / "docs/results"
STUDIES = sorted(ROOT.rglob("results.json"))
PAGES = sorted({file.parent.parent / "README.md" for file in STUDIES})


def rows(text):
    """Rows of tables without what pads their cells."""
    return [" ".join(line.split()) for line in text.splitlines() if line.startswith("|")]


def made(file):
    return {name: tables.markdown(t) for name, t in tables.every(load(epath.Path(file))).items()}


def name_of(row):
    return row.split("|")[1].strip()


def test_there_are_studies():
    assert STUDIES


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.parent.name)
def test_all_numbers_of_a_study_are_on_its_page(file):
    summary = load(epath.Path(file))
    check(summary, RESULTS)
    page = rows((file.parent.parent / "README.md").read_text())
    for row in rows(made(file)["results"])[2:]:
        assert row in page, f"not on the page: {row}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_no_row_of_a_page_is_made_by_hand(page):
    known, models = set(), set()
    for file in page.parent.glob("*/results.json"):
        for table in made(file).values():
            known |= set(rows(table))
        models |= {name_of(row) for row in rows(made(file)["results"])[2:]}
    for file in page.parent.glob("*/*.md"):  # of scripts beside the studies
        known |= set(rows(file.read_text()))
    for row in rows(page.read_text()):
        assert name_of(row) not in models or row in known, f"made by hand: {row}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.parent.name)
def test_verdicts_are_those_of_the_results(page):
    found = {}
    for file in page.parent.glob("*/results.json"):
        for claim in load(epath.Path(file))["claims"]:
            found.setdefault(claim["name"], {})[file.parent.name] = claim
    judged = [row.split(" | ") for row in rows(page.read_text()) if re.match(r"\| C\d ", row)]
    assert judged
    for cells in judged:
        name, study, verdict, shows = (cell.strip("| ") for cell in cells)
        assert found[name][study]["verdict"] == verdict
        assert found[name][study]["shows"] == shows


ANALYSED = runpy.run_path(str(ROOT / "cifar10/analysed.py"), run_name="script")


def test_tables_of_an_analysis_are_means_over_seeds():
    def analysis(value):
        at = {"nonlinearity": {"mean": value}, "entropy": {"mean": 0.5}, "outside": {"mean": value}}
        other = {name: {"mean": float("nan")} for name in at}
        count = [3, 1, 0, 0] + 16 * [1]
        means = [value, value + 0.4, None, None] + 16 * [0.25]
        bins = {"outside": {"count": count, "mean": means}}
        mixed = {
            "same": {"overall": at, "peak": at},
            "different": {"overall": other, "peak": other},
            "all": {"bins": bins},
        }
        severities = [value - severity / 100 for severity in range(6)]
        scores = {"mean": {"accuracy": severities, "overconfidence": severities}}
        return {"splits": {"test": {"mixed": mixed}}, "corruption": {"scores": scores}}

    analyses = [analysis(value) for value in (0.1, 0.2, 0.3)]
    cells = {}
    for name in ANALYSED["TABLES"]:
        found = {"mixkd": ANALYSED["summarized"](analyses, name)}
        (row,) = rows(ANALYSED["table"](found, name))[2:]
        cells[name] = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells["pairs"] == [
        *("mixkd", "0.200 ± 0.100", "", "0.500 ± 0.000", "", "20.0 ± 10.0", ""),
    ]
    assert cells["outside"] == ["mixkd", "30.0 ± 10.0", *4 * ["25.0 ± 0.0"]]
    shown = ["20.0 ± 10.0", "19.0 ± 10.0", "17.0 ± 10.0", "15.0 ± 10.0"]
    assert cells["corruption"] == ["mixkd", *shown, *shown]


@pytest.mark.parametrize("name", ANALYSED["TABLES"])
def test_tables_of_an_analysis_are_on_its_page(name):
    files = list(ROOT.rglob(f"{name}.json"))
    assert files
    for file in files:
        made = rows(ANALYSED["table"](load(epath.Path(file)), name))
        assert made == rows(file.with_suffix(".md").read_text())
        page = rows((file.parent.parent / "README.md").read_text())
        assert all(row in page for row in made[2:])


def test_figures_are_small():
    figures = list(ROOT.rglob("*.png"))
    assert figures and all(file.stat().st_size <= 200_000 for file in figures)
    for page in ROOT.rglob("*.md"):
        for name in re.findall(r"!\[.*?\]\((.+?)\)", page.read_text()):
            assert (page.parent / name).is_file(), name
