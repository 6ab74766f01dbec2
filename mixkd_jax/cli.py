"""Mistakes at the command line, told in one line each and without a traceback."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax
from absl import flags, logging

from mixkd_jax.config import ConfigError
from mixkd_jax.data import DataError
from mixkd_jax.training.checkpoint import CheckpointError
from mixkd_jax.training.member import Diverged
from mixkd_jax.training.preemption import Stopped

MISTAKES = (ConfigError, DataError, CheckpointError, Diverged)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses flags as absl does; for `app.run(flags_parser=...)`."""
    try:
        rest = flags.FLAGS([_with_quoted_arms(arg) for arg in argv])
        if flags.FLAGS.config is None and flags.FLAGS.mode != "compare":
            _fail("--config: expected a config file, got none; try --config=configs/digits.py")
        list(flags.FLAGS.config or ())  # A file that couldn't be read says so only when it is used.
    except Exception as error:  # absl, ml_collections and a user's config raise all kinds
        _fail(_explain(error, argv))
    if len(rest) > 1:
        _fail(f"expected flags alone, got {rest[1]!r}; a config goes behind --config=")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    return rest


def without_traceback(main: Callable[[Any], None]) -> Callable[[Any], None]:
    """Wraps a main function: what is the user's to mend ends it with a message."""

    def wrapped(argv: Any) -> None:
        try:
            main(argv)
        except MISTAKES as error:
            _fail(str(error))
        except Stopped as stopped:
            _fail(f"{stopped}; run the same command again to continue", status=143)
        except KeyboardInterrupt:
            _fail("interrupted; run again with the same --workdir to continue", status=130)

    return wrapped


def join_processes(workdir: str | None) -> None:
    """Makes this process one of many, before any device is asked for."""
    if not workdir:
        _fail("--workdir: expected a folder that all processes reach with --distributed, got none")
    try:
        jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        _fail(
            f"--distributed: expected one process of many on a TPU pod slice, Slurm, Open MPI or "
            f"Kubernetes, got {error}; leave it out to use the devices of this machine"
        )


def _with_quoted_arms(argument: str) -> str:
    """Returns `--config.arms=ce,mixkd` as the tuple of texts that it means; others as they are."""
    name, equals, value = argument.partition("=")
    plain = value and not value.lstrip().startswith(("(", "[", "'", '"'))
    if name.lstrip("-") != "config.arms" or not plain:
        return argument
    texts = tuple(text.strip() for text in value.split(",") if text.strip())
    return f"{name}{equals}{texts!r}"


def _explain(error: Exception, argv: Sequence[str]) -> str:
    """Returns what is wrong with the flags in one line; parsing them raised `error`."""
    files = [arg for arg in argv if arg.lstrip("-").startswith("config=")]
    for arg in files:
        file = arg.partition("=")[2].partition(":")[0]
        if not os.path.isfile(file):
            return f"--config: expected a config file, got {file}, which is not there"
    # A config's own error comes within a report on where absl looked for the file.
    own = re.findall(r"^ *\w*Error: (.+)$", str(error), re.MULTILINE)
    if own:
        return f"--config: {own[-1]}"
    name = re.search(r"\w+", str(error))
    if isinstance(error, AttributeError | KeyError) and name:
        return _unknown_field(name[0], str(error), argv)
    return str(error)


def _unknown_field(name: str, hint: str, argv: Sequence[str]) -> str:
    """Returns the message for a --config.* flag with a `name` that the config doesn't have."""
    paths = (arg.lstrip("-").partition("=")[0] for arg in argv)
    path = next((path for path in paths if name in path.split(".")), name)
    meant = re.search(r'Did you mean "(\w+)"', hint)
    close = f"; did you mean {meant[1]}?" if meant else "."
    return f"--{path}: there is no field {name}{close} All fields are in docs/config.md"


def _fail(message: str, status: int = 1) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
