"""Pretrained weights from Keras files, into Flax variables; nothing in a file is ever executed.

h5py and huggingface_hub, of the extra ``weights``, are imported when a file is read.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from mixkd_jax.weights import config as _config
from mixkd_jax.weights.errors import WeightsError
from mixkd_jax.weights.files import open_weights
from mixkd_jax.weights.hub import local_path
from mixkd_jax.weights.layout import VARIABLES, KerasLayer, keras_layers
from mixkd_jax.weights.places import stored_weights

__all__ = ["WeightsError", "load_backbone", "load_keras"]


class _Target(NamedTuple):
    """Where a weight goes: its path in the variables, its shape in the file, what makes it ours."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    convert: Callable[[np.ndarray], np.ndarray]


def load_keras(
    path: str | os.PathLike[str],
    model: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    host: bool = False,
) -> dict[str, Any]:
    """Reads every weight of a model from a Keras file.

    Args:
        path: A `.keras`, `.weights.h5` (Keras 3) or legacy `.h5` file, or
            ``hf://owner/repository/file`` on the Hugging Face Hub.
        model: One of the models that Keras has, such as ``create_model("resnet50", ...)``.
        image_shape: Height, width and channels of its images.
        host: NumPy arrays instead of JAX arrays on the default device: for what is to be split
            over several.

    Returns:
        ``{"params": ..., "batch_stats": ...}`` for ``model.apply``, the latter only where the model
        has statistics; float32.

    Raises:
        WeightsError: If the file can't be had, is damaged or unsafe, or doesn't fit; then the
            message names each weight that is missing, extra or has another shape.
        TypeError: If Keras has no such model.
    """
    return _load(path, model, image_shape, backbone_only=False, host=host)


def load_backbone(
    path: str | os.PathLike[str],
    model: nn.Module,
    image_shape: tuple[int, int, int],
    variables: Mapping[str, Any],
    *,
    host: bool = False,
) -> dict[str, Any]:
    """Reads the backbone from a Keras file and keeps the head: where fine-tuning starts.

    Args:
        path: As of `load_keras`; with any head, such as that of an ImageNet download, or none.
        model: As of `load_keras`.
        image_shape: Height, width and channels of its images.
        variables: As ``model.init`` returns them.
        host: As of `load_keras`.

    Returns:
        ``variables`` with the backbone's replaced.

    Raises:
        WeightsError: As `load_keras` does; a classifier in the file is no extra weight.
        TypeError: If Keras has no such model.
    """
    loaded = _load(path, model, image_shape, backbone_only=True, host=host)
    return {name: {**tree, **loaded.get(name, {})} for name, tree in variables.items()}


def _load(
    path: str | os.PathLike[str],
    model: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    backbone_only: bool,
    host: bool,
) -> dict[str, Any]:
    layers = keras_layers(model)
    expected = _targets(layers, model, image_shape)
    if backbone_only:
        expected = {place: t for place, t in expected.items() if t.path[1] == "backbone"}
    with open_weights(local_path(os.fspath(path))) as (file, config):
        _config.check(config, model)
        stored = stored_weights(file, layers)
        if backbone_only:
            stored = {p: d for p, d in stored.items() if p in expected or not _is_head(p)}
        _check_fit(expected, stored)
        flat = {t.path: t.convert(_read(stored[place])) for place, t in expected.items()}
    asarray = np.asarray if host else jnp.asarray
    return jax.tree.map(
        lambda values: asarray(values, np.float32), flax.traverse_util.unflatten_dict(flat)
    )


def _targets(
    layers: list[KerasLayer], model: nn.Module, image_shape: tuple[int, int, int]
) -> dict[str, _Target]:
    """Returns what the model needs, by place in the file."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    tree = jax.eval_shape(model.init, jax.random.key(0), images)
    shapes: dict[tuple[str, ...], Any] = flax.traverse_util.flatten_dict(tree)
    targets = {}
    for layer in layers:
        paths = [
            (collection, *layer.path, *([leaf] if leaf else []))
            for collection, leaf in VARIABLES[layer.kind]
        ]
        for index, path in enumerate(path for path in paths if path in shapes):
            shape, convert = shapes[path].shape, np.asarray
            if layer.kind == "depthwise_conv2d":  # Keras has [H, W, C, 1], Flax [H, W, 1, C]
                shape, convert = (*shape[:2], shape[3], shape[2]), _swap_channels
            targets[f"{layer.h5}/vars/{index}"] = _Target(path, shape, convert)
    if unplaced := set(shapes) - {target.path for target in targets.values()}:
        raise AssertionError(f"the layout lacks {sorted(unplaced)}")
    return targets


def _swap_channels(kernel: np.ndarray) -> np.ndarray:
    return kernel.swapaxes(2, 3)


def _is_head(place: str) -> bool:
    """Tells whether a weight that isn't the backbone's can be of a classifier on top of it."""
    return place.startswith(("dense", "batch_normalization"))


def _check_fit(expected: Mapping[str, _Target], stored: Mapping[str, Any]) -> None:
    """Raises WeightsError with one line for each weight that is missing, extra or misshapen."""
    problems = []
    for place, target in expected.items():
        name = "/".join(target.path)
        if place not in stored:
            problems.append(f"missing: {name} {list(target.shape)}, as layers/{place}")
        elif stored[place].shape != target.shape:
            got = f"{stored[place].name} {list(stored[place].shape)}"
            problems.append(f"shape: {name} needs {list(target.shape)}, the file has {got}")
        elif stored[place].dtype.kind != "f" and not _is_bfloat16(stored[place]):
            problems.append(f"dtype: {name} needs floats, the file has {stored[place].dtype}")
    for place in stored.keys() - expected.keys():
        problems.append(f"extra: {stored[place].name} {list(stored[place].shape)}")
    if problems:
        raise WeightsError(
            f"weights that don't fit the model: {len(problems)} (is it another architecture, head, "
            f"number of classes or image size?)\n  " + "\n  ".join(sorted(problems))
        )


def _is_bfloat16(dataset: Any) -> bool:
    """Keras saves bfloat16 as two opaque bytes with a note."""
    return dataset.attrs.get("dtype") == "bfloat16" and dataset.dtype.itemsize == 2


def _read(dataset: Any) -> np.ndarray:
    values = np.asarray(dataset)
    return values.view(jnp.bfloat16) if _is_bfloat16(dataset) else values
