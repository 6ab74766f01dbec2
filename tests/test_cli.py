"""The command, and mistakes on its line."""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest
import small

from mixkd_jax import cli
from mixkd_jax.cli import flags, load, messages
from mixkd_jax.config import ConfigError
from mixkd_jax.training.member import Diverged
from mixkd_jax.training.preemption import Stopped

DIGITS = f"--config={small.ROOT / 'configs' / 'digits.py'}"

# Flags, in a folder {here} that holds "file"; then what the message must hold, in this order.
MISTAKES = {
    "no config": ([], ["--config: expected a config, got none", "--config=", "digits", "--help"]),
    "no such config file": (["--config=nope.py"], ["--config: ", "got nope.py", "not there"]),
    "wrong config argument": ([DIGITS + ":foo"], ["--config: ", "argument"]),
    "wrong cifar argument": (
        [f"--config={small.ROOT / 'configs' / 'cifar.py'}:cifar11"],
        ["--config: ", "cifar10", "cifar11"],
    ),
    "wrong flag": ([DIGITS, "--work_dir=a"], ["--work_dir: there is no such flag", "--workdir?"]),
    "stray argument": ([DIGITS, "student.batch_size=3"], ["'student.batch_size=3'", "--config"]),
    "a folder as config": (["--config={here}"], ["got the folder {here}"]),
    "workdir without a run": (["--workdir={here}/a"], ["got none, and {here}/a holds no run"]),
    "wrong mode": ([DIGITS, "--mode=trian"], ["--mode: ", "trian", "train"]),
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


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder in which a command is given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("precious")
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_and_nothing_is_written(here, mistake, monkeypatch, capfd):
    given, parts = MISTAKES[mistake]
    monkeypatch.setattr(sys, "argv", ["run.py", *(f.replace("{here}", str(here)) for f in given)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, said = capfd.readouterr()
    assert ended.value.code == 1 and out == ""
    assert said.startswith("error: ") and said.count("\n") == 1 and said.endswith("\n"), said
    rest = said
    for part in (part.replace("{here}", str(here)) for part in parts):
        assert part in rest, said
        rest = rest[rest.index(part) + len(part) :]
    assert small.files(here) == {"file"} and (here / "file").read_text() == "precious"


def _run(here: pathlib.Path, *given):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, small.ROOT / "run.py", *given],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_run_is_made_and_grown_and_refuses_another_config(tmp_path):
    """From a plain list of arms; then with its folder alone; then with another teacher."""
    workdir, flag = tmp_path / "run", f"--workdir={tmp_path / 'run'}"
    given = [DIGITS, flag, "--config.arms=ce,mixkd", "--config.seeds=0,"]
    given += ["--config.analysis.pairs=0", "--config.log.every=4 steps"]
    for model in ("teacher", "student"):
        given += [f"--config.{model}.duration=4 steps", f"--config.{model}.batch_size=40"]
    process = _run(tmp_path, *given)
    assert process.returncode == 0, process.stderr
    assert "new: 3 models, the teacher and 2 students" in process.stderr
    assert f"report: {workdir}/report.html" in process.stderr

    process = _run(tmp_path, flag, "--config.arms=mixkd,mixkd:temperature=4,mixkd:loss=dkd")
    assert process.returncode == 0, process.stderr
    arms = ["ce", "mixkd", "mixkd:temperature=4", "mixkd:loss=dkd"]
    assert list(json.loads((workdir / "results.json").read_text())["arms"]) == arms
    assert all(arm in process.stdout for arm in arms)
    assert "2 of 5 models left in 1 group" in process.stderr
    assert "seed 0, mixed: mixkd:temperature=4, mixkd:loss=dkd" in process.stderr

    before = {name: (workdir / name).stat().st_mtime_ns for name in small.files(workdir)}
    process = _run(tmp_path, flag, "--config.teacher.duration=5 steps")
    assert process.returncode == 1 and process.stdout == ""
    want = f"error: --workdir: {workdir} holds a run of another config: "
    differs = 'config.teacher.duration is "4 steps" there and "5 steps" here. '
    assert want + differs in process.stderr and "Traceback" not in process.stderr
    assert {name: (workdir / name).stat().st_mtime_ns for name in small.files(workdir)} == before


@pytest.mark.parametrize(
    ("argument", "want"),
    [
        ("--config.arms=ce,mixkd", ("ce", "mixkd")),
        ("--config.arms=ce, mixkd:temperature=4 ", ("ce", "mixkd:temperature=4")),
        ("--config.arms=ce", ("ce",)),
        ("--config.arms=('ce','kd')", ("ce", "kd")),
        ('--config.arms=["ce","kd:loss=dkd"]', ("ce", "kd:loss=dkd")),
        ("--config.seeds=0,2", (0, 2)),
        ("--config.seeds=3 seeds", (0, 1, 2)),
    ],
)
def test_lists_can_be_typed(argument, want):
    values, notes = load.config("digits", None, [argument])
    assert values[argument.partition("=")[0].rpartition(".")[2]] == want and not notes


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigError("config.seed: no"), 1, "error: config.seed: no\n"),
        (Stopped("teacher at step 3"), 143, "stopped and saved: teacher at step 3; go on with: "),
        (KeyboardInterrupt(), 130, "interrupted; go on with: "),
        (Diverged("arms/ce/0: not finite"), 1, "error: arms/ce/0: not finite: "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_the_user_can_mend_has_no_traceback_and_says_how(
    error, status, message, tmp_path, capsys
):
    (tmp_path / "config.json").write_text("{}")
    options = argparse.Namespace(
        workdir=str(tmp_path),
        mode="train",
        distributed=False,
        coordinator=None,
        num_processes=None,
        process_id=None,
    )
    with pytest.raises(SystemExit) as ended, messages.told(options):
        raise error
    said = capsys.readouterr().err
    assert ended.value.code == status and said.startswith(message)
    if status != 1:
        assert f"--workdir={tmp_path}" in said
    if isinstance(error, Diverged):
        assert (
            f"--config={tmp_path}/config.json" in said and "student.optimizer.clip_norm=1" in said
        )


def test_a_fault_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), messages.told(argparse.Namespace(workdir=None)):
        raise ZeroDivisionError


@pytest.mark.parametrize("about", ["flags", "config"])
def test_help_names_what_there_is(about):
    told = flags.help_text(about)
    if about == "flags":
        assert all(name in told for name in ("digits", "cifar", "folder", "imagenet", "--workdir"))
        assert max(map(len, told.splitlines())) <= 100
    else:
        assert "--config.loss.teacher_temperature" in told and "--config.arms" in told
