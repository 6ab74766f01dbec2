"""LaTeX: by its structure, and through pdfTeX where that is installed."""

import re
import shutil
import subprocess

import pytest
import run_folders

from mixkd_jax.report import latex, results, tables
from mixkd_jax.report.records import read

PDFLATEX = shutil.which("pdflatex")
LONG = "mixkd:loss=dkd:kd_weight=0.5:teacher_temperature=0.25:temperature=4"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    arms = ("ce", "mixkd", "mixkd:teacher_temperature=0.25", LONG, '实$_^&#{}~\\|<>"%')
    run_folders.add_analyses(root, run_folders.make(root, arms=arms, seeds=2))
    records = read(root)
    summary = results.summarize(records)
    return [
        tables.metrics(summary),
        tables.differences(summary),
        tables.vicinal(summary),
        tables.calibration(summary),
        tables.Table("fields", "Fields", ["field", "a", "b"], [["loss.name", '"kl"', '"dkd"']]),
    ]


def test_what_is_special_is_escaped():
    text = latex.escape("a_b 5 % |x| -1 ± 2 c-d 実")
    assert text == r"a\_b 5 \% \textbar{}x\textbar{} $-$1 $\pm$ 2 c-d [U+5B9F]"


def test_numbers_have_minus_signs_and_the_file_says_what_they_are(made):
    text = latex.render(made[0])
    assert re.search(r"\$\{-\}\d|\$\{\+\}\d", text)
    assert "± is the sample standard deviation over seeds" in text.splitlines()[1]
    assert text.splitlines()[1].startswith("%")
    assert "95 % confidence interval" in latex.render(made[1]).splitlines()[1]


def test_every_cell_is_there_once(made):
    for table in made:
        text = latex.render(table)
        for row in table.rows:
            assert text.count(f"{latex.escape(row[0])} &") >= 1
        headings = [latex.escape(h).replace(r"L\_NL", r"$L_\mathrm{NL}$") for h in table.headings]
        lines = [line for line in text.splitlines() if line.startswith(f"{headings[0]} &")]
        shown = [part.removesuffix(r" \\") for line in lines for part in line.split(" & ")[1:]]
        assert shown == headings[1:]


@pytest.mark.skipif(PDFLATEX is None, reason="needs pdfTeX: apt install texlive-latex-base")
@pytest.mark.parametrize("booktabs", [False, True])
def test_it_compiles_in_article_without_overfull_boxes(made, booktabs, tmp_path):
    assert PDFLATEX is not None
    for table in made:
        (tmp_path / f"{table.name}.tex").write_text(latex.render(table), "utf-8")
    packages = r"\usepackage{booktabs}" if booktabs else ""
    inputs = "\n".join(rf"\begin{{table}}\input{{{t.name}}}\end{{table}}" for t in made)
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{inputs}\end{{document}}"
    (tmp_path / "paper.tex").write_text(document, "utf-8")
    done = subprocess.run(
        [PDFLATEX, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    log = (tmp_path / "paper.log").read_text("latin-1")
    assert done.returncode == 0, log[-2000:]
    assert "Overfull" not in log, "\n".join(re.findall(r"Overfull.*", log))
    assert (tmp_path / "paper.pdf").is_file()
