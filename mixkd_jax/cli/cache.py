"""Programs that XLA has compiled, kept for the next run of the command."""

from __future__ import annotations

import contextlib
import os
import pathlib

import jax

MAX_BYTES = 2**30
AUTO = "auto"


def keep(folder: str) -> str:
    """Keeps what is compiled from now on, and takes from there what was compiled before.

    Called before anything is compiled. A damaged entry is compiled anew. What is oldest goes when
    the folder has grown beyond 1 GiB.

    Args:
      folder: "auto" for mixkd_jax in the user's cache folder; "" keeps nothing. A folder that is
        named in JAX_COMPILATION_CACHE_DIR comes before it, and is left to JAX.

    Returns:
      A line that says where, or why nothing is kept; "" if that is what was asked for.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None) or not folder:
        return ""
    try:
        path = _users() if folder == AUTO else pathlib.Path(folder).expanduser().absolute()
    except RuntimeError as error:  # there is no such home
        return f"compiled programs are not kept: {folder}: {error}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_uid != os.getuid():  # programs of a stranger, which would be run
            raise PermissionError(None, "it is another user's")
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(None, "it can't be written to")
        _prune(path)
    except (OSError, ValueError) as error:  # ValueError: of a null in a name
        reason = getattr(error, "strerror", None) or error
        return f"compiled programs are not kept in {path}: {reason}"
    jax.config.update("jax_compilation_cache_dir", str(path))
    # Whatever takes longer than to be read: all but the smallest.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
    return f"compiled programs are kept in {path} (config.compilation_cache)"


def _users() -> pathlib.Path:
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mixkd_jax"


def _prune(path: pathlib.Path) -> None:
    """Removes the oldest files until the folder has room; another process may do so meanwhile."""
    files = []
    for file in path.glob("*-cache"):
        with contextlib.suppress(FileNotFoundError):
            found = file.stat()
            files.append((found.st_mtime, found.st_size, file))
    total = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if total <= MAX_BYTES:
            return
        file.unlink(missing_ok=True)
        total -= size
