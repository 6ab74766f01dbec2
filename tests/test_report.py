import html
import json
import shutil
from html.parser import HTMLParser

import pytest
import run_folders

from mixkd_jax.config import ConfigError
from mixkd_jax.folder import TIMES
from mixkd_jax.report import report, results, tables
from mixkd_jax.report.panels import panels
from mixkd_jax.report.quantities import METRICS
from mixkd_jax.report.records import read

VOID = {"meta", "br", "img", "link", "input", "hr", "path", "use", "rect"}


class Page(HTMLParser):
    """Elements, text and table rows of a page; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts, self.rows = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), list(self.open)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), list(self.open)))

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)
        if self.open and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data if "small" not in self.open else f" [{data}]"

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def count(self, tag):
        return sum(name == tag for name, *_ in self.elements)


def text_of(root):
    """The page without its files: figures are drawn once, not three times."""
    records = read(root)
    summary = results.summarize(records)
    made = tables.every(summary)
    return report._page(records, summary, panels(records, summary), made)  # pyright: ignore[reportPrivateUsage]


def page_of(root):
    return Page(text_of(root))


def test_finished_run_has_table_and_all_figures(tmp_path):
    run_folders.make(tmp_path)
    page = page_of(tmp_path)
    # ECE against accuracy, ce beside mixkd; reliability of five models; loss, training and
    # validation accuracy of the arms and of the teacher.
    assert page.count("svg") == 2 + 5 + 6
    assert "not finished" not in page.text
    summary = results.collect(tmp_path)
    assert [row[0] for row in page.rows[1:6]] == ["teacher", "ce", "mixup", "kd", "mixkd"]
    for row, cells in zip(page.rows[1:6], results.rows(summary), strict=True):
        assert [cell.replace(" [± ", " ± ").rstrip("]") for cell in row] == cells
    assert "15 equal-width bins" in page.text
    for metric in METRICS.values():
        assert metric.meaning in page.text


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """A run folder with everything but a sweep."""
    root = tmp_path_factory.mktemp("analysed")
    run_folders.add_analyses(root, run_folders.make(root, seeds=2))
    report.write(root)
    return root


def test_analysed_run_has_claims_and_every_table_and_figure(analysed):
    page = Page((analysed / "report.html").read_text("utf-8"))
    # Beside those of a finished run: three curves over λ, outside the pair, risk against coverage,
    # corruption.
    assert page.count("svg") == 13 + 6
    for claim in results.collect(analysed)["claims"]:
        if claim["verdict"] != "not testable here":
            assert [claim["name"], claim["says"], claim["shows"], claim["verdict"]] in page.rows
        assert claim["rule"] in page.text
    for name in ("results", "differences", "vicinal", "calibration"):
        assert (analysed / "tables" / f"{name}.tex").is_file()
    assert "T was fitted on 40 held-out training images." in page.text


def test_what_cannot_be_tested_takes_one_line_together(analysed):
    page = Page((analysed / "report.html").read_text("utf-8"))
    assert "Not testable here: C5 (needs 3 or more teacher temperatures" in page.text
    assert not [row for row in page.rows if row[0] in ("C5", "C6")]


def test_the_page_begins_with_the_answer(tmp_path):
    data = {"name": "photos", "num_classes": 3, "image_shape": [32, 32, 3], "test": 60}
    config = {"arms": ["ce", "mixkd"], "seeds": [0, 1], "teacher": {"model": "resnet"}}
    run_folders.make(
        tmp_path, ("ce", "mixkd"), 2, {**config, "student": {"model": "cnn"}}, data=data
    )
    run_folders.set_metric(tmp_path, "ce", "accuracy", [0.70, 0.71])
    run_folders.set_metric(tmp_path, "mixkd", "accuracy", [0.80, 0.812])
    run_folders.set_metric(tmp_path, "ce", "ece", [0.1, 0.1])
    run_folders.set_metric(tmp_path, "mixkd", "ece", [0.1, 0.11])
    text = page_of(tmp_path).text
    start = text[: text.index("Results on the test set")]
    for shown in (
        "photos: 3 classes, 32x32 pixels, 60 for testing",
        "teacher resnet → student cnn",
        "2 arms, 2 seeds (0, 1), students after step 40",
        "mixkd is ahead of ce by 10.1 points [8.8, 11.4] in 2 of 2 seeds; "
        "no difference in ECE shown,",
        "supported: C3",
        "± is the sample standard deviation",
    ):
        assert shown in start
    assert text.count("standard deviation") == 1


def test_a_sweep_is_drawn_and_many_arms_stay_readable(tmp_path):
    options = [f"temperature={t}" for t in (1, 4, 8)]
    options += [f"teacher_temperature={t}" for t in (0.5, 2, 4)]
    arms = ["ce", "mixup", "kd", "mixkd"]
    arms += [f"{base}:{option}" for base in ("kd", "mixkd") for option in options]
    run_folders.add_analyses(tmp_path, run_folders.make(tmp_path, arms, 2))
    run_folders.add_recipes(tmp_path, {0.5: 0.1, 1.0: 0.0, 2.0: -0.1, 4.0: -0.2})
    page = page_of(tmp_path)
    assert page.count("svg") == 19 + 3
    assert "Drawn: ce, mixup, kd, mixkd of 16 arms." in page.text
    assert "Not testable" not in page.text
    names = [row[0] for row in page.rows]
    assert all(arm in names for arm in arms)
    assert "teacher's logits divided by 0.5" in page.text


def test_every_figure_is_written_as_png_and_pdf(analysed):
    page = Page((analysed / "report.html").read_text("utf-8"))
    for suffix, magic in ((".png", b"\x89PNG"), (".pdf", b"%PDF")):
        files = list((analysed / "figures").glob(f"*{suffix}"))
        assert len(files) == page.count("svg")
        assert all(file.read_bytes().startswith(magic) for file in files)


def test_page_needs_nothing_else(analysed):
    text = (analysed / "report.html").read_text("utf-8")
    page = Page(text)
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, *_ in page.elements}
    for _, attributes, _ in page.elements:
        for name, value in attributes.items():
            if name.split(":")[-1] in ("href", "src", "srcset", "data", "action"):
                assert value.startswith("#")
    assert "@import" not in text and "url(http" not in text
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_tables_scroll_in_their_own_box(analysed):
    page = Page((analysed / "report.html").read_text("utf-8"))
    boxes = [a for tag, a, _ in page.elements if tag == "div" and a.get("class") == "scroll"]
    assert page.count("table") == len(boxes) == 6
    assert all(path[-1] == "div" for tag, _, path in page.elements if tag == "table")


def test_the_same_files_give_the_same_bytes(tmp_path):
    def made():
        report.write(tmp_path)
        return {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    run_folders.add_analyses(tmp_path, run_folders.make(tmp_path, arms=("kd",), seeds=1))
    first = made()
    shutil.rmtree(tmp_path / "figures")
    assert first == made()
    assert not [path for path in first if path.suffix in (".tmp", ".new")]


def test_text_of_the_run_is_escaped(tmp_path):
    attack = "</pre><script>alert('x')</script>"
    run_folders.make(tmp_path, arms=("ce", "<b>"), seeds=1, config={"note": attack})
    config = json.loads((tmp_path / "config.json").read_text())
    run_folders.write_json(tmp_path / "config.json", {**config, "command": f"run.py {attack}"})
    text = text_of(tmp_path)
    page = Page(text)
    assert not {"script", "b"} & {tag for tag, *_ in page.elements}
    assert f"run.py {attack}" in page.text
    assert html.escape("<b>") in text


def test_unfinished_run_says_what_is_missing(tmp_path):
    run_folders.make(
        tmp_path, config={"arms": ["ce", "mixup", "kd", "mixkd", "dkd"], "seeds": [0, 1, 2]}
    )
    (tmp_path / "arms/kd/1/evaluation.json").unlink()
    shutil.rmtree(tmp_path / "arms" / "mixkd")
    (tmp_path / "teacher/evaluation.json").unlink()
    expected = ["teacher", "kd: seed 1", "mixkd: seeds 0, 1, 2", "dkd: seeds 0, 1, 2"]
    page = page_of(tmp_path)
    assert "This run is not finished." in page.text
    assert all(line in page.text for line in expected)
    assert [row[0] for row in page.rows[1:4]] == ["ce", "mixup", "kd"]


def test_teacher_only(tmp_path):
    run_folders.make(tmp_path, arms=())
    page = page_of(tmp_path)
    assert page.count("svg") == 1 + 3
    assert page.rows[1][0] == "teacher"


def test_nothing_evaluated(tmp_path):
    run_folders.write_json(
        tmp_path / "config.json",
        {"config": {}, "versions": {}, "devices": [], "git_commit": "abc", "command": "run.py"},
    )
    page = page_of(tmp_path)
    assert page.count("svg") == 0
    assert "No model has been evaluated yet." in page.text


def test_models_of_an_earlier_step_are_named(tmp_path):
    run_folders.make(tmp_path, arms=("ce", "kd"))
    run_folders.change(tmp_path / "arms/kd/0/evaluation.json", "step", 20)
    text = page_of(tmp_path).text
    assert "part of nothing that follows: arms/kd/0 (step 20)." in text
    assert "students after step 40" in text


def test_time_adds_up(tmp_path):
    run_folders.make(tmp_path, arms=("ce", "kd"))
    rows = page_of(tmp_path).rows[-4:]
    assert [row[0] for row in rows] == ["teacher", "ce", "kd", "run"]
    files = [json.loads(path.read_text()) for path in (tmp_path / "arms/kd").rglob("time.json")]
    assert rows[2][2] == f"{sum(file['train'] for file in files):.1f}"
    time = results.collect(tmp_path)["time"]
    assert rows[3][1:] == [f"{time[part]:.1f}" for part in (*TIMES, "total")]


def test_the_best_students_have_a_table_of_their_own(tmp_path):
    made = run_folders.make(tmp_path, arms=("ce", "kd"), seeds=2)
    for seed in range(2):
        name = f"arms/kd/{seed}"
        best = {**made[name], "step": 20 + seed, "chosen_by": "nll"}
        best["metrics"] = {**made[name]["metrics"], "accuracy": 0.875}
        run_folders.write_json(tmp_path / name / "best/evaluation.json", best)
    page = page_of(tmp_path)
    assert "where they did best on the validation images, by NLL" in page.text
    (row,) = [row for row in page.rows if row[-1] == "20, 21"]
    assert row[0] == "kd" and row[1].startswith("87.50")
    report.write(tmp_path)
    assert "accuracy,%,87.5" in (tmp_path / "tables/best.csv").read_text()


def test_models_at_half_of_their_steps_are_not_finished(tmp_path):
    made = run_folders.make(tmp_path, arms=("kd",), seeds=2)
    assert "This run is not finished" not in page_of(tmp_path).text
    for name in made:
        run_folders.change(tmp_path / name / "evaluation.json", "total_steps", 80)
    page = page_of(tmp_path)
    assert "This run is not finished" in page.text and "kd: seeds 0, 1" in page.text


def test_unreadable_log_lines_are_mentioned(tmp_path):
    run_folders.make(tmp_path, arms=("ce", "kd"))
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"run": "teach')
    assert "metrics.jsonl: 1 unreadable line left out." in page_of(tmp_path).text


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="config.json"):
        report.write(tmp_path)


def test_a_report_is_made_again_from_the_files_alone(tmp_path):
    run_folders.add_analyses(tmp_path, run_folders.make(tmp_path, arms=("ce", "kd"), seeds=2))
    first = report.write(tmp_path)
    page = (tmp_path / "report.html").read_bytes()
    (tmp_path / "report.html").unlink()
    assert report.again(tmp_path)[0] == first
    assert (tmp_path / "report.html").read_bytes() == page


def test_the_results_alone_are_enough_for_all_tables(tmp_path):
    whole, alone = tmp_path / "whole", tmp_path / "alone"
    run_folders.add_analyses(whole, run_folders.make(whole, arms=("ce", "kd"), seeds=2))
    report.write(whole)
    alone.mkdir()
    shutil.copy(whole / "results.json", alone)
    found, written = report.again(alone)
    assert found == results.collect(whole) and written == alone / "tables"
    for name in ("results", "differences", "vicinal", "calibration"):
        for end in ("csv", "tex", "md"):
            made = written / f"{name}.{end}"
            assert made.read_text() == (whole / "tables" / made.name).read_text()
    run_folders.change(alone / "results.json", "teacher", 3)
    with pytest.raises(ConfigError, match="results.json: teacher: expected an object, got 3"):
        report.again(alone)
