"""Small files of a run that were emptied, torn or overwritten."""

import time

import jax
import pytest
import small
from etils import epath

from mixkd_jax.folder import TIMES, Folder, ModelFolder
from mixkd_jax.report import records
from mixkd_jax.training import sharding
from mixkd_jax.training.checkpoint import CheckpointError, Checkpoints
from mixkd_jax.training.clock import Clock, RunClock
from mixkd_jax.training.member import read_best
from mixkd_jax.training.metrics import MetricsLog

DAMAGED = (b"", b"{", b"null", b"3", b"[[1]]", b'"a', b"\xff\xfe", b'{"else": 1}')


@pytest.fixture
def folder(tmp_path):
    return Folder(epath.Path(tmp_path))


@pytest.mark.parametrize(
    "content",
    [*DAMAGED, b'{"train": NaN}', b'{"train": -1}', b'{"train": "1"}', b'{"train": true}'],
)
def test_time_is_counted_anew(content, folder, capsys):
    file = folder.time
    file.write_bytes(content)
    clock = Clock(file)
    assert clock.seconds == dict.fromkeys(TIMES, 0.0)
    Clock(file)
    assert capsys.readouterr().err == f"{file} is damaged; time is counted from now on\n"
    clock.add("train", 2.0)
    clock.save()
    assert Clock(file).seconds["train"] == 2.0


@pytest.mark.parametrize("content", [*DAMAGED, b'{"wall": Infinity}', b'{"sessions": null}'])
def test_the_run_s_time_is_counted_anew(content, folder, capsys):
    folder.time.write_bytes(content)
    RunClock(folder.time, (time.perf_counter(), time.process_time())).save()
    assert "is damaged" in capsys.readouterr().err
    RunClock(folder.time, (time.perf_counter(), time.process_time())).save()
    assert '"sessions": 2' in folder.time.read_text()
    assert not capsys.readouterr().err


@pytest.mark.parametrize("content", DAMAGED)
def test_names_of_broken_images_are_gathered_anew(content, folder, capsys):
    folder.skipped.write_bytes(content)
    log = MetricsLog(folder).start("teacher", 0)
    log.write_skipped({"b", "a"})
    log.close()
    assert folder.skipped.read_text() == '[\n  "a",\n  "b"\n]\n'
    assert f"{folder.skipped} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "read",
    [
        lambda checkpoints, fit: int(checkpoints.restore(fit.abstract_state).step),
        lambda checkpoints, fit: checkpoints.restore_variables(fit.abstract_state.variables)[0],
    ],
    ids=["state", "variables"],
)
def test_a_damaged_checkpoint_is_told_with_its_reason_and_what_is_taken_instead(
    read, folder, capsys
):
    folder.config.write_text("{}")
    own = folder.model("teacher").path
    fit = small.linear_fit(text="ce", mesh=sharding.data_mesh(jax.devices()[:1]))
    with Checkpoints(own, keep=2, config={}) as checkpoints:
        for step in (40, 50):
            checkpoints.save(small.drawn_state(fit, step))
    (own / "50" / "state" / "_METADATA").unlink()
    with Checkpoints(own, keep=2, config={}) as checkpoints:
        assert read(checkpoints, fit) == 40
    said = capsys.readouterr().err
    reason = said.removeprefix(f"damaged: {own / 'damaged-50-0'}: ").strip()
    assert "can't be read" in reason and reason.endswith("; step 40 is taken instead")
    want = f"teacher/damaged-50-0: a damaged checkpoint, moved aside: {reason}."
    assert records.read(folder.root).warnings == [want]


def test_a_model_whose_checkpoints_were_all_damaged_is_never_begun_anew(tmp_path):
    fit = small.linear_fit(text="ce", mesh=sharding.data_mesh(jax.devices()[:1]))
    with Checkpoints(tmp_path, keep=2, config={}) as checkpoints:
        checkpoints.save(small.drawn_state(fit, 40))
    (tmp_path / "40" / "state" / "_METADATA").unlink()
    for _ in range(2):  # the second command finds what the first one has moved aside
        with Checkpoints(tmp_path, keep=2, config={}) as checkpoints:
            with pytest.raises(CheckpointError, match="Move the model's folder away to train"):
                if checkpoints.latest() is not None:
                    checkpoints.restore(fit.abstract_state)


@pytest.mark.parametrize("words", [b"\xff\xfe", b"a\nb", "\u202e".encode()])
def test_strange_words_beside_a_damaged_checkpoint_are_left_out(words, folder):
    folder.config.write_text("{}")
    aside = folder.model("teacher").path / "damaged-50-0"
    aside.mkdir(parents=True)
    aside.with_name("damaged-50-0.txt").write_bytes(words)
    (found,) = records.read(folder.root).warnings
    assert found.startswith("teacher/damaged-50-0: a damaged checkpoint, moved aside")
    assert found.isprintable()


@pytest.mark.parametrize("content", DAMAGED)
def test_what_the_best_state_was_chosen_by_is_named(content, tmp_path):
    best = ModelFolder(epath.Path(tmp_path) / "teacher").best
    assert read_best(best) is None
    best.path.mkdir(parents=True)
    best.validation.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_best(best)
    assert str(best.validation) in str(caught.value) and f"move {best.path}" in str(caught.value)
