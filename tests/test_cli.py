"""Mistakes at the command line, through `python run.py`."""

import json
import os
import pathlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest
import small

from mixkd_jax import cli
from mixkd_jax.config import ConfigError
from mixkd_jax.training.preemption import Stopped

DIGITS = f"--config={small.ROOT / 'configs' / 'digits.py'}"

# Flags, in a folder {here} that holds "file"; then what the message must hold, in this order.
MISTAKES = {
    "no config": ([], ["--config: expected a config file, got none", "configs/digits.py"]),
    "no such config file": (["--config=nope.py"], ["--config: ", "got nope.py", "not there"]),
    "wrong config argument": ([DIGITS + ":foo"], ["--config: ", "argument"]),
    "wrong cifar argument": (
        [f"--config={small.ROOT / 'configs' / 'cifar.py'}:cifar11"],
        ["--config: ", "cifar10", "cifar11"],
    ),
    "wrong flag": ([DIGITS, "--work_dir=a"], ["work_dir"]),
    "stray argument": ([DIGITS, "student.batch_size=3"], ["'student.batch_size=3'", "--config"]),
    "wrong field": (
        [DIGITS, "--config.student.batchsize=32"],
        ["--config.student.batchsize: there is no field batchsize", "did you mean batch_size?"],
    ),
    "wrong type": ([DIGITS, "--config.student.batch_size=many"], ["batch_size", "'many'"]),
    "wrong value": (
        [DIGITS, "--config.mixup.alpha=-1"],
        ["config.mixup.alpha: expected a number of at least 0, got -1"],
    ),
    "unknown model": (
        [DIGITS, "--config.student.model=resnet_20"],
        ["config.student.model: ", "expected one of cnn, ", "resnet_20", "'resnet20'"],
    ),
    "unwritable workdir": (
        [DIGITS, "--workdir={here}/file/run"],
        ["--workdir: expected a folder that can be written to, got {here}/file/run"],
    ),
    "workdir of something else": (
        [DIGITS, "--workdir={here}"],
        ["--workdir: expected a new or empty folder", "got {here}, which holds something else"],
    ),
    "batch larger than the data": (
        [DIGITS, "--config.teacher.batch_size=40", "--config.student.batch_size=1000"],
        ["config.student.batch_size: expected at most the 200 images", "got 1000"],
    ),
    "batch not divisible by the devices": (
        [DIGITS, "--config.teacher.batch_size=12"],
        ["config.teacher.batch_size: expected a multiple of the 8 devices, got 12; try 8 or 16"],
    ),
    "missing data": (
        [
            f"--config={small.ROOT / 'configs' / 'default.py'}",
            "--config.data.name=cifar10",
            "--config.data.dir={here}/data",
            "--config.data.download=False",
        ],
        ["'cifar10' is not prepared in {here}/data/cifar10", "Prepare it", "configs/digits.py"],
    ),
}


def _run(here: pathlib.Path, flags):
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    flags = [flag.replace("{here}", str(here)) for flag in flags]
    return subprocess.run(
        [sys.executable, small.ROOT / "run.py", *flags],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All of them, two at a time: {mistake: (folder, process that ended)}."""

    def run(flags):
        here = tmp_path_factory.mktemp("here")
        (here / "file").write_text("precious")
        return here, _run(here, flags)

    with ThreadPoolExecutor(2) as pool:
        ended = pool.map(run, [flags for flags, _ in MISTAKES.values()])
        return dict(zip(MISTAKES, ended, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_and_nothing_is_written(runs, mistake):
    here, process = runs[mistake]
    assert process.returncode == 1, process.stderr
    assert process.stdout == ""
    said = process.stderr
    assert said.startswith("error: ") and said.count("\n") == 1 and said.endswith("\n"), said
    rest = said
    for part in (part.replace("{here}", str(here)) for part in MISTAKES[mistake][1]):
        assert part in rest, said
        rest = rest[rest.index(part) + len(part) :]
    assert small.files(here) == {"file"} and (here / "file").read_text() == "precious"


@pytest.mark.slow
def test_a_workdir_of_another_config_is_refused_by_its_fields(tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    values = small.default_values(seeds=(0, 1)).to_dict()
    before = json.dumps({"config": values})
    (workdir / "config.json").write_text(before)
    default = small.ROOT / "configs" / "default.py"
    process = _run(tmp_path, [f"--config={default}", f"--workdir={workdir}"])
    assert process.returncode == 1 and process.stderr.count("\n") == 1, process.stderr
    want = f"error: --workdir: {workdir} holds a run of another config: "
    differs = "config.seeds is [0, 1] there and [0, 1, 2, 3, 4] here. "
    assert process.stderr.startswith(want + differs), process.stderr
    assert small.files(workdir) == {"config.json"}
    assert (workdir / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigError("config.seed: no"), 1, "error: config.seed: no\n"),
        (Stopped("teacher: saved"), 143, "error: teacher: saved; run the same command again"),
        (KeyboardInterrupt(), 130, "error: interrupted; run again with the same --workdir"),
    ],
    ids=repr,
)
def test_what_the_user_can_mend_has_no_traceback(error, status, message, capsys):
    def main(_):
        raise error

    with pytest.raises(SystemExit) as ended:
        cli.without_traceback(main)([])
    assert ended.value.code == status
    assert capsys.readouterr().err.startswith(message)


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.without_traceback(lambda _: 1 / 0)([])  # pyright: ignore[reportArgumentType]


def test_eight_devices_are_handed_on():
    assert "device_count=8" in os.environ["XLA_FLAGS"] and jax.device_count() == 8
