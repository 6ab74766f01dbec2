"""Models of ImageNet by name: which backbone, which head, and how their pixels are scaled.

The paper's have the architectures of Keras; a name that ends in ``_torch`` is the architecture as
PyTorch has it, in timm and torchvision.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jax.typing import DTypeLike

from mixkd_jax.models import convnext, heads
from mixkd_jax.models.backbone import Backbone
from mixkd_jax.models.mobilenet_v2 import MobileNetV2
from mixkd_jax.models.resnet18 import ResNet18
from mixkd_jax.models.resnet_imagenet import ResNetV1, ResNetV2
from mixkd_jax.models.vit import ViT


class PixelStatistics(NamedTuple):
    """What `Network` takes: in units of [0, 1], one value or one a channel, red first.

    Attributes:
        mean: Subtracted from pixels.
        std: Divides the difference.
        bgr: Whether the order of the channels is turned round after that.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False


_RAW = PixelStatistics((0.0,), (1 / 255,))  # pixels stay in [0, 255]
_HALF = PixelStatistics((0.5,), (0.5,))  # to [-1, 1]
_IMAGENET = PixelStatistics(convnext.MEAN, convnext.STD)
_CAFFE = PixelStatistics((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,), bgr=True)


@dataclasses.dataclass(frozen=True)
class _Model:
    """A backbone, the head that it has by default, and the statistics of its pixels."""

    backbone: Callable[..., Backbone]
    head: str
    pixels: Mapping[str, PixelStatistics]  # by pipeline


def _keras(
    backbone: Callable[..., Backbone], head: str, paper: PixelStatistics, keras: PixelStatistics
) -> _Model:
    return _Model(backbone, head, {"paper": paper, "keras": keras})


def _torch(
    backbone: Callable[..., Backbone], timm: PixelStatistics = _IMAGENET, **fields: Any
) -> _Model:
    backbone = functools.partial(backbone, torch=True, **fields)
    return _Model(backbone, "imagenet", {"timm": timm, "torchvision": _IMAGENET})


_CONVNEXT_LARGE = functools.partial(
    convnext.ConvNeXt, depths=(3, 3, 27, 3), widths=(192, 384, 768, 1536)
)
_MODELS: dict[str, _Model] = {
    "resnet18": _keras(ResNet18, "student", _RAW, _RAW),
    "resnet50": _keras(ResNetV1, "student", _RAW, _CAFFE),
    "mobilenet_v2": _keras(MobileNetV2, "student", _RAW, _HALF),
    "resnet152v2": _keras(
        functools.partial(ResNetV2, blocks=(3, 8, 36, 3)), "teacher", _RAW, _HALF
    ),
    "convnext_tiny": _keras(convnext.ConvNeXt, "teacher", _RAW, _RAW),
    "convnext_large": _keras(_CONVNEXT_LARGE, "teacher", _RAW, _RAW),
    "vit_b16": _keras(ViT, "teacher", _IMAGENET, _HALF),
    "resnet18_torch": _torch(ResNetV1, blocks=(2, 2, 2, 2), bottleneck=False),
    "resnet50_torch": _torch(ResNetV1),
    "mobilenet_v2_torch": _torch(MobileNetV2),
    "convnext_tiny_torch": _torch(convnext.ConvNeXt, pool_first=True),
    "convnext_large_torch": _torch(_CONVNEXT_LARGE, pool_first=True),
    "vit_b16_torch": _torch(ViT, timm=_HALF),
    "vit_b16_avg_torch": _torch(ViT, timm=_HALF, pool_patches=True),
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
    if isinstance(backbone, convnext.ConvNeXt) and not backbone.torch:
        backbone = backbone.clone(pool_first=kind == "imagenet")
    return heads.Classifier(backbone, heads.make_head(kind, num_classes), train_backbone)


def pixel_statistics(name: str, *, pipeline: str = "paper") -> PixelStatistics:
    """Returns the (mean, std, bgr) with which `Network` sees pixels as a pipeline's authors did.

    Args:
        name: Of a model that Keras or PyTorch has.
        pipeline: Of a model as Keras has it, ``"paper"`` or ``"keras"``; of one whose name ends in
            ``_torch``, ``"timm"`` or ``"torchvision"``.

            * ``"paper"``: of the paper's code, to fine-tune or to load its teachers; pixels stay
              in [0, 255] but for ViT, which has ImageNet's mean and deviation.
            * ``"keras"``: of ``preprocess_input``, to use a downloaded ImageNet classifier as it
              is. That of ``resnet50`` has the channels in the order blue, green, red.
            * ``"torchvision"``: ImageNet's mean and deviation.
            * ``"timm"``: the default of the architecture in timm: the same, but [-1, 1] for ViT.
              Some of its files were trained with others, which their ``config.json`` tells.

    Raises:
        ValueError: For another name or pipeline. The CIFAR families are standardised by their
            data set's own statistics.
    """
    if name not in _MODELS:
        raise ValueError(f"model name: expected one of {', '.join(NAMES)}; got {name!r}")
    known = _MODELS[name].pixels
    if pipeline not in known:
        raise ValueError(
            f"pipeline of {name!r}: expected {' or '.join(map(repr, known))}, got {pipeline!r}"
        )
    return known[pipeline]
