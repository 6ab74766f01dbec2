"""Mistakes at the command line, told in one line each and without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import app, flags, logging

from mixkd_jax.config import ConfigError, unknown_field
from mixkd_jax.data import DataError
from mixkd_jax.training.checkpoint import CheckpointError
from mixkd_jax.training.loop import Diverged
from mixkd_jax.training.preemption import Stopped

MISTAKES = (ConfigError, DataError, CheckpointError, Diverged)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses flags as absl does; for `app.run(flags_parser=...)`."""
    given = [arg for arg in argv[1:] if arg.lstrip("-").startswith("config.")]
    try:
        rest = app.parse_flags_with_usage(list(argv))
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        config = flags.FLAGS.config
        if config is None:
            _fail("--config: expected a config file, got none; try --config=configs/digits.py")
        list(config)  # A file that couldn't be read says so only when it is used.
    except (AttributeError, KeyError, TypeError, ValueError, OSError, ImportError) as error:
        _fail(_explain(error, given))
    if len(rest) > 1:
        _fail(f"expected flags alone, got {' '.join(rest[1:])!r}; a config goes behind --config=")
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


def _explain(error: Exception, given: Sequence[str]) -> str:
    """Returns what is wrong with the config or with one of the --config.* flags `given`."""
    config = getattr(flags.FLAGS["config"], "value", None)
    for arg in given:
        path = arg.lstrip("-").split("=")[0]
        section = config
        for name in path.split(".")[1:]:
            fields = list(section) if hasattr(section, "keys") else []  # pyright: ignore[reportArgumentType]
            if name not in fields:
                parent = path[: path.rindex(name)].rstrip(".")
                return unknown_field(f"{parent}.{name}", fields)
            section = section[name]  # pyright: ignore[reportOptionalSubscript]
    return f"--config: {error}"


def _fail(message: str, status: int = 1) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
