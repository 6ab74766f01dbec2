"""Two runs in one folder: the second is told whose it is; a dead one's lock is of no meaning."""

import os
import signal
import subprocess
import sys

import pytest
import small

from mixkd_jax import experiment
from mixkd_jax.config import ConfigError
from mixkd_jax.folder import Folder
from mixkd_jax.run import lock

DIES = """
import os, signal, sys
from mixkd_jax.folder import Folder
from mixkd_jax.run import lock

with lock.held(Folder.at(sys.argv[1])):
    print("held", flush=True)
    os.kill(os.getpid(), int(sys.argv[2]))
"""


@pytest.fixture
def folder(tmp_path):
    return Folder.at(tmp_path / "runs" / "a")


def test_a_second_run_is_told_whose_the_folder_is(folder):
    with lock.held(folder):
        with pytest.raises(ConfigError) as refused:
            experiment.run(small.values(), folder.root, dataset=small.dataset(8, 8, (4, 4, 1)))
        assert f"{folder.root} is in use: process {os.getpid()} on " in str(refused.value)
        assert [path.name for path in folder.root.iterdir()] == ["lock"]
        with lock.held(Folder.at(folder.root.parent / "b")):
            pass  # of its own
    assert not folder.root.parent.exists()  # left as it was
    with lock.held(folder):
        (folder.root / "kept").write_text("")
    assert [path.name for path in folder.root.iterdir()] == ["kept"]


def test_a_lock_asks_for_no_device(folder):
    code = (
        "import sys; from jax._src import xla_bridge\n"
        "from mixkd_jax.folder import Folder; from mixkd_jax.run import lock\n"
        "with lock.held(Folder.at(sys.argv[1])): print(xla_bridge.backends_are_initialized())"
    )
    command = [sys.executable, "-c", code, str(folder.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=small.ROOT)
    assert done.stdout == "False\n"


def test_a_dead_process_has_no_lock(folder):
    with subprocess.Popen(
        [sys.executable, "-c", DIES, str(folder.root), str(int(signal.SIGSTOP))],
        stdout=subprocess.PIPE,
        cwd=small.ROOT,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f"process {other.pid} on "), lock.held(folder):
            pass
        other.kill()
    assert folder.lock.exists()
    with lock.held(folder):
        assert f"process {os.getpid()} " in folder.lock.read_text()
    assert not list(folder.root.iterdir())


def test_a_lock_that_its_owner_has_removed_is_made_anew(folder, monkeypatch):
    """Opened before that, and locked after it."""
    with lock.held(folder):
        taken = [lambda *_: folder.lock.unlink()]
        real = lock.fcntl.flock

        def flock(file, how):
            if taken:
                taken.pop()()
                return None
            return real(file, how)

        monkeypatch.setattr(lock.fcntl, "flock", flock)
        with lock.held(folder):
            assert f"process {os.getpid()} " in folder.lock.read_text()


def test_what_cannot_be_a_folder_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "link", tmp_path / "file", tmp_path / "file" / "a"):
        with pytest.raises(ConfigError, match="can be written to"), lock.held(Folder.at(path)):
            pass
