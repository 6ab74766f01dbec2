"""The pages of results say what the committed results say."""

import re

import committed
import pytest
import small
from etils import epath

from mixkd_jax.errors import ConfigError
from mixkd_jax.report import report
from mixkd_jax.report.formats import RESULTS
from mixkd_jax.report.shapes import check, load

ROOT = small.ROOT / "docs/results"
STUDIES = sorted(ROOT.rglob("results.json"))
MEASURED = sorted(file for name in committed.COLUMNS for file in ROOT.rglob(f"{name}.json"))
CIFAR, DIGITS = ROOT / "cifar10", ROOT / "digits"
PAGES = sorted([*CIFAR.rglob("*.md"), DIGITS / "README.md"])


def rows(text):
    """Rows of tables without what pads their cells."""
    return [" ".join(line.split()) for line in text.splitlines() if line.startswith("|")]


def page_of(file):
    """Returns the rows of the page that shows a file of a study."""
    own = file.parent / "README.md"
    if not own.exists():
        own = CIFAR / "teachers.md" if CIFAR in file.parents else DIGITS / "README.md"
    return rows(own.read_text())


def made(file):
    return committed.of_run(epath.Path(file))


def measured(file):
    return rows(committed.of_script(epath.Path(file)))


def name_of(row):
    return row.split("|")[1].strip()


def test_there_are_studies():
    assert STUDIES


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.parent.name)
def test_all_numbers_of_a_study_are_on_its_page(file):
    summary = load(epath.Path(file))
    check(summary, RESULTS)
    page = page_of(file)
    for row in rows(made(file)["results"])[2:]:
        assert row in page, f"not on the page: {row}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_no_row_of_a_page_is_made_by_hand(page):
    known, models = set(), set()
    for file in page.parent.rglob("results.json"):
        for table in made(file).values():
            known |= set(rows(table))
        models |= {name_of(row) for row in rows(made(file)["results"])[2:]}
    for file in set(MEASURED) & set(page.parent.rglob("*.json")):
        known |= set(measured(file))
    for row in rows(page.read_text()):
        assert name_of(row) not in models or row in known, f"made by hand: {row}"


def claims_of(study):
    """Returns the claims of a study by name."""
    return {claim["name"]: claim for claim in load(epath.Path(study / "results.json"))["claims"]}


def claims_on(page):
    """Returns the cells of the rows of a page that begin with a claim."""
    cells = [row.strip("| ").split(" | ") for row in rows(page.read_text())]
    return [own for own in cells if re.fullmatch(r"C\d", own[0])]


def test_verdicts_are_those_of_the_results():
    judged = claims_on(CIFAR / "README.md")
    judged += [[name, "../digits/claims", *more] for name, *more in claims_on(DIGITS / "README.md")]
    assert len(judged) > 12
    for name, study, verdict, shows in judged:
        found = claims_of(CIFAR / study)[name]
        assert (found["verdict"], found["shows"]) == (verdict, shows)


def verdicts_of(heading):
    """Returns from claims to the set of verdicts of the studies that a column's heading names."""
    found = {f"C{k}": set() for k in range(1, 7)}
    studies = [CIFAR / name for name in re.findall(r"`(.+?)`", heading)]
    studies += [DIGITS / "claims"] if "digits/README.md" in heading else []
    for study in studies:
        for claim in claims_of(study).values():
            if claim["verdict"] != "not testable here":
                found[claim["name"]].add(claim["verdict"])
    return found


def test_verdicts_of_all_studies_are_those_of_the_results():
    table = [
        row for row in rows((ROOT / "README.md").read_text()) if re.match(r"\| (claim|C\d) ", row)
    ]
    headings, *judged = [row.strip("| ").split(" | ") for row in table]
    assert [claim[:2] for claim, *_ in judged] == [f"C{k}" for k in range(1, 7)]
    for column, heading in enumerate(headings[1:], 1):
        found = verdicts_of(heading)
        assert any(found.values()), f"names no study: {heading}"
        for claim, *verdicts in judged:
            expected = found[claim[:2]] or {"not tested"}
            assert {verdicts[column - 1]} == expected, (claim, heading)


@pytest.mark.parametrize("file", MEASURED, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_tables_of_scripts_are_on_their_page(file):
    page = page_of(file)
    assert all(row in page for row in measured(file)[2:])


@pytest.mark.parametrize("study", STUDIES, ids=lambda file: file.parent.name)
def test_the_command_prints_all_tables_of_a_study(study, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["committed.py", str(study.parent)])
    committed.main()
    printed = rows(capsys.readouterr().out)
    beside = [row for file in MEASURED if file.parent == study.parent for row in measured(file)]
    assert set(printed) == {row for table in made(study).values() for row in rows(table)} | {
        *beside
    }


def test_our_figures_beside_the_paper_s_are_those_of_the_results():
    cells = [row.strip("| ").split(" | ") for row in rows((CIFAR / "README.md").read_text())]
    beside = [own for own in cells if re.fullmatch("`.+`", own[0])]
    assert len(beside) > 5
    for study, *found in beside:
        summary = load(epath.Path(CIFAR / study.strip("`") / "results.json"))
        teacher, arms = summary["teacher"], summary["arms"]
        want = [teacher["accuracy"], teacher["overconfidence"]]
        want += [arms["mixkd"][name]["mean"] for name in ("accuracy", "overconfidence")]
        signed = [f"{100 * x:{'+' if k % 2 else ''}.2f}" for k, x in enumerate(want)]
        assert found == [*signed, f"{100 * arms['ce']['accuracy']['mean']:.2f}"], study


def test_a_folder_of_studies_is_told_which_it_has():
    with pytest.raises(ConfigError, match="these in it are such: ample, .*, small, .*epochs"):
        report.again(CIFAR)


def test_the_first_page_shows_the_default_run():
    page = rows((small.ROOT / "README.md").read_text())
    assert all(row in page for row in rows(made(DIGITS / "default/results.json")["results"])[2:])


def test_figures_are_small():
    figures = list(ROOT.rglob("*.png"))
    assert figures and all(file.stat().st_size <= 200_000 for file in figures)
    for page in ROOT.rglob("*.md"):
        for name in re.findall(r"!\[.*?\]\((.+?)\)", page.read_text()):
            assert (page.parent / name).is_file(), name
