"""Models as a run left them, or as they were exported: what they are, and their weights.

Both are described alike, as the `config.json` of an exported model holds it (`Description`); that
of a model in a run's folder is put together from the run's files.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from typing import Any

import flax.traverse_util
import jax
from etils import epath

from mixkd_jax import config
from mixkd_jax.config import ConfigError
from mixkd_jax.files import absolute
from mixkd_jax.folder import TEACHER, Folder, ModelFolder, split_name
from mixkd_jax.models.network import Network, Variables
from mixkd_jax.run import models
from mixkd_jax.training.checkpoint import CheckpointError, read_variables
from mixkd_jax.weights.errors import WeightsError

Description = dict[str, Any]
WEIGHTS = "model.safetensors"
FORMAT = "mixkd-jax model, version 1"
_FORMS = "runs/a/arms/mixkd/0, runs/a/teacher, an exported folder or hf://owner/repository"
HUB = "hf://"


class ModelError(ValueError):
    """A model that can't be loaded, or images that don't fit it."""


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A model with its variables.

    Attributes:
      where: it was found.
      about: what `config.json` of an exported model holds; `describe` says what.
      network: from pixels to logits.
      variables: float32.
    """

    where: str
    about: Description
    network: Network
    variables: Variables


def load(path: str | os.PathLike[str]) -> StoredModel:
    """Loads a model of a run's folder, an exported one, or one on the Hugging Face Hub.

    Raises:
      ModelError: if there is none, or its files are damaged or of another model.
    """
    found = find(path)
    network = _network(found)
    shapes = jax.eval_shape(
        functools.partial(network.init, image_shape=tuple(found.about["images"]["shape"])),
        jax.eval_shape(jax.random.key, 0),
    )
    return StoredModel(os.fspath(path), found.about, network, read(found, shapes))


@dataclasses.dataclass(frozen=True)
class Found:
    """Where the files of a model are, and what they say of it; no weights are read yet.

    Attributes:
      folder: of the model.
      about: as of `StoredModel`.
      checkpoints: the folder of them, of a run's model; None of an exported one.
      run: the folder of the run, if it is of one.
    """

    folder: epath.Path
    about: Description
    checkpoints: epath.Path | None = None
    run: Folder | None = None

    @property
    def is_teacher(self) -> bool:
        """Whether it is the teacher of its run."""
        return self.about["training"]["model"] == TEACHER


def find(path: str | os.PathLike[str]) -> Found:
    """Finds a model by its path; a run's own folder stands for its teacher.

    Raises:
      ModelError: if there is none.
    """
    text = os.fspath(path)
    folder = _download(text) if text.startswith(HUB) else absolute(text)
    here = _read_json(folder / "config.json")
    if here.get("format") == FORMAT:
        return Found(folder, here)
    for root, name in _places(folder):
        settings = _read_json(root / "config.json")
        if "config" in settings and "data" in settings:
            run = Folder(root)
            own = run.model(name)
            if not own.path.exists():
                known = ", ".join(run.model_names()) or "none yet"
                raise ModelError(f"{text}: expected a model of the run {root}, which has {known}")
            return Found(own.path, describe(run, name), own.path, run)
    raise ModelError(f"{text}: expected a model ({_FORMS}), got a path that is none of them")


def read(found: Found, shapes: Any) -> Variables:
    """Returns a model's variables, which have the `shapes` that `Network.init` gives them.

    Raises:
      ModelError: if they are damaged, not finite or don't fit; it names each that doesn't.
    """
    try:
        if found.checkpoints is not None:
            return read_variables(found.checkpoints, shapes)[1]
        return _read_safetensors(found.folder / WEIGHTS, shapes)
    except (CheckpointError, WeightsError) as error:
        raise ModelError(str(error)) from None


def is_folder(path: str) -> bool:
    """Whether a path that may be a file of weights is a model's or a run's folder instead."""
    if path.startswith(HUB):
        return path.removeprefix(HUB).count("/") == 1
    return absolute(path).is_dir()


def _places(folder: epath.Path) -> list[tuple[epath.Path, str]]:
    """Returns the run's folder and the model's name that a path may mean."""
    # Some shells complete no colons, so an arm may be given as the config writes it.
    parts = [part.replace(":", "~") if "=" in part else part for part in folder.parts]
    best = ["best"] if parts[-1:] == ["best"] else []
    parts = parts[: len(parts) - len(best)]
    places = [(folder, TEACHER)]
    for depth, valid in ((1, lambda name: name == TEACHER), (3, split_name)):
        name = "/".join(parts[-depth:])
        if valid(name):
            root = epath.Path(*folder.parts[: len(parts) - depth])
            places.append((root, "/".join([name, *best])))
    return places


def describe(run: Folder, name: str) -> Description:
    """Returns what is known of a run's model.

    Args:
      run: its folder.
      name: of the model, such as "arms/mixkd/0" or "arms/mixkd/0/best".

    Returns:
      "format"; "architecture": the config's model, head, dtype and pixels; "images": "shape"
      (height, width, channels) and "resize" (what an image is resized to cover before its middle
      is taken), "mean" and "std" (on the scale of [0, 1]), "bgr" (whether the network turns the
      channels round), "image_size" (that it resizes to itself, 0 if it doesn't); "class_names";
      "metrics" on the test images, "calibrated": the same after dividing logits by its
      "temperature", or None; "training": the model's name, step and recipe; "data", "versions" and
      "git_commit" as the run's `config.json` has them.

    Raises:
      ModelError: if the files lack something.
    """
    about = _read_json(run.config)
    try:
        settings = config.parse(about["config"])
        data = about["data"]
        training = settings.teacher if name == TEACHER else settings.student
        if name == TEACHER and training.model == models.GIVEN:
            raise ModelError(
                f"{run.root}: its teacher is a function that was given from Python, and is not in "
                "its folder"
            )
        mean, std, bgr = models.pixels(settings.data, training)
        evaluation = _read_json(ModelFolder(run.root / name).evaluation)
        return {
            "format": FORMAT,
            "architecture": {
                field: getattr(training, field) for field in ("model", "head", "dtype", "pixels")
            },
            "images": {
                "shape": data["image_shape"],
                "resize": data["resize"],
                "mean": list(mean),
                "std": list(std),
                "bgr": bgr,
                "image_size": training.image_size or settings.data.image_size,
            },
            "class_names": data["class_names"],
            "metrics": evaluation.get("metrics"),
            "calibrated": evaluation.get("calibrated"),
            "training": {
                "model": name,
                **{k: evaluation.get(k) for k in ("step", "recipe", "teacher")},
                **{k: about["config"][k] for k in ("seed", "data")},
            },
            "data": data,
            "versions": about["versions"],
            "git_commit": about["git_commit"],
        }
    except (ConfigError, KeyError) as error:
        raise ModelError(
            f"{run.config}: expected the fields of this version of mixkd_jax: {error}"
        ) from None


def _network(found: Found) -> Network:
    about = found.about
    try:
        architecture, images = about["architecture"], about["images"]
        module = models.create_module(
            architecture["model"],
            architecture["head"],
            architecture["dtype"],
            num_classes=len(about["class_names"]),
        )
        mean, std = tuple(images["mean"]), tuple(images["std"])
        return Network(module, mean, std, images["bgr"], images["image_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{found.folder}: config.json describes no model: {error}") from None


def _read_safetensors(path: epath.Path, shapes: Any) -> dict[str, Any]:
    """Reads an exported model's weights; raises WeightsError naming each that doesn't fit."""
    try:
        import safetensors
    except ImportError as error:
        raise WeightsError(
            f"{path}: needs safetensors: pip install 'mixkd-jax[weights]'"
        ) from error

    from mixkd_jax.weights.assign import Stored, Target, read_all

    wanted: dict[Any, Any] = flax.traverse_util.flatten_dict(shapes)  # pyright: ignore[reportAssignmentType]
    targets = [
        Target([key], "/".join(key), leaf.shape, lambda values: [values])
        for key, leaf in wanted.items()
    ]
    try:
        with safetensors.safe_open(os.fspath(path), framework="numpy") as file:  # pyright: ignore[reportPrivateImportUsage]
            stored = {}
            for name in file.keys():
                view = file.get_slice(name)
                kind, shape = view.get_dtype(), tuple(view.get_shape())
                read = functools.partial(file.get_tensor, name)
                stored[name] = Stored(name, shape, kind, kind.startswith("F"), read)
            return flax.traverse_util.unflatten_dict(read_all(targets, stored))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(
            f"{path}: no whole safetensors file, truncated or damaged: {error}"
        ) from None


def _download(path: str) -> epath.Path:
    """Fetches an exported model from the Hub, which keeps it: the next call needs no network."""
    repository, _, revision = path.removeprefix(HUB).partition("@")
    if repository.count("/") != 1:
        raise ModelError(
            f"{path}: expected hf://owner/repository or hf://owner/repository@revision"
        )
    try:
        import huggingface_hub
    except ImportError as error:
        raise ModelError(
            f"{path}: needs huggingface_hub: pip install 'mixkd-jax[weights]'"
        ) from error
    try:
        fetched = huggingface_hub.snapshot_download(
            repository, revision=revision or None, allow_patterns=["config.json", WEIGHTS]
        )
    except (OSError, ValueError) as error:  # its own errors have no other base in common
        raise ModelError(f"{path}: can't be fetched: {type(error).__name__}: {error}") from error
    return epath.Path(fetched)


def _read_json(path: epath.Path) -> dict[str, Any]:
    """Returns what a JSON file holds; nothing if it isn't there.

    Raises:
      ModelError: if it is no JSON object.
    """
    try:
        found = json.loads(path.read_text())
    except OSError:
        return {}
    except ValueError as error:
        raise ModelError(f"{path}: expected JSON: {error}") from None
    return found if isinstance(found, dict) else {}
