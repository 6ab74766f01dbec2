"""A trained model as files that others can use, without this package or with it.

model.safetensors   its weights
config.json         what it is: architecture, preprocessing, classes, temperature, metrics
model.stablehlo     from pixels to probabilities, for `jax.export.deserialize`
model.onnx          the same for ONNX Runtime, with the extra `onnx`
README.md           a model card, as the Hugging Face Hub reads it
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import tempfile
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from etils import epath

from mixkd_jax.export import card
from mixkd_jax.files import absolute, in_bucket, write_bytes, write_json, write_text
from mixkd_jax.models.network import Network
from mixkd_jax.run import models, stored
from mixkd_jax.run.stored import HUB, ModelError, StoredModel

PLATFORMS = ("cpu", "cuda", "tpu")
STABLEHLO = "model.stablehlo"
ONNX = "model.onnx"


def export(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> str:
    """Writes a trained model to a folder, or to a repository on the Hugging Face Hub.

    Args:
      path: of the model, as `mixkd_jax.load_model` takes it.
      out: a new or empty folder, or hf://owner/repository, which is made if it isn't there.

    Returns:
      Where it was written to.

    Raises:
      ModelError: if there is no such model, or `out` can't be written to. Nothing is written then.
    """
    text = os.fspath(out)
    if text.startswith(HUB):
        repository = text.removeprefix(HUB)
        if repository.count("/") != 1:
            raise ModelError(f"--out: expected hf://owner/repository, got {text}")
        model = stored.load(path)
        with tempfile.TemporaryDirectory() as folder:
            write(model, epath.Path(folder), repository)
            return _upload(folder, repository)
    folder = absolute(text)
    if in_bucket(folder):
        raise ModelError(f"--out: expected a folder of this machine or hf://, got {text}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"--out: expected a new or an empty folder, got {text}")
    write(stored.load(path), folder, folder.name)
    return text


def write(model: StoredModel, folder: epath.Path, name: str) -> None:
    """Writes all files of a model into a folder; `name` is the title of its card."""
    for package in ("safetensors", "flatbuffers"):  # the latter for `jax.export`
        if importlib.util.find_spec(package) is None:
            raise ModelError(f"--out: needs {package}: pip install 'mixkd-jax[weights]'")
    from safetensors.numpy import save

    flat: dict[str, Any] = flax.traverse_util.flatten_dict(model.variables, sep="/")  # pyright: ignore[reportAssignmentType]
    arrays = {key: np.ascontiguousarray(value) for key, value in flat.items()}
    # All are made before any is written, so that what fails leaves no folder behind.
    files = {stored.WEIGHTS: save(arrays, {"format": "flax"}), STABLEHLO: to_stablehlo(model)}
    has_onnx = importlib.util.find_spec("onnx") is not None
    if has_onnx:
        files[ONNX] = to_onnx(model)
    for file, content in files.items():
        write_bytes(folder / file, content)
    write_json(folder / "config.json", model.about)
    write_text(folder / "README.md", card.write(model.about, name, has_onnx=has_onnx))


def to_stablehlo(model: StoredModel) -> bytes:
    """Returns the serialized function from u8[B, H, W, C] to "logits" and "probabilities".

    Both are f32[B, C]. Preprocessing and calibration are inside; B is free.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *model.about["images"]["shape"]), np.uint8)
    function = jax.jit(_function(model, model.network))
    return bytes(jax.export.export(function, platforms=PLATFORMS)(images).serialize())


def to_onnx(model: StoredModel) -> bytes:
    """Returns the same function as an ONNX model, in float32 whatever the model computes in.

    Raises:
      ModelError: if the model does what has no ONNX operator here.
    """
    from mixkd_jax.export import onnx

    about = model.about
    module = models.create_module(
        about["architecture"]["model"],
        about["architecture"]["head"],
        "float32",
        num_classes=len(about["class_names"]),
    )
    network = dataclasses.replace(model.network, module=module)
    try:
        return onnx.convert(_function(model, network), about["images"]["shape"])
    except onnx.OnnxError as error:
        raise ModelError(f"{ONNX}: {error}") from None


def _function(model: StoredModel, network: Network) -> Any:
    calibrated = model.about["calibrated"]
    temperature = calibrated["temperature"] if calibrated else 1.0

    def classify(images: jax.Array) -> dict[str, jax.Array]:
        logits = network.logits(model.variables, images)
        return {"logits": logits, "probabilities": jax.nn.softmax(logits / temperature)}

    return classify


def _upload(folder: str, repository: str) -> str:
    """Uploads a folder to the Hub, as one commit, and returns its address."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise ModelError(
            "--out: hf:// needs huggingface_hub: pip install 'mixkd-jax[weights]'"
        ) from error
    api = HfApi()
    try:
        api.create_repo(repository, repo_type="model", exist_ok=True)
        done = api.upload_folder(
            repo_id=repository,
            repo_type="model",
            folder_path=folder,
            commit_message="Export of mixkd_jax",
        )
    except (OSError, ValueError) as error:  # its own errors have no other base in common
        raise ModelError(
            f"--out: {repository} can't be written to: {type(error).__name__}: {error}; log in "
            "with `hf auth login`"
        ) from error
    return str(done)
