import contextlib
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import small

from mixkd_jax import experiment
from mixkd_jax.config import ConfigError
from mixkd_jax.data import DataError
from mixkd_jax.run import measure
from mixkd_jax.training import group, programs
from mixkd_jax.training.progress import Progress

MODELS = ["teacher", "arms/ce/0", "arms/ce/1", "arms/mixkd/0", "arms/mixkd/1"]
KEPT = ["config.json", "metrics.jsonl", "tensorboard", "teacher", "arms"]  # not a report's
METRICS = ["accuracy", "ece", "overconfidence", "nll", "brier", "nonlinearity"]


def _json(path):
    return json.loads(pathlib.Path(path).read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder and results of a small run."""
    folder = tmp_path_factory.mktemp("runs") / "a"
    return folder, small.run(folder, report=True, command="python run.py")


@contextlib.contextmanager
def _no_compilation():
    def compile(*_):
        raise AssertionError("compiled")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs.Programs, "_once", compile)
        patch.setattr(measure, "create_predict", compile)
        yield


def test_a_run_leaves_these_files(finished):
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} >= {*KEPT, "results.json", "report.html"}
    for name in MODELS:
        last = 12 if name == "teacher" else 10
        files = {path.name for path in (folder / name).iterdir()}
        assert files == {"9", str(last), "evaluation.json", "time.json"}  # the newest two
        assert _json(folder / name / "evaluation.json")["step"] == last
        assert len(list((folder / "tensorboard" / name).iterdir())) == 1
    assert _json(folder / "config.json")["command"] == "python run.py"
    assert not [name for name in small.files(folder) if name.endswith(".new") or "tmp" in name]


def test_every_model_logs_its_lines(finished):
    found = {}
    for line in small.lines(finished[0]):
        run = line["run"]
        found.setdefault(run, []).append(line)
        assert ("kd" in line) == ("agreement" in line) == ("mixkd" in run)
        assert np.isfinite(line["loss"]) and 0 <= line["accuracy"] <= 1
    steps = {name: [line["step"] for line in lines] for name, lines in found.items()}
    assert steps == {name: [3, 6, 9, 12 if name == "teacher" else 10] for name in MODELS}
    losses = {name: [line["loss"] for line in lines] for name, lines in found.items()}
    assert losses["arms/ce/0"] != losses["arms/ce/1"]
    assert losses["teacher"][-1] < losses["teacher"][0]


def test_results_are_as_promised(finished):
    folder, results = finished
    assert _json(folder / "results.json") == results
    assert list(results["teacher"]) == METRICS and list(results["arms"]) == ["ce", "mixkd"]
    measured = {name: _json(folder / name / "evaluation.json")["metrics"] for name in MODELS}
    assert results["teacher"] == measured["teacher"]
    for arm, found in results["arms"].items():
        assert list(found) == METRICS
        for name, row in found.items():
            values = [measured[f"arms/{arm}/{seed}"][name] for seed in (0, 1)]
            assert row["values"] == values
            assert row["mean"] == pytest.approx(np.mean(values))
            assert row["std"] == pytest.approx(np.std(values, ddof=1))
    assert results["time"]["total"] > 0
    parts = {"compile", "train", "evaluate", "checkpoint"}
    assert all(results["time"][part] > 0 for part in parts)
    assert "<html" in (folder / "report.html").read_text()


def test_an_evaluation_tells_how_its_student_was_trained(finished):
    folder, results = finished
    plain = _json(folder / "arms" / "ce" / "0" / "evaluation.json")
    assert plain["recipe"] == {
        "base": "ce",
        "loss": "ce",
        "options": {},
        "teacher_temperature": None,
        "mixup": None,
    }
    assert "teacher" not in plain
    distilled = _json(folder / "arms" / "mixkd" / "1" / "evaluation.json")
    assert distilled["recipe"] == {
        "base": "mixkd",
        "loss": "kl",
        "options": {"temperature": 2.0, "kd_weight": 1.0, "ce_weight": 0.0},
        "teacher_temperature": 1.0,
        "mixup": {"alpha": 1.0, "partial": 1.0, "per_example": True},
    }
    for name in ("accuracy", "ece", "overconfidence", "nll", "brier"):
        assert distilled["teacher"][name] == pytest.approx(results["teacher"][name], rel=1e-5)


def _stamps(folder):
    """{file: when it was written} of all but what a report consists of."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(f): (folder / f).stat().st_mtime_ns for f in files if f.parts[0] in KEPT}


def test_a_finished_run_is_only_reported_again(finished):
    folder, results = finished
    before = _stamps(folder)
    (folder / "report.html").unlink()
    (folder / "results.json").unlink()
    with _no_compilation():
        assert small.run(folder, report=True) == results
    assert _stamps(folder) == before and (folder / "report.html").exists()


def test_evaluate_measures_the_same_again(finished):
    folder, _ = finished
    before = {name: _json(folder / name / "evaluation.json") for name in MODELS}
    small.run(folder, mode="evaluate")
    assert {name: _json(folder / name / "evaluation.json") for name in MODELS} == before


@pytest.mark.parametrize("torn", [False, True])
def test_what_lost_its_evaluation_is_evaluated_and_nothing_else_is_done(
    torn, finished, monkeypatch, capsys
):
    folder, _ = finished
    lost = folder / "arms" / "mixkd" / "1" / "evaluation.json"
    before, stamps = lost.read_bytes(), _stamps(folder)
    lost.unlink()
    if torn:
        lost.write_bytes(before[:100])
    monkeypatch.setattr(group, "take_step", lambda *_: 1 / 0)
    told, during = [], Progress.during
    monkeypatch.setattr(
        Progress, "during", lambda self, what: told.append(what) or during(self, what)
    )
    small.run(folder)
    assert [what for what in told if what.startswith("evaluating")] == ["evaluating arms/mixkd/1"]
    assert lost.read_bytes() == before
    assert (f"{lost} is damaged; it is made again" in capsys.readouterr().err) == torn
    changed = {name for name, stamp in _stamps(folder).items() if stamps.get(name) != stamp}
    assert {name for name in changed if not name.startswith("tensorboard")} == {
        "arms/mixkd/1/evaluation.json",
        "arms/mixkd/1/time.json",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ("ce", "mixdk")}, 'config.arms: expected one of ce, .*"mixdk"; did you mean'),
        ({"arms": ("mixkd:temprature=4",)}, "temprature.*temperature"),
        ({"arms": ("kd:teacher_temperature=fit",)}, "expected validation images to fit it on"),
        ({"loss__teacher_temperature": "fit"}, "expected validation images to fit it on"),
        ({"loss__name": "dkl"}, "config.loss.name: expected one of kl"),
        ({"loss__name": "dkd", "loss__temperature": "std"}, "config.loss.temperature: "),
        ({"loss__kd_weight": 0.0}, "expected a kd_weight or a ce_weight above 0"),
        ({"student__model": "resnet9"}, "config.student.model: .*expected one of cnn, .*resnet9"),
        ({"student__model": "resnet18"}, "config.student.model: resnet18: .*at least 32 x 32"),
        ({"teacher__model": "vit"}, "config.teacher.model: .*got 'vit'"),
        ({"student__batch_size": 72}, "config.student.batch_size: expected at most the 64 .*72"),
        ({"teacher__batch_size": 72}, "config.teacher.batch_size: expected at most the 64 .*72"),
        ({"student__batch_size": 12}, "student.batch_size: .*multiple of the 8 devices, got 12"),
        ({"student__optimizer__name": "lion"}, "config.student.optimizer.name: .*adamw.*lion"),
        ({"teacher__schedule__name": "step"}, "config.teacher.schedule.name: .*multistep.*step"),
        (
            {
                "student__schedule__name": "table",
                "student__schedule__pieces": (("2 steps", "linear", 0.3), ("1 steps", "cosine", 1)),
            },
            "config.student.schedule.pieces: expected every piece to end after",
        ),
        ({"data__student_examples": 65}, "config.data.student_examples: .*64 .*got 65"),
        ({"data__validation_examples": 64}, "config.data.validation_examples: .*64"),
        ({"data__test_examples": 41}, "config.data.test_examples: .*40 .*got 41"),
        ({"data__test_examples": 1, "analysis__pairs": 5}, "analysis.pairs: .* 1 test image"),
        ({"data__mean": (0.1, 0.2)}, "config.data.mean: expected 1 number.* got 2"),
        ({"seed": -1}, "config.seed: "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_mistakes_are_told_before_anything_is_compiled_or_written(tmp_path, changes, message):
    with _no_compilation(), pytest.raises(ConfigError, match=message) as caught:
        small.run(tmp_path / "a", small.values(**changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a").exists()


def test_missing_data_are_told_before_anything_is_compiled_or_written(tmp_path):
    values = small.values(
        data__name="cifar10", data__dir=str(tmp_path / "tfds"), data__download=False
    )
    with _no_compilation(), pytest.raises(DataError, match="'cifar10' is not prepared in .*tfds"):
        experiment.run(values, tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["evaluate", "analyze"])
def test_there_must_be_something_to_evaluate(tmp_path, mode):
    message = f"--workdir: expected .* run for --mode={mode}, got .*/a"
    with pytest.raises(ConfigError, match=message):
        small.run(tmp_path / "a", mode=mode)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__name": "folder", "data__dir": "gone"}, "^config.data.dir: expected a folder with"),
        ({"data__name": "digits", "data__dir": "x"}, "^config.data.dir: expected '' for 'digits'"),
    ],
)
def test_wrong_data_are_told_by_the_field(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        experiment.run(small.values(**changes), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_another_mode_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="mode: expected one of train, evaluate, .*'analyse'"):
        small.run(tmp_path / "a", mode="analyse")
    assert not list(tmp_path.iterdir())


FLAGS = [
    "--config=configs/digits.py",
    "--config.seeds=(0,1)",
    "--config.arms=ce,mixkd,kd",
    "--config.teacher.duration=200 steps",
    "--config.student.duration=200 steps",
    "--config.log.every=20 steps",
    "--config.checkpoint.every=40 steps",
    "--config.analysis.pairs=0",
]
TRAINED = [*MODELS, "arms/kd/0", "arms/kd/1"]


def _start(workdir):
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "run.py", *FLAGS, f"--workdir={workdir}"]
    return subprocess.Popen(
        command, cwd=small.ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )


def _lines(workdir):
    file = workdir / "metrics.jsonl"
    return file.read_text().count("\n") if file.exists() else 0


def _wait(process, condition):
    """Waits for a condition; fails if the process ends before."""
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)


def _finish(workdir):
    process = _start(workdir)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said


def _terminate(workdir):
    """Sends SIGTERM while the first group trains."""
    process = _start(workdir)
    _wait(process, lambda: _lines(workdir) > 11)
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    names = "arms/ce/0, arms/kd/0"
    told = rf"^stopped and saved: {names} at step (\d+) of 200; go on with: "
    stopped = re.search(told, said, re.MULTILINE)
    assert stopped and "Traceback" not in said, said
    for name in names.split(", "):
        assert (workdir / name / stopped[1] / "state").is_dir()


def _kill(workdir, lines, seconds):
    """Sends SIGKILL so long after so many new log lines."""
    before, process = _lines(workdir), _start(workdir)
    _wait(process, lambda: not lines or _lines(workdir) >= before + lines)
    time.sleep(seconds)
    assert process.poll() is None, process.communicate()[1]
    process.kill()
    process.communicate()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sharding info not provided")  # there is one device
def test_a_run_that_is_stopped_and_killed_ends_as_if_nothing_had_happened(tmp_path):
    """SIGTERM, SIGKILL at random moments: while it starts or compiles, and in two trainings."""
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    _finish(undisturbed)
    _terminate(disturbed)
    chance = random.SystemRandom()
    # Each in its share of the lines that are left, so that three are always killed.
    moments = [(lines, chance.uniform(0, 0.2)) for lines in chance.sample(range(1, 9), 2)]
    moments.insert(chance.randrange(3), (0, chance.uniform(0, 15)))
    for lines, seconds in moments:
        _kill(disturbed, lines, seconds)
    _finish(disturbed)
    for got, want in zip(
        *(small.outcome(each, TRAINED, 200) for each in (disturbed, undisturbed)), strict=True
    ):
        assert got == want, f"killed after (lines, seconds) {moments}"
