"""The lock of a run's folder: one process, or one pod, at a time."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import platform
import warnings
from collections.abc import Iterator
from typing import IO

import jax
from etils import epath

from mixkd_jax.config import ConfigError
from mixkd_jax.files import in_bucket
from mixkd_jax.folder import Folder
from mixkd_jax.run import workdir


@contextlib.contextmanager
def held(folder: Folder) -> Iterator[None]:
    """Makes the folder of a run, and keeps others from running in it.

    The system holds the lock for the process and drops it when the process dies, however it does:
    a lock file that a dead process has left is of no meaning. On NFS it holds between hosts if the
    server has locks (NFSv4 does). A bucket has none, and isn't locked. A folder that is left empty
    is removed again.

    Args:
      folder: of the run; of a pod, its first process holds the lock for all.

    Raises:
      ConfigError: if another process has it, or the folder can't be written to.
    """
    # Without a pod nothing asks for the devices, which a report has no need of.
    if in_bucket(folder.root) or (jax.distributed.is_initialized() and jax.process_index()):
        yield
        return
    with workdir.making(folder.root), _opened(folder) as file:
        file.truncate(0)
        file.write(
            f"process {os.getpid()} on {platform.node()}, since "
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC\n"
        )
        file.flush()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):  # the folder may be gone
                folder.lock.unlink()


@contextlib.contextmanager
def _opened(folder: Folder) -> Iterator[IO[str]]:
    """Opens the lock's file, locked."""
    root = folder.root
    while True:
        try:
            file = open(folder.lock, "a+", encoding="utf-8", errors="replace")
        except OSError as error:
            raise ConfigError(workdir.unwritable(root, error)) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read(200).strip() or "another process"
                raise ConfigError(
                    f"--workdir: {root} is in use: {owner}. Wait until that ends or stop it, or "
                    "name another folder"
                ) from None
            except OSError as error:
                warnings.warn(f"{root}: not locked, {error.strerror}", stacklevel=2)
            # It may have been removed by who had it, between opening and locking.
            if _is_at(file, folder.lock):
                yield file
                return


def _is_at(file: IO[str], path: epath.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False
