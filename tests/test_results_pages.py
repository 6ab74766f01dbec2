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


def test_pairs_of_one_class_and_of_two_are_averaged_over_seeds():
    script = runpy.run_path(str(ROOT / "cifar10/pairs.py"), run_name="script")

    def analysis(value):
        at = {"nonlinearity": {"mean": value}, "entropy": {"mean": 0.5}, "outside": {"mean": value}}
        other = {name: {"mean": 9.0} for name in at}
        mixed = {
            "same": {"overall": at, "peak": at},
            "different": {"overall": other, "peak": other},
        }
        return {"splits": {"test": {"mixed": mixed}, "train": None}}

    analyses = [analysis(value) for value in (0.1, 0.2, 0.3)]
    found = {
        f"{name}, {pairs}": script["over_seeds"](analyses, pairs, name)
        for name, pairs in script["HEADINGS"]
    }
    (row,) = rows(script["table"]({"mixkd": found}))[2:]
    assert row == "| mixkd | 0.200 ± 0.100 | 9.000 ± 0.000 | 0.500 ± 0.000 | 9.000 ± 0.000 | " + (
        "20.0 ± 10.0 | 900.0 ± 0.0 |"
    )
    for file in ROOT.rglob("pairs.json"):
        assert rows(script["table"](load(epath.Path(file)))) == rows(
            file.with_suffix(".md").read_text()
        )


def test_figures_are_small():
    figures = list(ROOT.rglob("*.png"))
    assert figures and all(file.stat().st_size <= 200_000 for file in figures)
    for page in ROOT.rglob("*.md"):
        for name in re.findall(r"!\[.*?\]\((.+?)\)", page.read_text()):
            assert (page.parent / name).is_file(), name
