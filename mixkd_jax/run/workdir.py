"""Whose a run's folder is: what may go on in it, and its `config.json`."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import importlib.util
import itertools
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from etils import epath

import mixkd_jax
from mixkd_jax import config
from mixkd_jax.config import ConfigError
from mixkd_jax.files import absolute, in_bucket, write_json
from mixkd_jax.folder import Folder

LEFT = ("config.json.new", "lock")  # by a run that was killed when it began
# Fields that else change no model, but decide which is kept by config.checkpoint.best.
_LINES = {"config.log.every", "config.log.validate_every"}
_CHOOSING = {
    "accuracy": _LINES,
    "nll": _LINES,
    "ece": _LINES | {"config.evaluation.num_bins"},
}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@contextlib.contextmanager
def made(folder: str | None, parent: str = "runs") -> Iterator[str]:
    """Gives the path of a run's folder, which is removed again if it is left empty.

    Args:
      folder: of the run, made if it isn't there; None makes a new one, which no other process
        can have, and names it by the time.
      parent: where the new one is made.

    Raises:
      ConfigError: if it can't be made.
    """
    path = name = folder or f"{parent}/{datetime.datetime.now():%Y%m%d-%H%M%S}"
    if in_bucket(path):  # which has no folders
        yield path
        return
    with contextlib.ExitStack() as stack:
        for number in itertools.count(2):
            try:
                stack.enter_context(making(absolute(path), exist_ok=folder is not None))
                break
            except FileExistsError:
                path = f"{name}-{number}"
        yield path


@contextlib.contextmanager
def making(root: epath.Path, exist_ok: bool = True) -> Iterator[None]:
    """Makes a local folder and those above it, and removes again what is left empty.

    Raises:
      FileExistsError: if it is there, unless that is `exist_ok`.
      ConfigError: if it can't be made, or holds links.
    """
    missing = [each for each in (root, *root.parents) if not each.exists()]
    try:
        root.mkdir(parents=True, exist_ok=exist_ok)
    except OSError as error:
        if isinstance(error, FileExistsError) and not exist_ok:
            raise
        raise ConfigError(unwritable(root, error)) from None
    _check_links(root)
    try:
        yield
    finally:
        for each in missing:
            with contextlib.suppress(OSError):  # of one that isn't empty
                os.rmdir(each)


def _check_links(folder: str | os.PathLike[str], depth: int = 3) -> None:
    """Raises ConfigError for links in a folder or, down to the models' own, in those below it.

    Whoever gave the folder away could have planted them, so that files elsewhere are overwritten.
    """
    with contextlib.suppress(PermissionError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                raise ConfigError(
                    f"--workdir: expected no links in a run's folder, got {entry.path}, which "
                    "would be followed when it is written; remove it, or put in its place what it "
                    "points to"
                )
            if depth and entry.is_dir():
                _check_links(entry.path, depth - 1)


def unwritable(path: str | os.PathLike[str], error: OSError | None = None) -> str:
    """Returns the message about a folder that can't be written to."""
    why = f": {error.strerror}" if error and error.strerror else ""
    if os.path.islink(path) and not os.path.exists(path):
        why = f", a link to {os.readlink(path)}, which isn't there"
    return f"--workdir: expected a folder that can be written to, got {os.fspath(path)}{why}"


def joined(folder: Folder, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a config as JSON has it, with the arms and seeds that the folder's run has already.

    Raises:
      ConfigError: if the folder holds a run that this config would change, or something else, or
        can't be written to. Nothing is written here.
    """
    root = folder.root
    if in_bucket(root):
        _check_bucket(root)
    new, old = plain(values), config_of(folder)
    if old is not None:
        _check_same(root, old, new)
        for name in ("arms", "seeds"):
            new[name] = list(dict.fromkeys([*old[name], *new[name]]))
    elif root.exists() and not _is_empty(root):
        raise ConfigError(
            f"--workdir: expected a new or empty folder or that of an earlier run, got {root}, "
            f"which holds something else{damaged(folder)}"
        )
    if not in_bucket(root):  # which says no only when it is written to
        parent = next(path for path in (root, *root.parents) if path.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise ConfigError(unwritable(root))
    return new


def check_images(folder: Folder, data: Mapping[str, Any]) -> None:
    """Checks that a run goes on with the images that it began with, by what is told of them.

    Args:
      folder: of the run; a new one takes any.
      data: as of `RunImages.about`.

    Raises:
      ConfigError: if their numbers, shapes or classes are others.
    """
    if not folder.config.exists():
        return
    there = json.loads(folder.config.read_text()).get("data") or {}
    free = ("name", "skipped")  # a folder may be moved, and a stream counts while it trains
    differ = [
        f"{name}: {_short(there.get(name))} there, {_short(value)} here"
        for name, value in data.items()
        if name not in free and there.get(name) != value
    ]
    if differ:
        raise ConfigError(
            f"--workdir: {folder.root} holds a run with other images: {'; '.join(differ)}. Name "
            "another folder, or bring the images back (config.data.dir)"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def claim(folder: Folder, values: dict[str, Any], command: str, data: Mapping[str, Any]) -> None:
    """Writes `config.json`: a new one, or that of an earlier run with what has changed.

    Raises:
      ConfigError: if it is in a bucket that can't be written to.
    """
    if folder.config.exists():
        about = json.loads(folder.config.read_text())
        if about["config"] != values:
            write_json(folder.config, {**about, "config": values, "command": command})
        return
    about = {
        "config": values,
        "data": dict(data),
        "versions": {"python": platform.python_version(), "mixkd-jax": mixkd_jax.__version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": [f"{d.platform}:{d.id} ({d.device_kind})" for d in jax.devices()],
        "git_commit": _git_commit(),
        "command": command,
    }
    try:
        write_json(folder.config, about)
    except Exception as error:  # of many kinds: no such bucket, no right to it, no network
        if not in_bucket(folder.root):
            if isinstance(error, OSError):
                raise ConfigError(unwritable(folder.root, error)) from None
            raise
        raise ConfigError(
            f"--workdir: expected a bucket that can be written to, got {folder.root}: {error}; "
            "look at its name and at `gcloud auth application-default login`"
        ) from None


def _check_bucket(root: epath.Path) -> None:
    if not os.fspath(root).startswith("gs://"):
        raise ConfigError(f"--workdir: expected a folder or gs://bucket/folder, got {root}")
    if importlib.util.find_spec("gcsfs") is None:
        raise ConfigError(
            f"--workdir: {root} needs gcsfs, which is not installed: pip install 'mixkd-jax[gcs]'"
        )


def config_of(folder: Folder) -> dict[str, Any] | None:
    """Returns the config of the run in a folder; None if there is none."""
    try:
        found = json.loads(folder.config.read_text())["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, dict) else None


def damaged(folder: Folder) -> str:
    """Returns what a message adds where `config.json` is there, but is none of a run."""
    there = folder.config.exists() and config_of(folder) is None
    if not there:
        return ""
    return f": {folder.config} is damaged, or no run's; put back a copy, or name another folder"


def _is_empty(root: epath.Path) -> bool:
    """Whether a folder holds nothing, or nothing of a run but its beginning."""
    return root.is_dir() and all(path.name in LEFT for path in root.iterdir())


def _check_same(root: epath.Path, old: Any, new: Any) -> None:
    """Raises ConfigError, naming the fields, if models of the one config aren't of the other."""
    old, new = dict(_leaves(old)), dict(_leaves(new))
    free = {row.path for row in config.rows() if row.changes != "models"}
    free -= _CHOOSING.get(old.get("config.checkpoint.best"), set())
    differ = [
        f"{name} is {json.dumps(old.get(name))} there and {json.dumps(new.get(name))} here"
        for name in {**old, **new}
        if old.get(name) != new.get(name) and name not in free
    ]
    if differ:
        raise ConfigError(
            f"--workdir: {root} holds a run of another config: {'; '.join(differ)}. "
            "Name another folder, or the same config"
        )


def _leaves(values: Any, path: str = "config") -> Iterator[tuple[str, Any]]:
    if not isinstance(values, dict):
        yield path, values
        return
    for name, value in values.items():
        yield from _leaves(value, f"{path}.{name}")


def plain(values: Mapping[str, Any]) -> Any:
    """Returns a config as JSON would give it back."""
    to_dict = getattr(values, "to_dict", lambda: dict(values))
    return json.loads(json.dumps(to_dict()))


def _git_commit() -> str | None:
    """Returns the commit of this package's checkout, "+changes" if it was changed since.

    None if the package lies in no repository of its own, as when it is installed in an environment
    within somebody else's.
    """
    package = os.path.dirname(os.path.abspath(mixkd_jax.__file__))

    def git(*arguments: str) -> str:
        # Reads alone: it would write a fresher index, and leave a lock there if it were stopped.
        command = ["git", "--no-optional-locks", *arguments]
        done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", "--", "__init__.py"):
            return None
        changes = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return None  # no repository, or no git
