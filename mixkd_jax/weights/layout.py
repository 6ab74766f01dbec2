"""Where Keras keeps each weight of a model: its layers in Keras' order, with their places here.

Keras files address layers by class and number: ``layers/conv2d_3/vars/0`` is the kernel of the
fourth convolution in the order of ``model.layers``, which is by depth in the graph: in a residual
block the convolution of the shortcut comes just before the last one of the main path.
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import flax.linen as nn

from mixkd_jax.models.convnext import ConvNeXt
from mixkd_jax.models.heads import Classifier, StudentHead
from mixkd_jax.models.mobilenet_v2 import BLOCKS, MobileNetV2
from mixkd_jax.models.resnet18 import ResNet18
from mixkd_jax.models.resnet_imagenet import ResNetV1, ResNetV2
from mixkd_jax.models.vit import ViT

# Variables of each class of layer in the order of Keras: collection and name in Flax. A layer with
# fewer (no bias, no scale) has the rest in the same order. None: the layer's path is the variable.
VARIABLES: dict[str, tuple[tuple[str, str | None], ...]] = {
    "conv2d": (("params", "kernel"), ("params", "bias")),
    "depthwise_conv2d": (("params", "kernel"), ("params", "bias")),
    "dense": (("params", "kernel"), ("params", "bias")),
    "batch_normalization": (
        ("params", "scale"),
        ("params", "bias"),
        ("batch_stats", "mean"),
        ("batch_stats", "var"),
    ),
    "layer_normalization": (("params", "scale"), ("params", "bias")),
    "layer_scale": (("params", None),),
    "embedding": (("params", None),),
    "class_token": (("params", None),),
}


@dataclasses.dataclass(frozen=True)
class KerasLayer:
    """A layer with weights.

    Attributes:
        kind: Its class, a key of `VARIABLES`.
        path: Its place in the Flax variables, below the collection.
        h5: Its place below ``layers/`` in a Keras file; empty where class and number tell it.
    """

    kind: str
    path: tuple[str, ...]
    h5: str = ""


def keras_layers(model: nn.Module) -> list[KerasLayer]:
    """Returns the layers of a model in Keras' order, each with its ``h5`` place.

    Raises:
        TypeError: If there is no Keras model like it.
    """
    backbones = {
        ResNet18: _resnet18,
        ResNetV1: _resnet_v1,
        ResNetV2: _resnet_v2,
        MobileNetV2: _mobilenet_v2,
        ConvNeXt: _convnext,
        ViT: _vit,
    }
    if isinstance(model, Classifier) and model.backbone.torch:
        raise TypeError(
            "model: this is an architecture as PyTorch has it, whose weights are in safetensors; "
            "for a Keras file choose the model without '_torch'"
        )
    if not isinstance(model, Classifier) or type(model.backbone) not in backbones:
        raise TypeError(
            f"model: expected one of the models that Keras has, such as create_model('resnet50', "
            f"num_classes=100); got {type(model).__name__}"
        )
    layers = [
        dataclasses.replace(layer, path=("backbone", *layer.path))
        for layer in backbones[type(model.backbone)](model.backbone)
    ]
    return _numbered([*layers, *_head(model.head)])


def _numbered(layers: Sequence[KerasLayer]) -> list[KerasLayer]:
    """Gives a place to each layer without: its class, with a number from the second one on."""
    counts: collections.Counter[str] = collections.Counter()
    numbered = []
    for layer in layers:
        if not layer.h5:
            number = counts[layer.kind]
            counts[layer.kind] += 1
            place = f"{layer.kind}_{number}" if number else layer.kind
            layer = dataclasses.replace(layer, h5=place)
        numbered.append(layer)
    return numbered


def _conv(name: str) -> KerasLayer:
    return KerasLayer("conv2d", (name,))


def _norm(name: str) -> KerasLayer:
    return KerasLayer("batch_normalization", (name,))


def _head(head: object) -> list[KerasLayer]:
    dense = KerasLayer("dense", ("head", "logits"))
    if not isinstance(head, StudentHead):
        return [dense]
    hidden = KerasLayer("dense", ("head", "hidden"))
    return [hidden, KerasLayer("batch_normalization", ("head", "hidden_bn")), dense]


def _resnet_v1(backbone: ResNetV1) -> Iterator[KerasLayer]:
    yield from (_conv("conv1_conv"), _norm("conv1_bn"))
    for stage, blocks in enumerate(backbone.blocks, start=2):
        for block in range(1, blocks + 1):
            name = f"conv{stage}_block{block}"
            last = (0, 3) if block == 1 else (3,)
            for index in (1, 2):
                yield from (_conv(f"{name}_{index}_conv"), _norm(f"{name}_{index}_bn"))
            yield from (_conv(f"{name}_{index}_conv") for index in last)
            yield from (_norm(f"{name}_{index}_bn") for index in last)


def _resnet_v2(backbone: ResNetV2) -> Iterator[KerasLayer]:
    yield _conv("conv1_conv")
    for stage, blocks in enumerate(backbone.blocks, start=2):
        for block in range(1, blocks + 1):
            name = f"conv{stage}_block{block}"
            yield _norm(f"{name}_preact_bn")
            for index in (1, 2):
                yield from (_conv(f"{name}_{index}_conv"), _norm(f"{name}_{index}_bn"))
            yield from (_conv(f"{name}_{i}_conv") for i in ((0, 3) if block == 1 else (3,)))
    yield _norm("post_bn")


def _resnet18(backbone: ResNet18) -> Iterator[KerasLayer]:
    yield from (_norm("bn_data"), _conv("conv0"), _norm("bn0"))
    for stage, blocks in enumerate(backbone.blocks, start=1):
        for block in range(1, blocks + 1):
            name = f"stage{stage}_unit{block}_"
            yield from (_norm(f"{name}bn1"), _conv(f"{name}conv1"), _norm(f"{name}bn2"))
            yield _conv(f"{name}conv2")
            if block == 1:
                yield _conv(f"{name}sc")
    yield _norm("bn1")


def _mobilenet_v2(backbone: MobileNetV2) -> Iterator[KerasLayer]:
    del backbone
    yield from (_conv("Conv1"), _norm("bn_Conv1"))
    for index, (_, _, expansion) in enumerate(BLOCKS):
        name = f"block_{index}" if index else "expanded_conv"
        if expansion > 1:
            yield from (_conv(f"{name}_expand"), _norm(f"{name}_expand_BN"))
        yield KerasLayer("depthwise_conv2d", (f"{name}_depthwise",))
        yield from (_norm(f"{name}_depthwise_BN"), _conv(f"{name}_project"))
        yield _norm(f"{name}_project_BN")
    yield from (_conv("Conv_1"), _norm("Conv_1_bn"))


def _convnext(backbone: ConvNeXt) -> Iterator[KerasLayer]:
    def inside(number: int, kind: str, name: str) -> KerasLayer:
        sequential = f"sequential_{number}" if number else "sequential"
        return KerasLayer(kind, (name,), f"{sequential}/layers/{kind}")

    for stage, depth in enumerate(backbone.depths):
        if stage == 0:
            yield inside(0, "conv2d", "stem_conv")
            yield inside(0, "layer_normalization", "stem_layernorm")
        else:
            last = stage - 1
            yield inside(stage, "layer_normalization", f"downsampling_layernorm_{last}")
            yield inside(stage, "conv2d", f"downsampling_conv_{last}")
        for block in range(depth):
            name = f"stage_{stage}_block_{block}"
            yield _conv(f"{name}_depthwise_conv")
            yield KerasLayer("layer_normalization", (f"{name}_layernorm",))
            yield KerasLayer("dense", (f"{name}_pointwise_conv_1",))
            yield KerasLayer("dense", (f"{name}_pointwise_conv_2",))
            yield KerasLayer("layer_scale", (f"{name}_layer_scale",))
    yield KerasLayer("layer_normalization", ("layernorm",))


def _vit(backbone: ViT) -> Iterator[KerasLayer]:
    embedding, encoder = "vi_t_patching_and_embedding", "vi_t_encoder"
    yield KerasLayer("class_token", ("class_token",), embedding)
    yield KerasLayer("conv2d", ("patch_embedding",), f"{embedding}/patch_embedding")
    yield KerasLayer("embedding", ("position_embedding",), f"{embedding}/position_embedding")
    for index in range(backbone.depth):
        name = f"block_{index}"
        place = f"{encoder}/encoder_layers/vi_t_encoder_block" + (f"_{index}" if index else "")
        for norm in ("layer_norm_1", "layer_norm_2"):
            yield KerasLayer("layer_normalization", (f"{name}_{norm}",), f"{place}/{norm}")
        for ours, theirs in (("query",) * 2, ("key",) * 2, ("value",) * 2, ("out", "output")):
            path = (f"{name}_attention", ours)
            yield KerasLayer("dense", path, f"{place}/mha/{theirs}_dense")
        for dense in ("dense_1", "dense_2"):
            yield KerasLayer("dense", (f"{name}_{dense}",), f"{place}/mlp/{dense}")
    yield KerasLayer("layer_normalization", ("layer_norm",), f"{encoder}/layer_norm")
