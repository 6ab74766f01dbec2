"""The paper's models by name: which backbone, which head, and how their pixels are scaled."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

from jax.typing import DTypeLike

from mixkd_jax.models import convnext, heads
from mixkd_jax.models.keras_layers import Backbone
from mixkd_jax.models.mobilenet_v2 import MobileNetV2
from mixkd_jax.models.resnet18 import ResNet18
from mixkd_jax.models.resnet_imagenet import ResNetV1, ResNetV2
from mixkd_jax.models.vit import ViT


class PixelStatistics(NamedTuple):
    """What `standardize` and `Network` take, in units of [0, 1]: one value, or one a channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


_RAW = PixelStatistics((0.0,), (1 / 255,))  # pixels stay in [0, 255]
_HALF = PixelStatistics((0.5,), (0.5,))  # to [-1, 1]
_IMAGENET = PixelStatistics(convnext.MEAN, convnext.STD)
# Of images whose channels are in the order blue, green, red.
_CAFFE = PixelStatistics((103.939 / 255, 116.779 / 255, 123.68 / 255), (1 / 255,))


@dataclasses.dataclass(frozen=True)
class _Model:
    """A backbone, the head that the paper gives it, and the statistics of its pixels."""

    backbone: Callable[..., Backbone]
    head: str
    paper: PixelStatistics
    keras: PixelStatistics


_MODELS: dict[str, _Model] = {
    "resnet18": _Model(ResNet18, "student", _RAW, _RAW),
    "resnet50": _Model(ResNetV1, "student", _RAW, _CAFFE),
    "mobilenet_v2": _Model(MobileNetV2, "student", _RAW, _HALF),
    "resnet152v2": _Model(
        functools.partial(ResNetV2, blocks=(3, 8, 36, 3)), "teacher", _RAW, _HALF
    ),
    "convnext_tiny": _Model(convnext.ConvNeXt, "teacher", _RAW, _RAW),
    "convnext_large": _Model(
        functools.partial(convnext.ConvNeXt, depths=(3, 3, 27, 3), widths=(192, 384, 768, 1536)),
        "teacher",
        _RAW,
        _RAW,
    ),
    "vit_b16": _Model(ViT, "teacher", _IMAGENET, _HALF),
}
NAMES = tuple(_MODELS)


def create(
    name: str,
    *,
    num_classes: int,
    dtype: DTypeLike,
    head: str | None = None,
    train_backbone: bool = True,
) -> heads.Classifier:
    """Builds the model called ``name``; see `mixkd_jax.models.create_model` for the rest."""
    model = _MODELS[name]
    kind = model.head if head is None else head
    backbone = model.backbone(dtype=dtype)
    if isinstance(backbone, convnext.ConvNeXt):
        backbone = backbone.clone(pool_first=kind == "imagenet")
    return heads.Classifier(backbone, heads.make_head(kind, num_classes), train_backbone)


def pixel_statistics(name: str, *, pipeline: str = "paper") -> PixelStatistics:
    """Returns the (mean, std) with which `Network` sees pixels as a pipeline's authors did.

    Args:
        name: Of a model that keras.applications, keras_hub or image-classifiers has.
        pipeline: ``"paper"``: of the paper's code, to fine-tune or to load its teachers; pixels
            stay in [0, 255] but for ViT, which has ImageNet's mean and deviation. ``"keras"``: of
            ``preprocess_input``, to use a downloaded ImageNet classifier as it is. That of
            ``resnet50`` also wants the channels in the order blue, green, red:
            ``images[..., ::-1]``.

    Raises:
        ValueError: For another name or pipeline. The CIFAR families are standardised by their
            data set's own statistics.
    """
    if name not in _MODELS:
        raise ValueError(f"model name: expected one of {', '.join(NAMES)}; got {name!r}")
    if pipeline not in ("paper", "keras"):
        raise ValueError(f"pipeline: expected 'paper' or 'keras', got {pipeline!r}")
    return getattr(_MODELS[name], pipeline)
