"""The report in a real browser: Chromium without a window, as on a phone and on a large screen."""

import html
import json
import re
import shutil
import subprocess

import pytest
import run_folders

from mixkd_jax.report import compare, report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PDFTOTEXT = shutil.which("pdftotext")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium")

# The page within a frame of the width: a window can't be as narrow as a phone. The script writes
# what it finds into the title of the outer page, once everything is folded out.
FRAME = """<!doctype html><title>nothing</title>
<iframe width="{width}" height="900" style="border:0" srcdoc="{page}"></iframe>
<script>
window.onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  page.querySelectorAll("details").forEach(one => one.open = true);
  const shown = one => one.getBoundingClientRect().width > 100
    && one.getBoundingClientRect().height > 80;
  const images = [...page.querySelectorAll("svg")];
  document.title = "found " + JSON.stringify({{
    width: page.documentElement.clientWidth,
    content: page.documentElement.scrollWidth,
    images: images.length,
    shown: images.filter(shown).length,
    drawn: images.filter(one => one.querySelectorAll("path").length > 10).length,
    loaded: performance.getEntriesByType("resource").length,
    broken: [...page.images].filter(one => !one.naturalWidth).length,
    text: page.body.innerText.length,
    first: page.querySelector("header")?.getBoundingClientRect().bottom ?? 0,
    cut: [...page.querySelectorAll(".scroll")]
      .filter(one => one.scrollWidth > one.clientWidth).length,
  }}) + " end";
}};
</script>"""


def browse(page, tmp_path, *options):
    """What Chromium prints about a page: (document, log)."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--disable-dev-shm-usage",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--virtual-time-budget=5000",
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report and a comparison."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("a", "b"):
        run_folders.add_analyses(root / name, run_folders.make(root / name, seeds=2))
    report.write(root / "a")
    return {
        "report": root / "a" / "report.html",
        "compare": compare.write([root / "a", root / "b"], root / "out"),
    }


@pytest.mark.parametrize("name", ["report", "compare"])
@pytest.mark.parametrize("width", [400, 1400])
def test_page_fits_its_screen_and_shows_every_image(pages, name, width, tmp_path):
    frame = tmp_path / "frame.html"
    text = html.escape(pages[name].read_text("utf-8"))
    frame.write_text(FRAME.format(width=width, page=text), "utf-8")
    document, console = browse(frame, tmp_path, "--dump-dom", "--window-size=1500,1000")
    assert console == []
    match = re.search(r"<title>found (.*?) end</title>", document)
    assert match, document[:500]
    found = json.loads(html.unescape(match[1]))
    assert found["width"] == found["content"] == width  # nothing to scroll sideways
    assert found["images"] == found["shown"] == found["drawn"] > 0
    assert found["broken"] == found["loaded"] == 0
    assert found["text"] > 1000
    if width == 1400:
        assert found["first"] < 800  # the answer and its pictures, on the first screen
        assert found["cut"] == 0  # no table loses a column


@pytest.mark.parametrize("name", ["report", "compare"])
def test_page_alone_has_no_errors_and_can_be_photographed(pages, name, tmp_path):
    photo = tmp_path / "photo.png"
    _, console = browse(pages[name], tmp_path, f"--screenshot={photo}")
    assert console == []
    assert photo.stat().st_size > 20_000


@pytest.mark.skipif(PDFTOTEXT is None, reason="needs pdftotext: apt install poppler-utils")
def test_the_printed_page_has_every_column_and_no_json(pages, tmp_path):
    assert PDFTOTEXT is not None
    printed = tmp_path / "page.pdf"
    browse(pages["report"], tmp_path, f"--print-to-pdf={printed}")
    text = subprocess.run(
        [PDFTOTEXT, "-layout", str(printed), "-"], capture_output=True, text=True, check=True
    ).stdout
    assert "straightness" in text and "NLL at T" in text and "beats ce" in text
    assert "All fields of the config" not in text and '"seeds"' not in text
    assert text.count("\f") <= 14  # pages


def test_what_is_wrong_would_be_noticed(tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text("<!doctype html><title>x</title><script>undefined.x</script>", "utf-8")
    assert browse(broken, tmp_path, "--dump-dom")[1] != []
