"""Files of a run folder, local or in a bucket."""

from __future__ import annotations

import json
import os
from typing import Any

from etils import epath


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a file so that it is either the old one or the new one, whatever happens."""
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes strict JSON (no NaN), as `write_text` does."""
    text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")
