"""The config that the flags name: of a file, of this package, or of an earlier run."""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from etils import epath
from ml_collections import ConfigDict, config_flags

from mixkd_jax.cli.flags import config_files
from mixkd_jax.config import ConfigError, get_defaults
from mixkd_jax.config.fields import choose
from mixkd_jax.files import absolute
from mixkd_jax.folder import Folder
from mixkd_jax.run import workdir


def config(
    argument: str | None, folder: str | None, overrides: Sequence[str]
) -> tuple[ConfigDict, list[str]]:
    """Returns the config that flags name, and what its user should know of how it was read.

    Args:
      argument: of `--config`.
      folder: of `--workdir`, whose run has a config if there is no `argument`.
      overrides: such as "--config.seeds=0,1".

    Raises:
      ConfigError: if there is none, or it can't be read, or has no such field.
    """
    values = _named(argument) if argument else _of_run(folder or "")
    meant = [_meant(override) for override in overrides]
    return _overridden(values, [text for text, _ in meant]), [note for _, note in meant if note]


def _of_run(folder: str) -> ConfigDict:
    there = Folder(absolute(folder))
    found = workdir.config_of(there)
    if found is None:
        raise ConfigError(
            f"--config: expected a config, got none, and {folder} holds no run to go on with"
            f"{workdir.damaged(there)}"
        )
    return _from_json(found)


def _named(argument: str) -> ConfigDict:
    """Returns the config of "name", "name:arguments", a file of it, or a run's config.json."""
    if argument.endswith(".json"):
        return _of_json(argument)
    name, _, arguments = argument.partition(":")
    if os.path.isdir(name):
        file = os.path.join(name, "config.json")
        hint = f"; try --config={file}, or --workdir={name}" if os.path.isfile(file) else ""
        raise ConfigError(f"--config: expected a config, got the folder {name}{hint}")
    if not name.endswith(".py") and not os.path.isfile(name):
        name = str(choose("--config", name, config_files()))
    if not os.path.isfile(name):
        raise ConfigError(f"--config: expected a config file, got {name}, which is not there")
    try:
        found = runpy.run_path(name)
        if "get_config" not in found:
            raise ConfigError(f"--config: expected a function get_config in {name}, got none")
        made = _call(found["get_config"], arguments)
    except ConfigError:
        raise
    except Exception as error:  # a user's own file raises all kinds
        raise ConfigError(f"--config: {_where(error, name)}{error}") from None
    if not isinstance(made, ConfigDict):
        raise ConfigError(
            f"--config: expected get_config of {name} to return a ConfigDict, got {made!r}"
        )
    return made


def _call(get_config: Callable[..., Any], arguments: str) -> Any:
    if inspect.signature(get_config).parameters:
        return get_config(arguments)
    if arguments:
        raise ConfigError(f"--config: expected no arguments for this config, got {arguments!r}")
    return get_config()


def _where(error: Exception, name: str) -> str:
    """Returns the kind of an error and its line of a config file; "" of a wrong argument."""
    if type(error) is ValueError and str(error).startswith("config argument"):
        return ""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == name]
    place = f"{name}, line {lines[-1]}" if lines else name
    return f"{place}: {type(error).__name__}: "


def _of_json(file: str) -> ConfigDict:
    try:
        found = json.loads(epath.Path(file).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config: expected a run's config.json, got {file}: {error}") from None
    values = found.get("config") if isinstance(found, dict) else None
    if not isinstance(values, dict):
        raise ConfigError(f"--config: expected a run's config.json, got {file}, which is none")
    return _from_json(values)


def _from_json(values: Mapping[str, Any]) -> ConfigDict:
    """Returns a config that JSON holds, with the types of the defaults, so that it is changed."""
    made = get_defaults()
    try:
        made.update(_with_tuples(values))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"--config: expected the config of a run, got one with {error}") from None
    return made


def _with_tuples(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _with_tuples(inner) for name, inner in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _meant(override: str) -> tuple[str, str]:
    """Returns an override as ml_collections takes it, and what its user should know of it.

    `--config.arms=ce,mixkd` is a tuple of texts, `--config.seeds="5 seeds"` is 0, 1, 2, 3, 4.
    """
    name, equals, value = override.partition("=")
    value = value.strip()
    if name == "--config.arms" and value and not value.startswith(("(", "[", "'", '"')):
        texts = tuple(text.strip() for text in value.split(",") if text.strip())
        return f"{name}{equals}{texts!r}", ""
    if name == "--config.seeds":
        count = re.fullmatch(r"(\d{1,9}) seeds?", value)
        if count:
            return f"{name}{equals}{tuple(range(int(count[1])))!r}", ""
        if re.search("[a-z]", value):
            raise ConfigError(
                f'--config.seeds: expected numbers, such as 0,1,2, or how many, such as "3 seeds", '
                f"got {value!r}"
            )
        if re.fullmatch(r"\d+", value) and int(value) > 1:
            return override, (
                f"seeds: seed {value} alone; for the {value} seeds 0 to {int(value) - 1}: "
                f'--config.seeds="{value} seeds"'
            )
    return override, ""


def _overridden(values: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Returns a config with fields set, each checked to be there and of the right type."""
    if not overrides:
        return values
    parser, argv = flags.FlagValues(), ["", *overrides]
    try:
        config_flags.DEFINE_config_dict("config", values, flag_values=parser, sys_argv=argv)
        parser(argv)
        return parser.config
    except Exception as error:  # absl and ml_collections raise all kinds
        raise ConfigError(_explain(error, overrides)) from None


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Returns what is wrong with the flags in one line; parsing them raised `error`."""
    name = re.search(r"\w+", str(error))
    if not isinstance(error, AttributeError | KeyError) or not name:
        return str(error).replace("\n", " ")
    paths = (override.lstrip("-").partition("=")[0] for override in overrides)
    path = next((path for path in paths if name[0] in path.split(".")), name[0])
    meant = re.search(r'Did you mean "(\w+)"', str(error))
    close = f"; did you mean {meant[1]}?" if meant else "."
    return f"--{path}: there is no field {name[0]}{close} --help=config lists all fields"
