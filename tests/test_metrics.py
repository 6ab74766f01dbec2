import importlib
import json
import struct
import time

import pytest
import small
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from mixkd_jax.folder import Folder
from mixkd_jax.training import metrics
from mixkd_jax.training.metrics import MetricsLog


def _write(folder, run, start, steps):
    log = MetricsLog(Folder.at(folder)).start(run, start)
    for step in steps:
        log.write(step, {"loss": 1 / step, "accuracy": 0.5})
    log.close()


def _events(folder):
    """(step, tag, value) of all TensorBoard events, in the order they were written."""
    found = []
    for file in sorted(folder.glob("events.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            if event.session_log.status:
                found.append((event.step, "restarted", event.session_log.status))
    return found


def test_one_line_a_record(tmp_path):
    _write(tmp_path, "teacher", 0, [2, 4])
    assert small.lines(tmp_path) == [
        {"run": "teacher", "step": 2, "loss": 0.5, "accuracy": 0.5},
        {"run": "teacher", "step": 4, "loss": 0.25, "accuracy": 0.5},
    ]


def test_a_line_tells_when_it_was_written(tmp_path):
    before = time.time()
    _write(tmp_path, "teacher", 0, [1])
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert before - 1 < json.loads(line)["time"] < time.time() + 1


def test_models_side_by_side_have_their_own_logs(tmp_path):
    log = MetricsLog(Folder.at(tmp_path))
    one, other = log.start("arms/ce/0", 0), log.start("arms/kd/0", 0)
    for step in (1, 2):
        one.write(step, {"loss": 1.0})
        other.write(step, {"loss": 2.0})
    one.close(), other.close()
    assert [(line["run"], line["step"], line["loss"]) for line in small.lines(tmp_path)] == [
        (name, step, loss)
        for step in (1, 2)
        for name, loss in (("arms/ce/0", 1.0), ("arms/kd/0", 2.0))
    ]
    for name in ("arms/ce/0", "arms/kd/0"):
        assert [e[0] for e in _events(tmp_path / "tensorboard" / name)] == [1, 1, 2]


def test_what_was_skipped_is_added_up(tmp_path):
    log = MetricsLog(Folder.at(tmp_path)).start("teacher", 0)
    log.write_skipped(set())
    assert not (tmp_path / "skipped.json").exists()
    for names in ({"b"}, {"a", "b"}, {"a"}):
        log.write_skipped(names)
    log.close()
    assert json.loads((tmp_path / "skipped.json").read_text()) == ["a", "b"]


def test_events_of_each_model_have_a_folder(tmp_path):
    _write(tmp_path, "teacher", 0, [2])
    _write(tmp_path, "arms/ce/0", 0, [2, 4])
    events = _events(tmp_path / "tensorboard" / "arms" / "ce" / "0")
    assert events == [
        (1, "restarted", 1),  # what a run left that was killed before its first checkpoint is gone
        (2, "loss", 0.5),
        (2, "accuracy", 0.5),
        (4, "loss", 0.25),
        (4, "accuracy", 0.5),
    ]
    assert len(_events(tmp_path / "tensorboard" / "teacher")) == 3


def test_what_came_after_the_checkpoint_is_taken_back(tmp_path):
    _write(tmp_path, "arms/ce/0", 0, [2, 4])
    _write(tmp_path, "arms/ce/1", 0, [2, 4, 6])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"run": "arms/ce/1", "st')  # killed while writing
    _write(tmp_path, "arms/ce/1", 2, [4])
    steps = [(line["run"], line["step"]) for line in small.lines(tmp_path)]
    assert steps == [("arms/ce/0", 2), ("arms/ce/0", 4), ("arms/ce/1", 2), ("arms/ce/1", 4)]
    events = _events(tmp_path / "tensorboard" / "arms" / "ce" / "1")
    assert (3, "restarted", 1) in events  # TensorBoard drops what it has from step 3 on


@pytest.mark.parametrize("line", [b"\xff\n", b"[1]\n", b"{}\n", b"\0\0\n"])
def test_lines_of_no_run_are_left_out_and_told(line, tmp_path, capsys):
    _write(tmp_path, "teacher", 0, [2])
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(line)
    _write(tmp_path, "teacher", 2, [4])
    assert [line["step"] for line in small.lines(tmp_path)] == [2, 4]
    assert capsys.readouterr().err.endswith("metrics.jsonl: 1 lines of no run are left out\n")


def test_a_model_that_starts_anew_loses_all_its_lines(tmp_path):
    _write(tmp_path, "teacher", 0, [2, 4])
    _write(tmp_path, "teacher", 0, [1])
    assert [line["step"] for line in small.lines(tmp_path)] == [1]


def test_one_that_is_not_enabled_writes_nothing(tmp_path):
    log = MetricsLog(Folder.at(tmp_path), enabled=False).start("teacher", 0)
    log.write(1, {"loss": 1.0})
    log.write_skipped({"a.png"})
    log.close()
    assert not list(tmp_path.iterdir())


def test_numbers_that_json_lacks_are_refused(tmp_path):
    log = MetricsLog(Folder.at(tmp_path)).start("teacher", 0)
    with pytest.raises(ValueError):
        log.write(1, {"loss": float("nan")})
    log.close()


def test_the_writer_of_events_is_loaded_by_one_thread(tmp_path, monkeypatch):
    loaded = []
    metrics._loading().join()  # what an earlier test began
    metrics._loading.cache_clear()
    monkeypatch.setattr(importlib, "import_module", loaded.append)
    for name in "abc":
        MetricsLog(Folder.at(tmp_path / name), enabled=False)
    assert metrics._loading.cache_info().currsize == 0
    for name in "abc":
        MetricsLog(Folder.at(tmp_path / name))
    metrics._loading().join()
    assert loaded == ["tensorboardX"]
