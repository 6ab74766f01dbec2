"""A trained model to use: from pixels or files to logits, probabilities and names of classes."""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from mixkd_jax.data import images as decoding
from mixkd_jax.data.types import SUFFIXES
from mixkd_jax.run import stored
from mixkd_jax.run.stored import ModelError, StoredModel

__all__ = ["Model", "ModelError", "Prediction", "load_model"]

_BATCH = 64  # images at once; changes no result but by rounding

Image = str | os.PathLike[str] | np.ndarray


class Prediction(NamedTuple):
    """What a model predicts for one image.

    Attributes:
      image: its path, or its number among the arrays.
      class_name: of the most probable class; "" of an image that can't be read.
      probability: of that class; NaN of an image that can't be read.
      margin: how much more probable that class is than the next one.
      probabilities: f32[C], of all classes in the order of `class_names`.
      error: why the image can't be read; "" if it can.
    """

    image: str
    class_name: str
    probability: float
    margin: float
    probabilities: np.ndarray
    error: str = ""


def load_model(path: str | os.PathLike[str]) -> Model:
    """Loads a trained model.

    Args:
      path: the folder of a run's model, such as "runs/a/arms/mixkd/0" or "runs/a/teacher"; one that
        `--mode=export` has written; or hf://owner/repository of one on the Hugging Face Hub.

    Returns:
      The model, with its variables on the default device.

    Raises:
      ModelError: if there is none, or its files are damaged or of another model. The message names
        the file and, where weights don't fit, each of them.
    """
    return Model(stored.load(path))


class Model:
    """A trained classifier; `load_model` makes one.

    Attributes:
      class_names: of the C classes, in the order of the logits.
      image_shape: height, width and channels of the arrays that it takes.
      metrics: on the test images of its run, by name, such as "accuracy" and "ece".
      temperature: that logits are to be divided by to be calibrated, fitted on images that nothing
        was learned from; None if its run held out none.
      about: all that is known of it, as the `config.json` of an exported model holds it.
    """

    def __init__(self, model: StoredModel):
        """Compiles nothing yet."""
        self._stored = model
        self._variables = jax.device_put(model.variables)
        self._logits = jax.jit(model.network.logits)
        self._features = jax.jit(model.network.logits_and_features)
        about = self.about = model.about
        self.class_names: tuple[str, ...] = tuple(about["class_names"])
        height, width, channels = about["images"]["shape"]
        self.image_shape: tuple[int, int, int] = (height, width, channels)
        self.metrics: dict[str, float] = dict(about["metrics"] or {})
        calibrated = about["calibrated"]
        self.temperature: float | None = calibrated and calibrated["temperature"]

    def __repr__(self) -> str:
        """Returns what it is and where it is from."""
        name = self.about["architecture"]["model"]
        return f"Model({self._stored.where!r}: {name}, {len(self.class_names)} classes)"

    def logits(self, images: Any) -> jax.Array:
        """Returns logits f32[B, C].

        Args:
          images: [B, H, W, C] in [0, 255], of any dtype, as `image_shape` says; `read` makes them.
            May be traced, so that it works within a jit.

        Raises:
          ModelError: for another shape.
        """
        return self._in_batches(self._logits, images)

    def features(self, images: Any) -> jax.Array:
        """Returns the input of the classifier f32[B, D] for `images` as of `logits`.

        Raises:
          ModelError: for another shape, or a model that doesn't give its features.
        """
        if not hasattr(self._stored.network.module, "features"):
            raise ModelError(f"{self._stored.where}: expected a model with a method `features`")

        def features(variables: Any, images: Any) -> Any:
            return self._features(variables, images)[1]

        return self._in_batches(features, images)

    def probabilities(self, images: Any, *, calibrated: bool = False) -> jax.Array:
        """Returns probabilities f32[B, C].

        Args:
          images: as of `logits`.
          calibrated: whether to divide logits by `temperature` first.

        Raises:
          ModelError: for another shape, or if there is no temperature.
        """
        return jax.nn.softmax(self.logits(images) / self._divisor(calibrated))

    def predict(
        self, images: Image | Sequence[Image], *, calibrated: bool = False
    ) -> list[Prediction]:
        """Predicts the classes of image files or arrays, of any size.

        Args:
          images: a file, a folder of JPEG and PNG files (with those in its folders), or several
            files; or arrays u8[H, W, C]: one, several, or one array of them. What has another size
            than `image_shape` is resized and cropped as the test images of its run were.
          calibrated: as of `probabilities`.

        Returns:
          A prediction for each, in their order. An image that can't be read has an `error` instead.

        Raises:
          ModelError: if there are no images, or there is no temperature.
        """
        return list(self.predict_each(images, calibrated=calibrated))

    def predict_each(
        self, images: Image | Sequence[Image], *, calibrated: bool = False
    ) -> Iterator[Prediction]:
        """Yields what `predict` returns, while further images are still unread."""
        divisor, every = self._divisor(calibrated), _listed(images)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            for start in range(0, len(every), _BATCH):
                some = every[start : start + _BATCH]
                read = list(threads.map(self._read_or_error, some))
                pixels = [image for image in read if isinstance(image, np.ndarray)]
                rows: Iterator[np.ndarray] = iter(())
                if pixels:
                    padding = [pixels[0]] * (min(_BATCH, len(every)) - len(pixels))
                    logits = self.logits(np.stack(pixels + padding))
                    rows = iter(np.asarray(jax.nn.softmax(logits / divisor)))
                for number, (image, found) in enumerate(zip(some, read, strict=True), start):
                    name = str(number) if isinstance(image, np.ndarray) else os.fspath(image)
                    if isinstance(found, str):
                        nothing = np.full(len(self.class_names), np.nan, np.float32)
                        yield Prediction(name, "", float("nan"), float("nan"), nothing, found)
                    else:
                        yield self._prediction(name, next(rows))

    def read(self, images: Image | Sequence[Image]) -> np.ndarray:
        """Returns images as arrays u8[N, H, W, C] of `image_shape`, read as those of its run were.

        Args:
          images: as of `predict`.

        Raises:
          ModelError: if there are none, or one can't be read.
        """
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
            return np.stack(list(threads.map(self._read, _listed(images))))

    def _read(self, image: Image) -> np.ndarray:
        """Returns one image u8[H, W, C]."""
        where = "array" if isinstance(image, np.ndarray) else os.fspath(image)
        height, width, channels = self.image_shape
        try:
            if isinstance(image, np.ndarray):
                if image.shape == self.image_shape and image.dtype == np.uint8:
                    return image
                decoded = decoding.decode(image)
            else:
                decoded = decoding.decode(pathlib.Path(image).expanduser().read_bytes())
            resize = tuple(self.about["images"]["resize"])
            pixels = decoding.center_crop(decoded, (height, width), resize)
            grey = decoding.grey(pixels) if channels == 1 else pixels
        except OSError as error:
            raise ModelError(f"{where}: can't be read: {error.strerror or error}") from None
        except Exception as error:  # Pillow raises many types for what it cannot decode
            raise ModelError(f"{where}: cannot decode the image: {error}") from None
        return grey

    def _read_or_error(self, image: Image) -> np.ndarray | str:
        try:
            return self._read(image)
        except ModelError as error:
            return str(error)

    def _prediction(self, image: str, probabilities: np.ndarray) -> Prediction:
        best = int(probabilities.argmax())
        others = np.delete(probabilities, best)
        margin = float(probabilities[best] - others.max(initial=0))
        return Prediction(
            image, self.class_names[best], float(probabilities[best]), margin, probabilities
        )

    def _divisor(self, calibrated: bool) -> float:
        if not calibrated:
            return 1.0
        if self.temperature is None:
            raise ModelError(
                f"{self._stored.where}: expected a model with a temperature, got one whose run "
                "held out no images to fit it on (config.data.validation_examples)"
            )
        return self.temperature

    def _in_batches(self, function: Callable[..., jax.Array], images: Any) -> jax.Array:
        shape = np.shape(images)
        if len(shape) != 4 or shape[1:] != self.image_shape:
            raise ModelError(
                f"images: expected an array [B, {', '.join(map(str, self.image_shape))}], got "
                f"shape {list(shape)}; `read` makes one of files and of arrays of any size"
            )
        if isinstance(images, Tracer) or shape[0] <= _BATCH:
            return function(self._variables, images)
        parts = []
        for start in range(0, shape[0], _BATCH):
            part = jnp.asarray(images[start : start + _BATCH])
            missing = _BATCH - len(part)
            padded = jnp.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0)))
            parts.append(function(self._variables, padded)[: len(part)])
        return jnp.concatenate(parts)


def _listed(images: Image | Sequence[Image]) -> Sequence[Image]:
    """Returns the single images that are meant."""
    if isinstance(images, np.ndarray):
        every = list(images) if images.ndim == 4 else [images]
    elif isinstance(images, str | os.PathLike):
        path = pathlib.Path(images).expanduser()
        every = [images] if not path.is_dir() else [os.fspath(file) for file in _files(path)]
    else:
        every = list(images)
    if not every:
        raise ModelError(f"images: expected some ({', '.join(SUFFIXES)}), got none in {images}")
    return every


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    )
