"""Reading Keras files as data: zip and HDF5 structure is checked, nothing is ever executed.

A `.keras` file is a zip with ``config.json`` and ``model.weights.h5``. The configuration is parsed
as JSON and only looked at: Lambda layers in it hold Python bytecode, which is never loaded. No zip
member is unpacked under its own name. In HDF5 only plain groups and plain, uncompressed datasets
that lie in the file itself are accepted, and another process finds out where (`structure.py`);
arrays are read last, when their shapes are known to be the model's, so a file can make no larger
allocation than the model does.
"""

import contextlib
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mixkd_jax.weights import structure
from mixkd_jax.weights.assign import Stored
from mixkd_jax.weights.errors import WeightsError, unreadable

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
_MAX_CONFIG_BYTES = 64 * 2**20
_MAX_EXPANSION = 100  # Keras stores members uncompressed; deflate can reach 1000
_CHUNK = 2**20
_FLOAT = re.compile(r"[<>=]?f[248]")


class Structure(NamedTuple):
    """What is where in an HDF5 file.

    Attributes:
        weights: By path, none of them read yet.
        names: The ``name`` attributes of groups, by their paths.
        lists: The lists of names of legacy files, by group and attribute.
    """

    weights: dict[str, Stored]
    names: dict[str, str]
    lists: dict[str, dict[str, list[str]]]


@contextlib.contextmanager
def open_weights(path: str | os.PathLike[str]) -> Iterator[tuple[Structure, Any]]:
    """Opens the HDF5 file at, or inside of, ``path``.

    Args:
        path: A `.keras`, `.weights.h5` or `.h5` file; what it is is told by its first bytes.

    Yields:
        What is in it, and the parsed ``config.json``, None if there is none. Weights can be read
        within the block.

    Raises:
        WeightsError: For a missing, damaged or unsafe file, or if h5py isn't installed.
    """
    if importlib.util.find_spec("h5py") is None:
        raise WeightsError("reading weights needs h5py: pip install 'mixkd-jax[weights]'")
    try:
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(Path(path).open("rb"))
            start = raw.read(8)
            raw.seek(0)
            config = None
            if start[:4] == b"PK\x03\x04":
                config, raw = _unzip(stack, raw)
            elif start != b"\x89HDF\r\n\x1a\n":
                raise WeightsError(
                    f"expected a zip (.keras), HDF5 or safetensors file; it begins with {start!r}"
                )
            yield _read_structure(raw), config
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    # What zipfile raises for damaged files.
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        EOFError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise WeightsError(f"{path}: {unreadable(error)}") from error


def _read_structure(raw: IO[bytes]) -> Structure:
    """Has `structure.py` look through an HDF5 file."""
    command = [sys.executable, "-P", structure.__file__]
    threads = {name: "1" for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")}
    raw.seek(0)
    try:
        done = subprocess.run(
            command,
            stdin=raw,
            capture_output=True,
            env={**os.environ, **threads},
            timeout=structure.MAX_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise WeightsError(_endless(structure.MAX_SECONDS)) from None
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode == structure.REFUSED:
        raise WeightsError(said)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        raise WeightsError(_endless(structure.MAX_CPU_SECONDS))
    if done.returncode < 0:
        raise WeightsError(f"the HDF5 library failed on it (signal {-done.returncode}): damaged")
    if done.returncode:
        raise WeightsError(f"its structure can't be read: {said[-300:]}")
    found = json.loads(done.stdout)
    weights = {path: _stored(path, about, raw) for path, about in found["weights"].items()}
    return Structure(weights, found["names"], found["lists"])


def _endless(seconds: int) -> str:
    return f"the HDF5 library didn't come to an end within {seconds} s: damaged"


def _stored(path: str, about: dict[str, Any], raw: IO[bytes]) -> Stored:
    """Returns the weight that `structure.py` tells about."""
    name, shape, offset = about["dtype"] or "", tuple(about["shape"]), int(about["offset"] or 0)
    # Keras saves bfloat16 as two opaque bytes with a note.
    floating = about["bfloat16"] or bool(_FLOAT.fullmatch(name))

    def read() -> np.ndarray:
        dtype = np.dtype(jnp.bfloat16 if about["bfloat16"] else name)
        size = math.prod(shape) * dtype.itemsize
        raw.seek(offset)
        content = raw.read(size)
        if len(content) < size:
            raise WeightsError(f"{path} reaches beyond the end of the file: damaged")
        return np.frombuffer(content, dtype).reshape(shape)

    return Stored(f"/{path}", shape, about["type"], floating, read)


def _unzip(stack: contextlib.ExitStack, raw: IO[bytes]) -> tuple[Any, IO[bytes]]:
    """Returns the parsed configuration and an anonymous temporary file with the weights."""
    archive = stack.enter_context(zipfile.ZipFile(raw))
    members = archive.infolist()
    names = [member.filename for member in members]
    for member in members:
        _check_member(member)
    for needed in (_CONFIG, _WEIGHTS):
        if names.count(needed) != 1:
            raise WeightsError(
                f"expected one {needed} in the zip, got {names.count(needed)}; is it a .keras file?"
            )
    config = archive.getinfo(_CONFIG)
    if config.file_size > _MAX_CONFIG_BYTES:
        raise WeightsError(f"{_CONFIG} declares {config.file_size} bytes, too many")
    try:
        parsed = json.loads(archive.read(config))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{_CONFIG} is no valid JSON: {error}") from error
    weights = stack.enter_context(tempfile.TemporaryFile())
    _copy(archive, archive.getinfo(_WEIGHTS), weights)
    return parsed, weights


def _check_member(member: zipfile.ZipInfo) -> None:
    """Refuses names that leave the folder, encrypted members and bombs."""
    name = member.filename
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise WeightsError(f"zip member {name!r} has an unsafe name")
    if member.flag_bits & 1:
        raise WeightsError(f"zip member {name!r} is encrypted")
    if member.file_size > _MAX_EXPANSION * member.compress_size + _CHUNK:
        raise WeightsError(
            f"zip member {name!r} declares {member.file_size} bytes but stores "
            f"{member.compress_size}: refused as a decompression bomb"
        )


def _copy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: IO[bytes]) -> None:
    """Copies a member, never more than it declares; zipfile checks its CRC at the end."""
    size = 0
    with archive.open(member) as source:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > member.file_size:
                break
            target.write(chunk)
    if size != member.file_size:
        raise WeightsError(
            f"zip member {member.filename!r} hasn't the {member.file_size} bytes that it declares"
        )
    target.seek(0)
