"""A run on a pseudo-terminal: something moves all the time, and the table alone is the output."""

import os
import pty
import re
import subprocess
import sys
import threading
import time

import pytest
import small

COMMAND = (
    *(sys.executable, str(small.ROOT / "run.py")),
    f"--config={small.ROOT / 'configs' / 'digits.py'}",
    *("--config.seeds=0", "--config.arms=ce,kd", "--config.log.every=5 steps"),
    *("--config.teacher.duration=60 steps", "--config.student.duration=60 steps"),
    *("--config.analysis.pairs=50", "--config.analysis.path_pairs=5"),
    "--config.analysis.corrupted_images=8",
)
SILENCE = 1.0  # seconds, of a machine that has a processor free
GRACE = 4.0  # times as long as that, on one that hasn't


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """[(seconds, text)] of the terminal, and what came through the pipe."""
    here = tmp_path_factory.mktemp("here")
    master, slave = pty.openpty()
    environment = os.environ | {
        **{"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "TERM": "xterm"},
        **{"COLUMNS": "90", "LINES": "30"},
    }
    process = subprocess.Popen(
        COMMAND, cwd=here, env=environment, stdout=subprocess.PIPE, stderr=slave, text=True
    )
    os.close(slave)
    chunks: list[tuple[float, str]] = [(time.monotonic(), "")]

    def read():
        while True:
            try:
                chunk = os.read(master, 1 << 16)
            except OSError:  # how Linux tells that nobody writes any more
                return
            if not chunk:
                return
            chunks.append((time.monotonic(), chunk.decode(errors="replace")))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        out, _ = process.communicate(timeout=600)
    finally:
        process.kill()
        process.wait()
        reader.join(timeout=10)
        os.close(master)
    assert process.returncode == 0, chunks[-20:]
    return chunks, out


def _text(chunks):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "".join(text for _, text in chunks))


pytestmark = pytest.mark.slow


def test_something_moves_all_the_time(shown):
    times = [when for when, _ in shown[0]]
    assert len(times) > 20
    gaps = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert max(gaps) < GRACE * SILENCE
    assert sum(gap > SILENCE for gap in gaps) <= 0.02 * len(gaps)


def test_every_part_of_a_run_is_told(shown):
    text = _text(shown[0])
    assert "the run about " in text
    for part in (
        "starting ... 0:00",
        "loading data ... ",
        "run: runs/",
        "data: digits, 10 classes",
        "[1/3] teacher   compiling ... 0:0",
        "[1/3] teacher   60 steps in ",
        "[2-3/3] seed 0, clean: ce, kd   compiling ... ",
        "[2-3/3] seed 0, clean: ce, kd   60 steps in ",
        "analysing teacher, 1 of 3 ... ",
        "writing the report ... ",
        "report: runs/",
    ):
        assert part in text, part
        text = text[text.index(part) :]


def test_the_table_alone_goes_to_standard_output(shown):
    chunks, out = shown
    assert out.lstrip().startswith("accuracy %") and "\nmixkd" not in out and "\nkd " in out
    assert "\x1b" not in out and "..." not in out
    assert "accuracy %" not in _text(chunks)
    assert chunks[-1][1].endswith(("report.html\r\n", "\n"))


def test_no_line_is_wider_than_the_terminal(shown):
    live = [line for line in re.split(r"[\r\n]+", _text(shown[0])) if " ... " in line]
    assert live and max(map(len, live)) <= 90
