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
    "wrong arm": (
        [DIGITS, "--config.arms=ce,mixdk"],
        ["config.arms: expected one of ce, mixup, kd, mixkd", "mixdk", 'did you mean "mixkd"?'],
    ),
    "wrong field of an arm": (
        [DIGITS, "--config.arms=ce,mixkd:temprature=4"],
        ['config.arms["mixkd:temprature=4"]', "temprature", 'did you mean "temperature"?'],
    ),
    "wrong value of an arm": (
        [DIGITS, "--config.arms=('mixkd:temperature=0',)"],
        ['config.arms["mixkd:temperature=0"].temperature: expected a number from', "got 0"],
    ),
    "nothing to fit a temperature on": (
        [DIGITS, "--config.arms=kd:teacher_temperature=fit", "--config.data.validation_examples=0"],
        ['config.arms["kd:teacher_temperature=fit"]', "expected validation images to fit it on"],
    ),
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
            DIGITS,
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
def test_arms_can_be_typed_and_another_config_is_refused_by_its_fields(tmp_path):
    """A plain list of arms; then the same folder with another teacher."""
    workdir = tmp_path / "run"
    flags = [DIGITS, f"--workdir={workdir}", "--config.arms=ce,mixkd,mixkd:temperature=4"]
    flags += ["--config.seeds=(0,)", "--config.analysis.pairs=0", "--config.log.every=4 steps"]
    short = [f"--config.{model}.duration=4 steps" for model in ("teacher", "student")]
    short += [f"--config.{model}.batch_size=40" for model in ("teacher", "student")]
    process = _run(tmp_path, [*flags, *short])
    assert process.returncode == 0, process.stderr
    arms = ["ce", "mixkd", "mixkd:temperature=4"]
    assert list(json.loads((workdir / "results.json").read_text())["arms"]) == arms
    assert "mixkd:temperature=4" in process.stdout
    shared = "2 students share mixed batches and the teacher's logits: arms/mixkd/0, "
    assert f"{shared}arms/mixkd~temperature=4/0" in process.stderr

    before = {name: (workdir / name).stat().st_mtime_ns for name in small.files(workdir)}
    process = _run(tmp_path, [*flags, *short, "--config.teacher.duration=5 steps"])
    assert process.returncode == 1 and process.stderr.count("\n") == 1, process.stderr
    want = f"error: --workdir: {workdir} holds a run of another config: "
    differs = 'config.teacher.duration is "4 steps" there and "5 steps" here. '
    assert process.stderr.startswith(want + differs), process.stderr
    assert {name: (workdir / name).stat().st_mtime_ns for name in small.files(workdir)} == before


@pytest.mark.parametrize(
    ("argument", "want"),
    [
        ("--config.arms=ce,mixkd", "--config.arms=('ce', 'mixkd')"),
        ("-config.arms=ce, mixkd:temperature=4 ", "-config.arms=('ce', 'mixkd:temperature=4')"),
        ("--config.arms=ce", "--config.arms=('ce',)"),
        ("--config.arms=('ce','kd')", None),
        ("--config.arms=['ce']", None),
        ("--config.arms=", None),
        ("--config.seeds=0,1", None),
    ],
)
def test_a_plain_list_of_arms_is_a_tuple(argument, want):
    assert cli._with_quoted_arms(argument) == (argument if want is None else want)


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
