"""Time of a whole run, from the command to the prompt, beside another version of this project.

    git worktree add ../other 7408dd8
    python benchmarks/whole.py --other=../other --out=whole.json

Runs `run.py --config=configs/digits.py` of the other version, and of this one with an empty and
then with a full cache of compiled programs, in turn. Both use the Python that this is started with.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import matplotlib
import record
import tabulate
from matplotlib import font_manager

HERE = pathlib.Path(__file__).resolve().parent.parent
WAYS = ("other", "empty cache", "full cache")
FONTS = matplotlib.get_cachedir()


def main() -> None:
    """Times all three, prints the table, and writes JSON if asked to."""
    options = parse()
    font_manager.get_font_names()  # makes the list of fonts, which would count otherwise
    commits = {"other": _commit(options.other), "this": _commit(HERE)}
    rows = [row for number in range(options.repeats) for row in _round(options, number)]
    medians = {
        way: statistics.median(row["seconds"] for row in rows if row["way"] == way) for way in WAYS
    }
    print(tabulate.tabulate(rows, headers="keys", floatfmt=".1f"))
    for way in WAYS[1:]:
        print(f"{way}: {medians[way] / medians['other']:.2f} of the other version's time")
    if options.out:
        record.write(options.out, {**commits, "medians": medians, "rows": rows})


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--other", type=pathlib.Path, required=True, help="checkout of another version"
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds of all three")
    parser.add_argument("--out", help="JSON file to write")
    parser.add_argument("flags", nargs="*", help="for run.py, after a --")
    return parser.parse_args()


def _round(options: argparse.Namespace, number: int) -> list[dict]:
    """Returns a row for each way: its seconds, and by `results.json` those of its parts."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for way in WAYS:
            root = options.other.resolve() if way == "other" else HERE
            run = pathlib.Path(scratch) / way.replace(" ", "-")
            flags = [f"--workdir={run}", *options.flags]
            cache = pathlib.Path(scratch) / ("other-cache" if way == "other" else "cache")
            seconds = _seconds(root, flags, cache)
            of_this = way != "other"
            parts = json.loads((run / "results.json").read_text())["time"] if of_this else {}
            rows.append({"round": number, "way": way, "seconds": seconds, **parts})
            print(f"round {number + 1}, {way}: {seconds:.1f} s", file=sys.stderr, flush=True)
    return rows


def _seconds(root: pathlib.Path, flags: list[str], cache: pathlib.Path) -> float:
    # matplotlib's list of fonts would be in that folder too.
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "MPLCONFIGDIR": FONTS}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "run.py", "--config=configs/digits.py", *flags]
    start = time.perf_counter()
    done = subprocess.run(
        command, check=False, cwd=root, env=environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"error: {root}: {done.stderr[-2000:]}")
    return seconds


def _commit(root: pathlib.Path) -> str:
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    main()
