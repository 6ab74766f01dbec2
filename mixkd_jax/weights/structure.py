"""What is where in an HDF5 file, read by a process of its own.

The HDF5 library trusts what it reads: a changed file can crash it or keep it busy for ever. So it
runs here alone, as `python structure.py < FILE`, with limits on its time and memory; it writes JSON
and reads no array. The values are then read by `mixkd_jax.weights.files`, without that library.
"""

import contextlib
import importlib
import json
import re
import resource
import sys
from typing import Any

MAX_SECONDS = 60  # for a file on a slow disk
MAX_CPU_SECONDS = 10
_MAX_BYTES = 4 * 2**30  # of address space
_MAX_OBJECTS = 100_000
_MAX_OUTPUT = 64 * 2**20
_LISTS = re.compile(r"(layer_names|weight_names)\d*")
REFUSED = 3  # the exit status of a file that was read and is refused


class _Refused(Exception):
    """A file with what no Keras file has."""


def _walk(file: Any) -> dict[str, Any]:
    """Returns weights, names and lists of names by their paths; see `files.Structure`."""
    import h5py

    h5o: Any = importlib.import_module("h5py.h5o")  # compiled, unknown to type checkers
    found: dict[str, dict[str, Any]] = {"weights": {}, "names": {}, "lists": {}}
    seen: set[tuple[int, int]] = set()
    groups: list[tuple[str, Any]] = [("", file)]
    while groups:
        prefix, group = groups.pop()
        _read_attributes(prefix.rstrip("/"), group, found)
        for key in group:
            path = prefix + _utf8(key)
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise _Refused(f"{path} is an external or soft link, which is refused")
            item = group[key]
            info = h5o.get_info(item.id)
            if (info.fileno, info.addr) in seen or len(seen) > _MAX_OBJECTS:
                raise _Refused(f"{path} is linked twice, or the file has too many objects")
            seen.add((info.fileno, info.addr))
            if isinstance(item, h5py.Group):
                groups.append((path + "/", item))
            elif isinstance(item, h5py.Dataset):
                found["weights"][path] = _describe(path, item)
            else:
                raise _Refused(f"{path} is neither group nor dataset, but {type(item)}")
    return found


def _read_attributes(path: str, group: Any, found: dict[str, dict[str, Any]]) -> None:
    """Adds a group's name, and the lists of names that legacy files have."""
    for key in group.attrs:
        if key == "name" and isinstance(name := group.attrs[key], str):
            found["names"][path] = _utf8(name)
        elif _LISTS.fullmatch(key):
            found["lists"].setdefault(path, {})[key] = [_utf8(name) for name in group.attrs[key]]


def _utf8(name: str | bytes) -> str:
    """Returns a name, which h5py has as bytes or with surrogates where it isn't UTF-8."""
    try:
        text = name.decode() if isinstance(name, bytes) else name
        text.encode()
    except UnicodeError:
        raise _Refused(f"the name {name!r} isn't UTF-8") from None
    return text


def _describe(path: str, dataset: Any) -> dict[str, Any]:
    """Returns shape, type and place of a dataset whose values all lie in the file in one piece."""
    import h5py

    plist = dataset.id.get_create_plist()
    if dataset.external or dataset.is_virtual:
        raise _Refused(f"{path} has its values in another file, which is refused")
    if plist.get_nfilters():
        raise _Refused(f"{path} is compressed, which Keras never does; it is refused")
    if dataset.shape is None or dataset.id.get_storage_size() < dataset.nbytes:
        raise _Refused(f"{path} declares shape {dataset.shape}, but stores fewer values")
    h5d, h5t = h5py.h5d, h5py.h5t
    if plist.get_layout() != h5d.CONTIGUOUS:
        raise _Refused(f"{path} isn't stored in one piece, as Keras does; it is refused")
    # Raw bytes are a NumPy type's only if the file's own type is that type and no likeness of it.
    plain = dataset.dtype.kind in "biufV" and not dataset.dtype.names
    if plain and dataset.id.get_type() != h5t.py_create(dataset.dtype, logical=True):
        raise _Refused(f"{path} has a type that NumPy hasn't: {dataset.dtype}; it is refused")
    note = dataset.attrs["dtype"] if "dtype" in dataset.attrs else None
    return {
        "shape": list(dataset.shape),
        "dtype": dataset.dtype.str if plain else None,
        "type": str(dataset.dtype),
        "offset": dataset.id.get_offset(),
        "bfloat16": isinstance(note, str) and note == "bfloat16" and dataset.dtype.itemsize == 2,
    }


def _main() -> None:
    import h5py

    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(used.ru_utime + used.ru_stime) + MAX_CPU_SECONDS
    for limit, value in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, _MAX_BYTES),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):  # a lower one is in force
            resource.setrlimit(limit, (value, value))
    try:
        with h5py.File(sys.stdin.buffer, "r") as file:
            text = json.dumps(_walk(file))
        if len(text) > _MAX_OUTPUT:
            raise _Refused("the file has too many objects")
    except _Refused as error:
        sys.stderr.write(str(error))
        sys.exit(REFUSED)
    except Exception as error:  # h5py raises all kinds
        sys.stderr.write(f"can't be read, it seems to be damaged: {error}")
        sys.exit(REFUSED)
    print(text)


if __name__ == "__main__":
    _main()
