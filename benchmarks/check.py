"""A rough check that nothing has become much slower: the step, PyTorch beside it, the start.

    python benchmarks/check.py

The bounds are far from what is usual, for machines differ and other programs run on them. It ends
with status 1 if one is broken. Without PyTorch that row is left out.
"""

from __future__ import annotations

import importlib.util
import json
import os
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
    with tempfile.TemporaryDirectory() as cache:
        for kind in ("empty", "full"):
            what = f"seconds until digits' first step is logged, {kind} cache"
            rows.append((what, _first_step(cache), 120.0))
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


def _first_step(cache: str) -> float:
    """Starts a run that keeps compiled programs in `cache`, and stops it after its first line."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ("--config=digits", "--config.log.every=1 steps", f"--workdir={folder}/run")
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, str(HERE.parent / "run.py"), *flags],
            env=os.environ | {"XDG_CACHE_HOME": cache},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not pathlib.Path(folder, "run", "metrics.jsonl").exists():
            if process.poll() is not None:
                sys.exit(f"error: the run ended with status {process.returncode}")
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        process.terminate()
        process.wait()
        return seconds


if __name__ == "__main__":
    main()
