"""How a command ends before its end: one message, which says what to do next."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import re
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

from mixkd_jax.cli import start, witness

# What systems say of a disk, and libraries hand on in errors of all kinds.
_STORAGE = re.compile(
    r"No space left on device|Disk quota exceeded|Read-only file system|File too large|"
    r"Input/output error|Stale file handle"
)
# What collectives say whose other end is gone.
_LOST = re.compile(
    r"Connection closed by peer|Connection reset by peer|Connection refused|Socket closed|"
    r"Timed out waiting|heartbeat timeout|Broken pipe|DEADLINE_EXCEEDED|UNAVAILABLE"
)
_MARGIN = 4  # seconds that a process may outlive the heartbeat, to hear which one is lost
# What is the user's to mend, by where it is: imports would take longer than all else here.
_MISTAKES = (
    "mixkd_jax.config.ConfigError",
    "mixkd_jax.data.DataError",
    "mixkd_jax.models.TeacherError",
    "mixkd_jax.run.stored.ModelError",
    "mixkd_jax.training.checkpoint.CheckpointError",
)


@contextlib.contextmanager
def told(options: argparse.Namespace, overrides: Sequence[str] = ()) -> Iterator[None]:
    """Ends the process with a message, and no traceback, for what is the user's to mend or wish.

    Args:
      options: the flags; their `workdir` is the run's folder, as soon as there is one.
      overrides: the flags that set fields of the config.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        told = " ".join(["interrupted", *error.args])
        _end(options, f"{told}; {next_command(options, overrides)}", status=130, kind="")
    except SystemExit as error:
        if error.code != 143:
            raise
        _end(options, f"stopped; {next_command(options, overrides)}", status=143, kind="")
    except Exception as error:
        if _is(error, "mixkd_jax.training.preemption.Stopped"):  # all processes of a run together
            fail(
                f"stopped and saved: {error}; {next_command(options, overrides)}",
                status=143,
                kind="",
            )
        if told := _mistake(error, options, overrides):
            _end(options, told)
        if storage := _STORAGE.search(_all_of(error)):
            where = f"--workdir: {options.workdir}" if options.workdir else "--out"
            told = f"{where}: {storage[0]}; {next_command(options, overrides)}"
            print(f"error: {told}", file=sys.stderr)
            _leave(1)  # without what threads that were saving would say
        if _is_run(options.workdir):
            error.add_note(next_command(options, overrides))
        if options.distributed:
            traceback.print_exception(error)
            _leave(1)
        raise


def _mistake(error: Exception, options: argparse.Namespace, overrides: Sequence[str]) -> str:
    """Returns what to say of an error that is no fault of this program; "" of any other."""
    if _is(error, "mixkd_jax.training.member.Diverged"):
        return f"{error}: {_anew(options, str(error))}"
    if any(_is(error, place) for place in _MISTAKES):
        return str(error)
    if options.distributed and isinstance(error, RuntimeError | ValueError):
        lost = _LOST.search(_all_of(error))
        if lost:
            _wait_for_verdict(options, lost[0])
            return f"lost another process of this run; {next_command(options, overrides)}"
    return ""


def _wait_for_verdict(options: argparse.Namespace, reason: str) -> None:
    """Waits for JAX to say which process is lost, whereupon it ends this one; or returns."""
    from mixkd_jax.cli.processes import HEARTBEAT

    seconds = (options.heartbeat or HEARTBEAT) + _MARGIN
    told = f"lost another process of this run ({reason}); JAX says which within {seconds} seconds"
    print(told, file=sys.stderr, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(seconds)


def _is(error: Exception, place: str) -> bool:
    """Whether an error is of the class at a place; one that wasn't imported has not been raised."""
    module, _, name = place.rpartition(".")
    return isinstance(error, getattr(sys.modules.get(module), name, ()))


def _all_of(error: BaseException) -> str:
    """Returns the words of an error and of those that it came from."""
    words = [str(error)]
    while (error := error.__cause__ or error.__context__) is not None:  # pyright: ignore[reportAssignmentType]
        words.append(str(error))
    return "\n".join(words)


def _end(
    options: argparse.Namespace, message: str, *, status: int = 1, kind: str = "error: "
) -> NoReturn:
    """Ends the process with a message; of many, without waiting for the others.

    JAX would wait until they end too, for minutes: they don't know yet, and learn it from this one
    being gone.
    """
    if options.distributed:
        print(f"{kind}{message}", file=sys.stderr)
        _leave(status)
    fail(message, status=status, kind=kind)


def _leave(status: int) -> NoReturn:
    witness.release()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def fail(message: str, *, status: int = 1, kind: str = "error: ") -> NoReturn:
    """Ends the process with a message on standard error."""
    print(f"{kind}{message}", file=sys.stderr)
    sys.exit(status)


def left(options: argparse.Namespace, overrides: Sequence[str]) -> str:
    """Returns what a measured run lacks, and the command that trains it; "" if that is nothing."""
    from mixkd_jax.report.records import read

    missing = read(options.workdir).missing() if _is_run(options.workdir) else ()
    if not missing:
        return ""
    trained = argparse.Namespace(**{**vars(options), "mode": "train"})
    return f"\nnot trained yet: {'; '.join(missing)}; {next_command(trained, overrides)}"


def next_command(options: argparse.Namespace, overrides: Sequence[str]) -> str:
    """Returns the words that name the command which goes on."""
    if not _is_run(options.workdir):
        return "nothing was written yet"
    flags = [f"--workdir={options.workdir}"]
    if options.config and _may_define(options.config):
        flags = [f"--config={options.config}", *overrides, *flags]
    if options.mode != "train":
        flags.append(f"--mode={options.mode}")
    for name in ("distributed", "coordinator", "num_processes", "process_id", "heartbeat"):
        value = getattr(options, name)
        if value is not None and value is not False:
            flags.append(f"--{name}" if value is True else f"--{name}={value}")
    return f"go on with: {start.command(flags)}"


def _may_define(config: str) -> bool:
    """Whether a config is a user's own file, which may have a loss that the run needs."""
    from mixkd_jax.cli.flags import config_files

    file = pathlib.Path(config.partition(":")[0])
    return file.suffix == ".py" and file.resolve() not in (
        f.resolve() for f in config_files().values()
    )


def _anew(options: argparse.Namespace, error: str) -> str:
    """Returns a command that trains more carefully, in a new folder, what diverged."""
    role = "teacher" if error.startswith(("teacher:", "head/teacher:")) else "student"
    clip = f"--config.{role}.optimizer.clip_norm=1"
    return start.command([f"--config={options.workdir}/config.json", clip])


def _is_run(workdir: str | None) -> bool:
    if not workdir:
        return False
    from mixkd_jax.files import absolute
    from mixkd_jax.folder import Folder

    return Folder(absolute(workdir)).config.exists()
