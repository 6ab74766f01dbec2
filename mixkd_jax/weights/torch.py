"""The weights of a safetensors file, for the models as PyTorch has them; needs no PyTorch.

The safetensors package checks the header: sizes, offsets that overlap or leave the file, JSON.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Any

import flax.linen as nn
import numpy as np

from mixkd_jax.models import create_model, model_names
from mixkd_jax.weights.assign import Path, Stored, Target, read_all
from mixkd_jax.weights.errors import WeightsError
from mixkd_jax.weights.torch_layout import Layout, layouts

_FLOATS = ("F64", "F32", "F16", "BF16")
_ATTENTION = ("query", "key", "value")  # in the order of their common weight
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_WEIGHT = re.compile(r"[._](weight|bias|running_mean|running_var)$")
# What wrappers put before each name: DataParallel, torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")


def read(
    path: FilePath, model: nn.Module, shapes: Mapping[Path, tuple[int, ...]], *, headless: bool
) -> dict[Path, np.ndarray]:
    """Reads a file; see `mixkd_jax.weights.load_weights`.

    Args:
        path: On this machine.
        model: What the weights are for.
        shapes: Of the variables to fill: the model's, without its head's if ``headless``.
        headless: Whether a head in the file is passed over.
    """
    try:
        import safetensors
    except ImportError as error:
        raise WeightsError(
            f"{path}: needs safetensors: pip install 'mixkd-jax[weights]'"
        ) from error
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            stored = _stored(file)
            layout = _layout(model, stored)
            if headless:
                stored = {n: weight for n, weight in stored.items() if not layout.in_head(n)}
            elif unplaced := [p for p in shapes if _place(layout, p) is None]:
                raise WeightsError(
                    "in PyTorch's files the head is one linear layer, here it has "
                    f"{'/'.join(unplaced[0])}: create the model with the head 'imagenet', or "
                    "read the backbone alone"
                )
            return read_all(_targets(layout, shapes), stored, _hint(layout, stored))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    except (OSError, safetensors.SafetensorError) as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise WeightsError(
            f"{path}: no whole safetensors file, truncated or damaged: {reason}"
        ) from error


def _stored(file: Any) -> dict[str, Stored]:
    """Returns the weights by their names without a wrapper's, and without BatchNorm's counts."""
    names = {name: name for name in file.keys() if not name.endswith("num_batches_tracked")}
    while wrapped := [w for w in _WRAPPERS if names and all(n.startswith(w) for n in names)]:
        names = {short.removeprefix(wrapped[0]): name for short, name in names.items()}
    stored = {}
    for short, name in names.items():
        view = file.get_slice(name)
        dtype = view.get_dtype()
        read = functools.partial(file.get_tensor, name)
        stored[short] = Stored(name, tuple(view.get_shape()), dtype, dtype in _FLOATS, read)
    return stored


def _layout(model: nn.Module, stored: Mapping[str, Stored]) -> Layout:
    """Returns the layout of the model that has most names in common with the file."""
    known, layers = layouts(model), _layers(stored)
    if not known:
        same = _models_of(layers)
        raise WeightsError(
            "holds weights of a PyTorch model, which this model isn't: "
            + (f"choose the model {same}" if same else "no model has its layers")
        )
    return max(known, key=lambda layout: len(layers & set(layout.layers.values())))


def _layers(names: Mapping[str, Stored]) -> set[str]:
    return {_WEIGHT.sub("", name) for name in names}


def _models_of(layers: set[str]) -> str:
    """Returns the names of the models that have these layers, with any head or none."""
    return " or ".join(
        repr(name)
        for name in model_names()
        for layout in layouts(create_model(name, num_classes=1))
        if layers - {layout.head} == set(layout.layers.values()) - {layout.head}
    )


def _hint(layout: Layout, stored: Mapping[str, Stored]) -> str:
    """Returns what the file holds if its layers aren't those of the model."""
    layers = _layers(stored)
    if layers - {layout.head} == set(layout.layers.values()) - {layout.head}:
        return ""
    same = _models_of(layers)
    return f"its layers are those of the model {same}" if same else ""


def _place(layout: Layout, path: Path) -> str | None:
    """Returns the name of a variable in the file, None if the layout has none."""
    _, *layer, leaf = path
    if name := layout.layers.get((*layer, leaf)):
        return name
    if name := layout.layers.get(tuple(layer)):
        separator = "_" if name.endswith("in_proj") else "."  # of nn.MultiheadAttention
        return f"{name}{separator}{_LEAVES[leaf]}"
    return None


def _targets(layout: Layout, shapes: Mapping[Path, tuple[int, ...]]) -> Iterator[Target]:
    """Yields what the model needs, with its name in the file."""
    places: dict[str, list[Path]] = {}
    for path in shapes:
        place = _place(layout, path)
        assert place is not None, f"the layout lacks {path}"
        places.setdefault(place, []).append(path)
    for place, paths in places.items():
        if len(paths) > 1:
            paths.sort(key=lambda path: _ATTENTION.index(path[-2]))
        yield _target(place, paths, shapes[paths[0]])


def _target(place: str, paths: Sequence[Path], shape: tuple[int, ...]) -> Target:
    """Returns a weight of ``shape`` here, [out, in, H, W] or [out, in] there."""
    leaf = paths[0][-1]
    if len(paths) > 1:  # query, key and value, each [in, heads, width of a head]
        inputs = shape[:1] if leaf == "kernel" else ()
        outputs = math.prod(shape[len(inputs) :])
        return Target(
            paths,
            place,
            (len(paths) * outputs, *inputs),
            lambda values: [part.T.reshape(shape) for part in np.split(values, len(paths))],
        )
    if leaf == "kernel" and len(shape) == 4:
        stored = (shape[3], shape[2], shape[0], shape[1])
        return Target(paths, place, stored, lambda values: [values.transpose(2, 3, 1, 0)])
    if leaf == "kernel":  # of an attention's last layer: [heads, width of a head, out]
        stored = (shape[-1], math.prod(shape[:-1]))
        return Target(paths, place, stored, lambda values: [values.T.reshape(shape)])
    stored = shape
    if leaf == "position_embedding":
        stored = (1, *shape)
    elif place.endswith("layer_scale"):  # of torchvision; timm's is flat
        stored = (*shape, 1, 1)
    return Target(paths, place, stored, lambda values: [values.reshape(shape)])
