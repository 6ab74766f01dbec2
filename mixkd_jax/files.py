"""Files of a run folder, local or in a bucket (gs://)."""

from __future__ import annotations

import json
import os
from typing import Any

from etils import epath


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
