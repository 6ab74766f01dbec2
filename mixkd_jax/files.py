"""Files of a run folder, local or in a bucket (gs://)."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from etils import epath


class DamagedError(ValueError):
    """A file that doesn't hold what this program wrote into it."""


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path is not of this machine's file system."""
    return "://" in os.fspath(path)


def absolute(path: str | os.PathLike[str]) -> epath.Path:
    """Returns a path that doesn't depend on the current folder; `~` is the user's own."""
    path = epath.Path(path)
    return path if in_bucket(path) else path.expanduser().absolute()


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file so that it is either the old one or the new one, whatever happens."""
    path = epath.Path(path)
    if in_bucket(path):  # where an object is whole or not there
        path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)  # a link that somebody has put there would be followed
    with open(new, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes UTF-8 as `write_bytes` does.

    Bytes of file names that aren't UTF-8, which Python has as lone surrogates, become escapes that
    JSON reads again.
    """
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes strict JSON (no NaN), as `write_text` does."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def load_json(path: str | os.PathLike[str], is_whole: Callable[[Any], bool]) -> Any | None:
    """Returns what a JSON file holds; None if it isn't there.

    Args:
      path: of the file.
      is_whole: whether what was read is what the file should hold.

    Raises:
      DamagedError: if it isn't, or is no JSON; the message names the file.
    """
    path = epath.Path(path)
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError:  # torn, or no text
        found = None
    if is_whole(found):
        return found
    raise DamagedError(f"{path} is damaged")


def load_json_if_whole(
    path: str | os.PathLike[str], is_whole: Callable[[Any], bool], instead: str
) -> Any | None:
    """Returns the same, or None of a damaged file; what is done `instead` is then told once."""
    try:
        return load_json(path, is_whole)
    except DamagedError as error:
        _tell(f"{error}; {instead}")
        return None


@functools.cache
def _tell(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def append_text(path: str | os.PathLike[str], text: str) -> None:
    """Adds to the end of a file, which may not be there yet."""
    path = epath.Path(path)
    if in_bucket(path):  # where nothing can be appended to
        write_text(path, (path.read_text() if path.exists() else "") + text)
        return
    with path.open("a") as file:
        file.write(text)


def csv_cell(text: str) -> str:
    """Returns a text with a ' before what a spreadsheet would take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
