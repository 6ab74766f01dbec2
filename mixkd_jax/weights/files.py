"""Reading Keras files as data: zip and HDF5 structure is checked, nothing is ever executed.

A `.keras` file is a zip with ``config.json`` and ``model.weights.h5``. The configuration is parsed
as JSON and only looked at: Lambda layers in it hold Python bytecode, which is never loaded. No zip
member is unpacked under its own name. In HDF5 only plain groups and plain, uncompressed datasets
that lie in the file itself are accepted; arrays are read last, when their shapes are known to be
the model's, so a file can make no larger allocation than the model does.
"""

import contextlib
import importlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from mixkd_jax.weights.errors import WeightsError

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
_MAX_CONFIG_BYTES = 64 * 2**20
_MAX_EXPANSION = 100  # Keras stores members uncompressed; deflate can reach 1000
_MAX_OBJECTS = 100_000
_CHUNK = 2**20


@contextlib.contextmanager
def open_weights(path: str | os.PathLike[str]) -> Iterator[tuple[Any, Any]]:
    """Opens the HDF5 file at, or inside of, ``path``.

    Args:
        path: A `.keras`, `.weights.h5` or `.h5` file; what it is is told by its first bytes.

    Yields:
        The open `h5py.File` and the parsed ``config.json``, None if there is none.

    Raises:
        WeightsError: For a missing, damaged or unsafe file, or if h5py isn't installed. Errors of
            h5py while the file is read in the block are turned into this one too.
    """
    try:
        import h5py
    except ImportError as error:
        raise WeightsError(
            "reading weights needs h5py: pip install 'mixkd-jax[weights]'"
        ) from error
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
            yield stack.enter_context(h5py.File(raw, "r")), config
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    # What h5py and zipfile raise for damaged files.
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
        raise WeightsError(f"{path}: can't be read, missing or damaged: {error}") from error


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


def read_index(file: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Walks an HDF5 file without reading any array.

    Args:
        file: An open `h5py.File`.

    Returns:
        The `h5py.Dataset`s by path, and the ``name`` attributes of groups by path.

    Raises:
        WeightsError: For a link that isn't plain, or a dataset whose values aren't all in the file.
    """
    import h5py

    h5o: Any = importlib.import_module("h5py.h5o")  # compiled, unknown to type checkers
    datasets: dict[str, Any] = {}
    names: dict[str, str] = {}
    seen: set[tuple[int, int]] = set()
    groups: list[tuple[str, Any]] = [("", file)]
    while groups:
        prefix, group = groups.pop()
        if isinstance(name := group.attrs.get("name"), str):
            names[prefix.rstrip("/")] = name
        for key in group:
            path = prefix + key
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise WeightsError(f"{path} is an external or soft link, which is refused")
            item = group[key]
            info = h5o.get_info(item.id)
            if (info.fileno, info.addr) in seen or len(seen) > _MAX_OBJECTS:
                raise WeightsError(f"{path} is linked twice, or the file has too many objects")
            seen.add((info.fileno, info.addr))
            if isinstance(item, h5py.Group):
                groups.append((path + "/", item))
            elif isinstance(item, h5py.Dataset):
                _check_dataset(path, item)
                datasets[path] = item
            else:
                raise WeightsError(f"{path} is neither group nor dataset, but {type(item)}")
    return datasets, names


def _check_dataset(path: str, dataset: Any) -> None:
    """Refuses values that lie in other files, are made by filters or aren't there."""
    if dataset.external or dataset.is_virtual:
        raise WeightsError(f"{path} has its values in another file, which is refused")
    if dataset.id.get_create_plist().get_nfilters():
        raise WeightsError(f"{path} is compressed, which Keras never does; it is refused")
    if dataset.shape is None or dataset.id.get_storage_size() < dataset.nbytes:
        raise WeightsError(f"{path} declares shape {dataset.shape}, but stores fewer values")
