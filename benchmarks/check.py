"""A rough check that nothing has become much slower: the step, PyTorch beside it, the start.

    python benchmarks/check.py

The bounds are far from what is usual, for machines differ and other programs run on them. It ends
with status 1 if one is broken. Without PyTorch that row is left out.
"""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import tabulate

HERE = pathlib.Path(__file__).parent
SMALL = ("--teacher=resnet20", "--student=resnet8", "--batch-size=32", "--num-examples=512")


def main() -> None:
    """Measures, prints a table, and ends with status 1 if a bound is broken."""
    rows = [
        ("the step over its networks alone", _measured("step.py", "--repeats=5")["ratio"], 2.0),
        ("seconds until --help is there", _seconds("--help", 0), 30.0),
        ("seconds until a wrong config is refused", _seconds("--config=digits:x", 1), 60.0),
    ]
    if importlib.util.find_spec("torch") and importlib.util.find_spec("safetensors"):
        found = _measured("peers.py", "--repeats=3", "--modes=channels_last")["rows"]
        rows.append(("our step over PyTorch's", 1 / found[1]["time / ours"], 5.0))
    print(tabulate.tabulate(rows, ["", "found", "at most"], floatfmt=".2f"))
    if any(found > most for _, found, most in rows):
        sys.exit("error: slower than it may be")


def _measured(script: str, *flags: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.json"
        command = [sys.executable, str(HERE / script), *SMALL, *flags, f"--out={out}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return json.loads(out.read_text())


def _seconds(flag: str, status: int) -> float:
    start = time.perf_counter()
    command = [sys.executable, str(HERE.parent / "run.py"), flag]
    done = subprocess.run(command, check=False, capture_output=True)
    if done.returncode != status:
        sys.exit(f"error: {flag}: expected status {status}, got {done.returncode}")
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
