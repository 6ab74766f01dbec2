"""Flax Linen classifiers by name.

Every model is called alike: ``module.apply(variables, images, train=False)`` maps preprocessed
floating images [B, H, W, C] to float32 logits [B, num_classes]. With ``train=True`` and
``mutable=["batch_stats"]`` it normalises with the statistics of the batch and returns updated
running ones. ``method="features"`` gives the input of the classifier instead of the logits.

A new family is a module file here and its entries in ``_MODELS``.
"""

import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from mixkd_jax.models import imagenet, own
from mixkd_jax.models.cnn import CNN
from mixkd_jax.models.imagenet import pixel_statistics
from mixkd_jax.models.preprocess import standardize
from mixkd_jax.models.resnet import ResNet
from mixkd_jax.models.teachers import TeacherError, host_teacher
from mixkd_jax.models.wrn import WideResNet

__all__ = [
    "TeacherError",
    "create_model",
    "host_teacher",
    "model_names",
    "pixel_statistics",
    "standardize",
]


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A named model: its module, the fields its name fixes, the fields a caller may set."""

    module: Callable[..., nn.Module]
    fixed: Mapping[str, Any]
    options: tuple[str, ...] = ()


_X4 = (32, 64, 128, 256)  # of RepDistiller: four times the stages, twice the stem

_MODELS: dict[str, _Entry] = {
    "cnn": _Entry(CNN, {}, options=("width",)),
    **{f"resnet{d}": _Entry(ResNet, {"depth": d}) for d in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{d}x4": _Entry(ResNet, {"depth": d, "widths": _X4}) for d in (8, 32)},
    **{
        f"wrn-{d}-{k}": _Entry(WideResNet, {"depth": d, "factor": k}, options=("dropout",))
        for d, k in ((16, 1), (16, 2), (40, 1), (40, 2), (28, 10))
    },
    **{
        name: _Entry(functools.partial(imagenet.create, name), {}, ("head", "train_backbone"))
        for name in imagenet.NAMES
    },
}


def model_names() -> tuple[str, ...]:
    """Returns the names that `create_model` knows."""
    return tuple(_MODELS)


def create_model(
    name: str, *, num_classes: int, dtype: DTypeLike = jnp.float32, **options: Any
) -> nn.Module:
    """Builds a model without its variables.

    Args:
        name: One of `model_names()`, or "package.module:factory" of a user's own, as
            `mixkd_jax.models.own.CONTRACT` says.
        num_classes: Number of logits.
        dtype: Of the computation, such as ``"bfloat16"``; parameters, BatchNorm statistics and
            logits are float32.
        **options: Of the family: ``width`` of ``cnn``, ``dropout`` of ``wrn-*``; ``head`` of the
            models of ImageNet (``"student"``, ``"teacher"`` or ``"imagenet"``, by default the one
            that the paper gives it, and ImageNet's where the name ends in ``_torch``) and
            ``train_backbone`` (False: training freezes the backbone, see
            `mixkd_jax.models.heads.Classifier`).

    Returns:
        The Linen module.

    Raises:
        ValueError: For an unknown name or option, naming the right ones and the closest, or a
            wrong value.
    """
    if ":" not in name and name not in _MODELS:
        raise ValueError(f"model name: {_one_of(name, _MODELS)}")
    entry = _MODELS.get(name) or _Entry(functools.partial(own.create, name), {})
    for option in options:
        if option not in entry.options:
            raise ValueError(f"option of model {name!r}: {_one_of(option, entry.options)}")
    if not isinstance(num_classes, int) or num_classes < 1:
        raise ValueError(f"num_classes: expected a positive integer, got {num_classes!r}")
    if not jnp.issubdtype(jnp.dtype(dtype), jnp.floating):
        raise ValueError(f"dtype: expected a floating dtype, got {jnp.dtype(dtype).name!r}")
    return entry.module(num_classes=num_classes, dtype=jnp.dtype(dtype), **entry.fixed, **options)


def _one_of(got: str, known: Iterable[str]) -> str:
    known = list(known)
    message = f"expected one of {', '.join(known) or '(none)'}; got {got!r}"
    closest = difflib.get_close_matches(str(got), known, n=1, cutoff=0.4)
    return f"{message}; did you mean {closest[0]!r}?" if closest else message
