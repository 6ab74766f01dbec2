"""The command, through `python run.py`, and what it says of mistakes, in this process."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from etils import epath

import mixkd_jax.cli
from mixkd_jax import config
from mixkd_jax.cli import flags, load, messages, start
from mixkd_jax.config import ConfigError
from mixkd_jax.folder import Folder
from mixkd_jax.training.member import Diverged
from mixkd_jax.training.preemption import Stopped

ROOT = epath.Path(__file__).parents[1]
DIGITS = f"--config={ROOT / 'configs' / 'digits.py'}"
SHORT = (
    "--config.seeds=0",
    "--config.arms=ce,kd",
    "--config.teacher.batch_size=40",
    "--config.student.batch_size=40",
    "--config.teacher.duration=30 steps",
    "--config.student.duration=20 steps",
    "--config.log.every=5 steps",
    "--config.analysis.pairs=0",
)
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}

# Flags, in a folder {here} that holds "file"; then what the message must hold, in this order.
MISTAKES = {
    "no config": ([], ["--config: expected a config, got none", "configs/digits.py", "--help"]),
    "no such config file": (["--config=no/pe.py"], ["--config: ", "got no/pe.py", "not there"]),
    "no such config": (["--config=digit"], ["--config: ", "cifar, digits", "mean", '"digits"?']),
    "a folder as a config": (["--config={here}"], ["--config: ", "got the folder {here}"]),
    "wrong config argument": ([DIGITS + ":foo"], ["--config: ", "'foo'", "arms, loss"]),
    "misspelt config argument": ([DIGITS + ":claim"], ["--config: ", "'claim'", "'claims'?"]),
    "wrong flag": ([DIGITS, "--work_dir=a"], ["--work_dir: ", "did you mean --workdir?"]),
    "wrong mode": ([DIGITS, "--mode=test"], ["--mode: ", "'test'", "train", "compare"]),
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
        ["config.mixup.alpha: expected a number of at least 0", "got -1"],
    ),
    "unknown model": (
        [DIGITS, "--config.student.model=resnet_20"],
        ["config.student.model: ", "expected one of cnn, ", "resnet_20", "'resnet20'"],
    ),
    "unwritable workdir": (
        [DIGITS, "--workdir={here}/file/run"],
        ["--workdir: expected a folder that can be written to, got {here}/file/run"],
    ),
    "a workdir in /proc": (
        [DIGITS, "--workdir=/proc/nope"],
        ["--workdir: expected a folder that can be written to, got /proc/nope"],
    ),
    "workdir of something else": (
        [DIGITS, "--workdir={here}"],
        ["--workdir: expected a new or empty folder", "got {here}, which holds something else"],
    ),
    "a workdir alone without a run": (["--workdir={here}"], ["--config: ", "{here} holds no run"]),
    "report of nothing": (
        ["--workdir={here}/new", "--mode=report"],
        ["--workdir: expected the folder of a run, or one with its results.json, got {here}/new"],
    ),
    "evaluation of nothing": (
        [DIGITS, "--workdir={here}/new", "--mode=evaluate"],
        ["--workdir: expected the folder of a run for --mode=evaluate, got {here}/new"],
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


def _main(monkeypatch, *arguments):
    """Runs the command in this process; returns its exit status."""
    monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    try:
        mixkd_jax.cli.main()
    except SystemExit as ended:
        return ended.code
    return 0


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_and_nothing_is_written(
    mistake, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("precious")
    arguments, parts = MISTAKES[mistake]
    filled = [argument.replace("{here}", str(tmp_path)) for argument in arguments]
    assert _main(monkeypatch, *filled) == 1
    printed = capsys.readouterr()
    said = printed.err
    assert printed.out == ""
    assert said.startswith("error: ") and said.count("\n") == 1 and said.endswith("\n"), said
    rest = said
    for part in (part.replace("{here}", str(tmp_path)) for part in parts):
        assert part in rest, said
        rest = rest[rest.index(part) + len(part) :]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "precious"


def test_help_fits_a_screen_and_waits_for_no_jax():
    code = (
        "import sys, runpy; sys.argv = ['run.py', '--help']; import atexit;"
        "atexit.register(lambda: print('jax' in sys.modules, 'rich' in sys.modules));"
        f"runpy.run_path({str(ROOT / 'run.py')!r}, run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    *lines, loaded = done.stdout.splitlines()
    assert loaded == "False False"
    assert len(lines) <= 39 and max(map(len, lines)) <= 80
    for word in (*flags.MODES, *flags.config_files(), "--workdir", "--help=config"):
        assert any(word in line for line in lines), word
    assert set(flags.config_files()) == {"cifar", "digits", "folder", "imagenet"}


def test_help_about_the_config_has_every_field(monkeypatch, capsys):
    assert _main(monkeypatch, "--help=config") == 0
    told = capsys.readouterr().out
    for row in config.rows():
        assert f"--{row.path} = {row.default}\n" in told


@pytest.mark.parametrize(
    ("typed", "seeds", "note"),
    [
        ("--config.seeds=5 seeds", (0, 1, 2, 3, 4), ""),
        ("--config.seeds=1 seed", (0,), ""),
        ("--config.seeds=3,4", (3, 4), ""),
        ("--config.seeds=(7,)", (7,), ""),
        ("--config.seeds=0", (0,), ""),
        (
            "--config.seeds=5",
            (5,),
            'seed 5 alone; for the 5 seeds 0 to 4: --config.seeds="5 seeds"',
        ),
    ],
)
def test_seeds_as_they_are_typed(typed, seeds, note):
    values, notes = load.config("digits", None, [typed])
    assert values.seeds == seeds
    assert "".join(notes).endswith(note) and bool(notes) == bool(note)


def test_seeds_in_words_are_refused():
    message = "--config.seeds: expected .*\"3 seeds\", got 'three seeds'"
    with pytest.raises(ConfigError, match=message):
        load.config("digits", None, ["--config.seeds=three seeds"])


def test_arms_are_typed_without_quotes_and_flags_with_a_space():
    options, overrides = flags.parse(
        ["--config", "digits", "--config.arms", "ce,mixkd:temperature=4", "--config.seed", "3"]
    )
    values, _ = load.config(options.config, options.workdir, overrides)
    assert values.arms == ("ce", "mixkd:temperature=4") and values.seed == 3


def test_a_name_and_its_file_are_the_same_config():
    by_name, _ = load.config("cifar:cifar10,student=resnet8", None, [])
    file = f"{ROOT / 'configs' / 'cifar.py'}:cifar10,student=resnet8"
    assert load.config(file, None, [])[0] == by_name
    assert by_name.student.model == "resnet8"


def test_a_config_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from mixkd_jax.configs import digits\n"
        "def get_config():\n    config = digits.get_config()\n    config.seed = 4\n"
        "    return config\n"
    )
    assert load.config(str(file), None, [])[0].seed == 4
    with pytest.raises(ConfigError, match="expected no arguments for this config, got 'claims'"):
        load.config(f"{file}:claims", None, [])
    file.write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(ConfigError, match=r"mine.py, line 2: ZeroDivisionError: division by zero"):
        load.config(str(file), None, [])
    file.write_text("def get_config():\n    return {}\n")
    with pytest.raises(ConfigError, match="get_config of .* to return a ConfigDict, got {}"):
        load.config(str(file), None, [])
    file.write_text("")
    with pytest.raises(ConfigError, match="expected a function get_config"):
        load.config(str(file), None, [])


def test_the_config_of_a_run_is_a_config(tmp_path):
    values, _ = load.config("cifar", None, ["--config.seeds=3,4", "--config.loss.name=dkd"])
    (tmp_path / "config.json").write_text(json.dumps({"config": values.to_dict()}))
    for argument, folder in ((str(tmp_path / "config.json"), None), (None, str(tmp_path))):
        assert load.config(argument, folder, [])[0].to_dict() == values.to_dict()
        changed, _ = load.config(argument, folder, ["--config.student.schedule.factor=0.5"])
        assert changed.student.schedule.factor == 0.5 and changed.seeds == (3, 4)
    with pytest.raises(ConfigError, match="got the folder .*; try --config=.*config.json, or --w"):
        load.config(str(tmp_path), None, [])
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"expected a run's config.json, got .*other.json"):
        load.config(str(tmp_path / "other.json"), None, [])


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Flags of a command that has begun a run."""
    monkeypatch.setattr(sys, "argv", ["run.py"])
    Folder(epath.Path(tmp_path)).config.write_text("{}")
    return flags.parse([f"--workdir={tmp_path}"])[0]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigError("config.seed: no"), 1, "error: config.seed: no\n"),
        (
            Stopped("teacher at step 3 of 9"),
            143,
            "stopped and saved: teacher at step 3 of 9; go on",
        ),
        (KeyboardInterrupt(), 130, "interrupted; go on with: "),
        (
            KeyboardInterrupt("and saved: ce/0 at step 3 of 9"),
            130,
            "interrupted and saved: ce/0 at step 3 of 9; go on with: ",
        ),
        (Diverged("teacher: loss nan"), 1, "error: teacher: loss nan"),
    ],
    ids=repr,
)
def test_an_ending_has_no_traceback_and_a_command(error, status, message, options, capsys):
    with pytest.raises(SystemExit) as ended, messages.told(options):
        raise error
    assert ended.value.code == status
    said = capsys.readouterr().err
    assert said.startswith(message)
    if isinstance(error, Diverged):
        config_json = f"--config={options.workdir}/config.json"
        assert f"run.py {config_json} --config.teacher.optimizer.clip_norm=1\n" in said
    elif status != 1:
        assert said.endswith(f"run.py --workdir={options.workdir}\n")


def test_an_ending_before_the_beginning_says_that_nothing_was_written(tmp_path, capsys):
    options, _ = flags.parse([f"--workdir={tmp_path}"])
    with pytest.raises(SystemExit), messages.told(options):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "interrupted; nothing was written yet\n"


def test_the_command_that_goes_on_has_what_it_needs(tmp_path, monkeypatch, capsys):
    Folder(epath.Path(tmp_path)).config.write_text("{}")
    many = ["--distributed", "--coordinator=a:1", "--num_processes=2", "--process_id=1"]
    options, _ = flags.parse([f"--workdir={tmp_path}", "--mode=evaluate", *many])
    monkeypatch.setattr(sys, "argv", ["/opt/my tools/mixkd", "--config=digits"])
    monkeypatch.setattr(messages, "_leave", sys.exit)  # it is the process of the tests
    with pytest.raises(SystemExit), messages.told(options):
        raise KeyboardInterrupt
    want = f"'/opt/my tools/mixkd' --workdir={tmp_path} --mode=evaluate {' '.join(many)}"
    assert capsys.readouterr().err == f"interrupted; go on with: {want}\n"


def test_a_config_of_ones_own_is_named_again(tmp_path, monkeypatch, capsys):
    """It may define the loss that its run trains with."""
    monkeypatch.setattr(sys, "argv", ["mixkd"])
    Folder(epath.Path(tmp_path)).config.write_text("{}")
    for file, named in ((tmp_path / "mine.py", True), (ROOT / "configs" / "digits.py", False)):
        options, overrides = flags.parse(
            [f"--config={file}:a", "--config.seed=1", f"--workdir={tmp_path}"]
        )
        with pytest.raises(SystemExit), messages.told(options, overrides):
            raise KeyboardInterrupt
        own = f" --config={file}:a --config.seed=1" if named else ""
        assert capsys.readouterr().err.endswith(f"mixkd{own} --workdir={tmp_path}\n")


def test_a_fault_of_the_program_keeps_its_traceback(options):
    with pytest.raises(ZeroDivisionError) as caught, messages.told(options):
        raise ZeroDivisionError
    assert caught.value.__notes__ == [
        f"go on with: {start.command([f'--workdir={options.workdir}'])}"
    ]


def _stopped(here, number):
    """Returns (status, what was said) of a run without --workdir that was sent a signal."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), DIGITS, *SHORT],
        cwd=here,
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(here.glob("runs/*/metrics.jsonl")):
        time.sleep(0.02)
    process.send_signal(number)
    out, said = process.communicate(timeout=300)
    assert out == "", said
    return process.returncode, said


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """(folder, what was said) of a run that SIGTERM stopped."""
    here = tmp_path_factory.mktemp("here")
    status, said = _stopped(here, signal.SIGTERM)
    assert status == 143, said
    return here, said


@pytest.mark.slow
def test_ctrl_c_saves_first(tmp_path):
    status, said = _stopped(tmp_path, signal.SIGINT)
    assert status == 130, said
    assert re.search(r"^interrupted and saved: \S+ at step \d+ of [23]0; go on with: ", said, re.M)
    assert list(tmp_path.glob("runs/*/teacher/[0-9]*"))


@pytest.mark.slow
def test_a_run_says_what_it_is_and_its_last_line_goes_on(stopped, monkeypatch, capsys):
    here, said = stopped
    (folder,) = (path.relative_to(here) for path in here.glob("runs/*"))
    assert f"run: {folder} (new: 3 models, the teacher and 2 students in 1 group)\n" in said
    assert "data: digits, 10 classes (0, 1, ..., 9), 1,000 train the teacher / 200" in said
    assert "/ 497 test, 8x8x1    teacher cnn -> student cnn\n" in said
    last = said.splitlines()[-1]
    match = re.fullmatch(r"stopped and saved: \S+ at step \d+ of [23]0; go on with: (.*)", last)
    assert match, said

    # Batches of 40 go on the one device of the command and on the eight of this process.
    done = subprocess.run(
        shlex.split(match[1]), cwd=here, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^run: {folder} \((new|continuing): ", done.stderr, re.MULTILINE)
    assert done.stderr.endswith(f"report: {folder}/report.html\n")
    assert re.search(r"^teacher +\d", done.stdout, re.MULTILINE)
    times = json.loads((here / folder / "time.json").read_text())
    assert times["sessions"] in (1, 2) and times["wall"] > 0 and times["cpu"] > 0

    monkeypatch.chdir(here)
    for mode in ("train", "evaluate", "analyze"):
        assert _main(monkeypatch, f"--workdir={folder}", f"--mode={mode}") == 0
        printed = capsys.readouterr()
        assert "(finished: all 3 models are trained)" in printed.err
        assert re.search(r"^teacher +\d", printed.out, re.MULTILINE)
    assert json.loads((here / folder / "time.json").read_text()) == times

    assert _main(monkeypatch, f"--workdir={folder}", "--config.student.batch_size=20") == 1
    said = capsys.readouterr().err
    assert "config.student.batch_size is 40 there and 20 here" in said
    assert _main(monkeypatch, f"--workdir={folder}", "--config.seeds=2 seeds") == 0
    said = capsys.readouterr().err
    assert "(continuing: teacher, ce/0, kd/0 done; 2 of 5 models left in 1 group)" in said
    assert json.loads((here / folder / "config.json").read_text())["config"]["seeds"] == [0, 1]
