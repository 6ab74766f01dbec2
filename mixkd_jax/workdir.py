"""The folder of one run: whose it is, and where everything in it lies."""

from __future__ import annotations

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
from mixkd_jax.config import ConfigError
from mixkd_jax.files import in_bucket, write_json

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def new_folder(parent: str = "runs") -> str:
    """Returns the path of a folder that isn't there yet, named by the time."""
    name = path = f"{parent}/{datetime.datetime.now():%Y%m%d-%H%M%S}"
    for number in itertools.count(2):
        if not epath.Path(path).exists():
            break
        path = f"{name}-{number}"
    return path


def check(workdir: epath.Path, values: Mapping[str, Any]) -> None:
    """Makes sure that a run of a config may write to a folder; writes nothing.

    Raises:
      ConfigError: if the folder holds a run of another config or something else, or can't be
        written to.
    """
    if in_bucket(workdir):
        _check_bucket(workdir)
    old = _config_of(workdir)
    if old is not None:
        _check_same(workdir, old, plain(values))
    elif workdir.exists() and not _is_empty(workdir):
        raise ConfigError(
            f"--workdir: expected a new or empty folder or that of an earlier run, got {workdir}, "
            "which holds something else"
        )
    if in_bucket(workdir):
        return  # It says no only when it is written to.
    parent = next(path for path in (workdir, *workdir.parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(f"--workdir: expected a folder that can be written to, got {workdir}")


def claim(
    workdir: epath.Path, values: Mapping[str, Any], command: str, data: Mapping[str, Any]
) -> None:
    """Creates the folder and its `config.json`; leaves those of an earlier run as they are.

    Raises:
      ConfigError: if it is in a bucket that can't be written to.
    """
    if (workdir / "config.json").exists():
        return
    about = {
        "config": plain(values),
        "data": dict(data),
        "versions": {"python": platform.python_version(), "mixkd-jax": mixkd_jax.__version__}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
        "devices": [f"{d.platform}:{d.id} ({d.device_kind})" for d in jax.devices()],
        "git_commit": _git_commit(),
        "command": command,
    }
    try:
        write_json(workdir / "config.json", about)
    except Exception as error:  # of many kinds: no such bucket, no right to it, no network
        if not in_bucket(workdir):
            raise
        raise ConfigError(
            f"--workdir: expected a bucket that can be written to, got {workdir}: {error}; "
            "look at its name and at `gcloud auth application-default login`"
        ) from None


def _check_bucket(workdir: epath.Path) -> None:
    if not os.fspath(workdir).startswith("gs://"):
        raise ConfigError(f"--workdir: expected a folder or gs://bucket/folder, got {workdir}")
    if importlib.util.find_spec("gcsfs") is None:
        raise ConfigError(
            f"--workdir: {workdir} needs gcsfs, which is not installed: "
            "pip install 'mixkd-jax[gcs]'"
        )


def _config_of(workdir: epath.Path) -> Any | None:
    """Returns the config of the run in a folder; None if there is none."""
    try:
        return json.loads((workdir / "config.json").read_text())["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_empty(workdir: epath.Path) -> bool:
    """Whether a folder holds nothing but what a run leaves that is killed when it begins."""
    return workdir.is_dir() and all(path.name == "config.json.new" for path in workdir.iterdir())


def _check_same(workdir: epath.Path, old: Any, new: Any) -> None:
    old, new = dict(_leaves(old)), dict(_leaves(new))
    differ = [
        f"{name} is {json.dumps(old.get(name))} there and {json.dumps(new.get(name))} here"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    if differ:
        raise ConfigError(
            f"--workdir: {workdir} holds a run of another config: {'; '.join(differ)}. "
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
    """Returns the commit of this package's checkout, "+changes" if it was changed since."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            cwd=os.path.dirname(__file__),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # installed without its repository, or no git
