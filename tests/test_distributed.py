"""Two processes with a CPU device each, that train one run in one folder."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
import small

DRIVER = """
import argparse, json, pathlib, sys

import jax

port, process, folder = sys.argv[1:]

import small
from mixkd_jax import experiment
from mixkd_jax.cli import messages, processes
from mixkd_jax.training import sharding
from mixkd_jax.training.preemption import StopRequest


def main(options):
    if port != "alone":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        processes.join(options)
    assert jax.device_count() == 2
    if port != "alone":
        assert sharding.union({"both", "ab" * int(process)}) == {"both", "", "ab"}
    with small.linear_models():
        found = experiment.run(
            small.values(teacher__model="linear", arms=("ce", "mixkd", "kd")),
            folder, dataset=small.dataset(), stop=StopRequest(), command=process,
        )
    pathlib.Path(folder + process + ".json").write_text(json.dumps(found))


options = argparse.Namespace(
    config=None, workdir=folder, mode="train", distributed=port != "alone",
    coordinator=None, num_processes=None, process_id=None, heartbeat=10,
)
with messages.told(options):
    main(options)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    path = tmp_path_factory.mktemp("driver") / "driver.py"
    path.write_text(DRIVER)
    return path


def _start(driver, port, process, folder):
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={2 if port == 'alone' else 1}",
        # As Slurm tells a task which of two it is.
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
        "JAX_COORDINATOR_PORT": str(port),
        "PYTHONPATH": os.pathsep.join([str(small.ROOT / "tests"), str(small.ROOT)]),
    }
    command = [sys.executable, str(driver), str(port), str(process), str(folder)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def _pair(driver, folder):
    """Starts the two processes of a run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [_start(driver, port, process, folder) for process in (0, 1)]


def _ended(processes, status):
    """Returns what the processes said on standard error."""
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [status] * len(processes), said
    return said


@pytest.fixture(scope="module")
def together(driver, tmp_path_factory):
    """The folder of a run of two processes, of which SIGTERM to one stopped both, once."""
    folder = tmp_path_factory.mktemp("together") / "a"
    processes = _pair(driver, folder)
    while not (folder / "metrics.jsonl").exists() and processes[1].poll() is None:
        time.sleep(0.005)
    processes[1].send_signal(signal.SIGTERM)
    said = _ended(processes, 143)
    _ended(_pair(driver, folder), 0)
    return folder, said


@pytest.fixture(scope="module")
def alone(driver, tmp_path_factory):
    """The folder of the same run of one process with as many devices."""
    folder = tmp_path_factory.mktemp("alone") / "a"
    _ended([_start(driver, "alone", 0, folder)], 0)
    return folder


def _json(path):
    return json.loads(path.read_text())


def test_a_signal_to_one_process_stops_both_at_one_step(together):
    zero, one = (re.findall("^stopped and saved: .*;", said, re.MULTILINE) for said in together[1])
    assert zero == one and len(zero) == 1
    assert re.search(r" at step \d+ of 1\d;$", zero[0])
    assert not any("was ended from outside" in said for said in together[1])


def test_many_processes_find_what_one_finds(together, alone):
    folder = together[0]
    many, one = _json(folder / "results.json"), _json(alone / "results.json")
    assert many["teacher"] == pytest.approx(one["teacher"], rel=1e-3)
    for arm, metrics in one["arms"].items():
        for name, row in metrics.items():
            assert many["arms"][arm][name]["values"] == pytest.approx(row["values"], rel=1e-3)
    many, one = (sorted(small.lines(f), key=_model_and_step) for f in (folder, alone))
    for got, want in zip(many, one, strict=True):
        assert got.pop("run") == want.pop("run")
        assert got == pytest.approx(want, rel=1e-3)


def _model_and_step(line):
    return line["run"], line["step"]


def test_every_process_is_given_the_results(together):
    folder = together[0]
    results = _json(folder / "results.json")
    assert [_json(folder.parent / f"a{process}.json") for process in (0, 1)] == [results] * 2


def test_process_0_alone_writes_metrics_and_progress(together, alone):
    folder, said = together
    keys = [_model_and_step(line) for line in small.lines(folder)]
    assert len(set(keys)) == len(keys) == len(small.lines(alone))
    assert _json(folder / "config.json")["command"] == "0"
    assert len(_json(folder / "config.json")["devices"]) == 2
    told = [bool(re.search("^run: ", text, re.MULTILINE)) for text in said]
    assert told == [True, False]
    # A file of events for each model, and one more for each that was stopped.
    events = [path for path in (folder / "tensorboard").rglob("*") if path.is_file()]
    assert len(events) in (7, 8, 9), events


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("by", ["SIGKILL", "SIGINT", "SIGSTOP"])
def test_no_process_outlives_another_by_long(driver, tmp_path, lost, by):
    """Not by more than the heartbeat, which is 10 seconds in the driver, and 5.

    What is left says which one was lost; SIGSTOP is one that hangs.
    """
    folder = tmp_path / "a"
    processes = _pair(driver, folder)
    try:
        while not (folder / "metrics.jsonl").exists() and processes[1].poll() is None:
            time.sleep(0.005)
        processes[lost].send_signal(getattr(signal, by))
        ended = time.monotonic()
        processes[1 - lost].wait(timeout=60)
        assert time.monotonic() - ended < 15
        if by == "SIGSTOP":
            processes[lost].kill()
        processes[lost].wait(timeout=5)
        said = [process.communicate()[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert processes[1 - lost].returncode not in (0, None)
    if by == "SIGINT":
        assert processes[lost].returncode == 130
        assert re.search("^interrupted; go on with: ", said[lost], re.MULTILINE)
    words = rf"^error: process {1 - lost} of 2 on .* the same command, on all of them, goes on$"
    (last,) = re.finditer(words, said[1 - lost], re.MULTILINE)
    named = re.search(r"tasks are unhealthy .*:\n(?:/\S+:)?1$", said[1 - lost], re.MULTILINE)
    assert named.start() < last.start() if lost else named is None
    if by == "SIGINT":
        assert "was ended from outside" not in said[lost]
    else:
        assert f"error: process {lost} of 2 on " in said[lost]


@pytest.mark.slow
@pytest.mark.parametrize("by", ["flags", "variables"])
def test_the_example_of_the_readme_runs(by, tmp_path):
    """Its loop of two processes, with a shorter training and a port that is free."""
    blocks = re.findall(r"^```sh\n(.*?)^```", (small.ROOT / "README.md").read_text(), re.M | re.S)
    (loop,) = (block for block in blocks if "--coordinator=localhost" in block)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    loop, changed = re.subn('"[0-9]+ epochs"', '"4 steps"', loop)
    assert changed == 1
    flags = f"--coordinator=localhost:{port} --num_processes=2 --process_id=$i"
    loop = re.sub(
        r"python (run.py) ", rf"{sys.executable} \1 --config.teacher.duration='4 steps' ", loop
    )
    loop = loop.replace("--workdir=runs/two", f"--workdir={tmp_path}/two")
    loop, changed = re.subn(r"--coordinator=\S+ --num_processes=2 --process_id=\$i", flags, loop)
    assert changed == 1
    if by == "variables":
        loop = loop.replace(flags, "").replace(
            sys.executable, f"JAX_PROCESS_ID=$i {sys.executable}"
        )
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    if by == "variables":
        environment |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
    done = subprocess.run(
        ["bash", "-c", loop], cwd=small.ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.count("teacher ") == 1, done.stderr
    assert len(_json(tmp_path / "two" / "config.json")["devices"]) == 2
    assert set(_json(tmp_path / "two" / "results.json")["arms"]) == {"ce", "mixkd"}
    assert done.stderr.count("run: ") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--coordinator=localhost:1", "--num_processes=2"], "--process_id=I, got: "),
        ([], "expected one process of many on a TPU"),
    ],
)
def test_processes_that_nobody_tells_of_are_refused(flags, message, tmp_path):
    """Before they wait for each other."""
    command = [sys.executable, str(small.ROOT / "run.py"), "--distributed", *flags]
    config = [f"--config={small.ROOT / 'configs' / 'digits.py'}", f"--workdir={tmp_path}/a"]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run([*command, *config], env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1
