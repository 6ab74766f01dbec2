"""Pretrained weights from files of Keras or PyTorch; nothing in a file is ever executed.

h5py, safetensors and huggingface_hub, of the extra ``weights``, are imported when a file is read.
"""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from mixkd_jax.weights import keras, torch
from mixkd_jax.weights.errors import WeightsError, unreadable
from mixkd_jax.weights.hub import local_path

__all__ = ["WeightsError", "load_backbone", "load_weights"]

_HEADS = ("head", "classifier")  # of the models of ImageNet, and of the others
_PICKLE = """a pickle of PyTorch, which can run any code when it is read and never is here; \
convert it once, where torch and safetensors are installed:
  state = torch.load({path!r}, map_location="cpu", weights_only=True)
  safetensors.torch.save_file(state.get("state_dict", state.get("model", state)), {new!r})"""


def load_weights(
    path: str | os.PathLike[str],
    model: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    host: bool = False,
) -> dict[str, Any]:
    """Reads every weight of a model from a file.

    Args:
        path: A `.keras`, `.weights.h5` (Keras 3) or legacy `.h5` file, or a `.safetensors` file of
            timm, torchvision, RepDistiller or mdistiller; or ``hf://owner/repository/file`` on the
            Hugging Face Hub. What it is, is told by its first bytes.
        model: One that Keras has, such as ``create_model("resnet50", ...)``, or one that PyTorch
            has: ``create_model("resnet50_torch", ...)``, or a CIFAR ResNet or WRN.
        image_shape: Height, width and channels of its images.
        host: NumPy arrays instead of JAX arrays on the default device: for what is to be split
            over several.

    Returns:
        ``{"params": ..., "batch_stats": ...}`` for ``model.apply``, the latter only where the model
        has statistics; float32.

    Raises:
        WeightsError: If the file can't be had, is damaged or unsafe, has NaN or infinite values, or
            doesn't fit; then the message names each weight that is missing, extra or has another
            shape.
        TypeError: If the file is Keras' and Keras has no such model.
    """
    return _load(path, model, image_shape, headless=False, host=host)


def load_backbone(
    path: str | os.PathLike[str],
    model: nn.Module,
    image_shape: tuple[int, int, int],
    variables: Mapping[str, Any],
    *,
    host: bool = False,
) -> dict[str, Any]:
    """Reads the backbone from a file and keeps the head: where fine-tuning starts.

    Args:
        path: As of `load_weights`; with any head, such as that of an ImageNet download, or none.
        model: As of `load_weights`.
        image_shape: Height, width and channels of its images.
        variables: As ``model.init`` returns them.
        host: As of `load_weights`.

    Returns:
        ``variables`` with the backbone's replaced.

    Raises:
        WeightsError: As `load_weights` does; a classifier in the file is no extra weight.
        TypeError: As `load_weights` does.
    """
    loaded = _load(path, model, image_shape, headless=True, host=host)
    return {name: {**tree, **loaded.get(name, {})} for name, tree in variables.items()}


def _load(
    path: str | os.PathLike[str],
    model: nn.Module,
    image_shape: tuple[int, int, int],
    *,
    headless: bool,
    host: bool,
) -> dict[str, Any]:
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    tree = jax.eval_shape(model.init, jax.random.key(0), images)
    shapes: dict[tuple[str, ...], Any] = flax.traverse_util.flatten_dict(tree)
    wanted = {
        path: leaf.shape for path, leaf in shapes.items() if not (headless and path[1] in _HEADS)
    }
    file = local_path(os.fspath(path))
    reader = torch if _is_safetensors(file) else keras
    flat = reader.read(file, model, wanted, headless=headless)
    asarray = np.ascontiguousarray if host else jnp.asarray
    return jax.tree.map(asarray, flax.traverse_util.unflatten_dict(flat))


def _is_safetensors(path: Path) -> bool:
    """Tells safetensors from Keras' files by the first bytes; raises WeightsError for a pickle."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # The size of the header, of at most 100 MB, and its first character.
        if start[4:] == b"\0\0\0\0{":
            return True
        if start[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive:
                pickled = any(name.endswith("data.pkl") for name in archive.namelist())
        else:
            pickled = start[:1] == b"\x80" and path.suffix != ".safetensors"
    except (OSError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path}: {unreadable(error)}") from error
    if pickled:
        new = str(path.with_suffix(".safetensors"))
        raise WeightsError(f"{path}: " + _PICKLE.format(path=str(path), new=new))
    return path.suffix == ".safetensors"
