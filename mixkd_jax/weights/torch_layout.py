"""Where PyTorch's libraries keep each layer of a model: the names in their ``state_dict``s.

A family has one layout for each library that names its layers otherwise: timm, torchvision (with
its older names of a ViT, which its files on the web still have), and RepDistiller, whose names
mdistiller shares. Each is a function from the model to pairs (our layer, theirs).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn

from mixkd_jax.models.backbone import Backbone
from mixkd_jax.models.convnext import ConvNeXt
from mixkd_jax.models.heads import Classifier
from mixkd_jax.models.mobilenet_v2 import BLOCKS, MobileNetV2
from mixkd_jax.models.resnet import ResNet
from mixkd_jax.models.resnet_imagenet import ResNetV1
from mixkd_jax.models.vit import ViT
from mixkd_jax.models.wrn import WideResNet

_Pairs = Iterator[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The names of a library.

    Attributes:
        layers: By the path of a layer or bare variable below the collection, its name there.
        head: The classifier's among them.
    """

    layers: Mapping[tuple[str, ...], str]
    head: str

    def in_head(self, name: str) -> bool:
        """Tells whether a weight of a file is the classifier's."""
        return name.startswith(f"{self.head}.")


def layouts(model: nn.Module) -> list[Layout]:
    """Returns the layouts that files of a model can have; none if PyTorch has no such model."""
    found: Iterable[tuple[Callable[[Any], _Pairs], str]]
    if isinstance(model, Classifier) and model.backbone.torch:
        network, root, classifier = model.backbone, ("backbone",), ("head", "logits")
        found = _imagenet(network)
    else:
        network, root, classifier = model, (), ("classifier",)
        cifar = {ResNet: _cifar_resnet, WideResNet: _wrn}
        found = [(cifar[type(model)], "fc")] if type(model) in cifar else []
    return [
        Layout(
            {(*root, *ours.split("/")): theirs for ours, theirs in pairs(network)}
            | {classifier: head},
            head,
        )
        for pairs, head in found
    ]


def _imagenet(backbone: Backbone) -> Iterable[tuple[Callable[[Any], _Pairs], str]]:
    """Returns the layouts of a backbone and the name of the classifier in each."""
    if isinstance(backbone, ViT):
        timm = (_vit_timm, "head")
        old = (lambda vit: _vit_torchvision(vit, ("linear_1", "linear_2")), "heads.head")
        return [timm] if backbone.pool_patches else [timm, (_vit_torchvision, "heads.head"), old]
    families: dict[type[Backbone], list[tuple[Callable[[Any], _Pairs], str]]] = {
        ResNetV1: [(_resnet, "fc")],
        MobileNetV2: [
            (_mobilenet_v2_timm, "classifier"),
            (_mobilenet_v2_torchvision, "classifier.1"),
        ],
        ConvNeXt: [(_convnext_timm, "head.fc"), (_convnext_torchvision, "classifier.2")],
    }
    return families[type(backbone)]


def _resnet(backbone: ResNetV1) -> _Pairs:
    """Of timm and torchvision."""
    yield from (("conv1_conv", "conv1"), ("conv1_bn", "bn1"))
    for stage, blocks in enumerate(backbone.blocks, start=1):
        for block in range(blocks):
            ours, theirs = f"conv{stage + 1}_block{block + 1}", f"layer{stage}.{block}"
            for index in range(1, 4 if backbone.bottleneck else 3):
                yield f"{ours}_{index}_conv", f"{theirs}.conv{index}"
                yield f"{ours}_{index}_bn", f"{theirs}.bn{index}"
            if block == 0 and (stage > 1 or backbone.bottleneck):
                yield f"{ours}_0_conv", f"{theirs}.downsample.0"
                yield f"{ours}_0_bn", f"{theirs}.downsample.1"


def _mobilenet_v2_timm(backbone: MobileNetV2) -> _Pairs:
    del backbone
    yield from (("Conv1", "conv_stem"), ("bn_Conv1", "bn1"))
    index = itertools.count()
    for stage, (_, blocks) in enumerate(itertools.groupby(BLOCKS, lambda block: block[0])):
        for position, _ in enumerate(blocks):
            number, theirs = next(index), f"blocks.{stage}.{position}"
            parts = [("depthwise", "conv_dw"), ("project", "conv_pwl")]
            if number:
                parts, ours = [("expand", "conv_pw"), *parts], f"block_{number}"
            else:  # it doesn't expand, and its last convolution has another name
                parts, ours = [parts[0], ("project", "conv_pw")], "expanded_conv"
            for norm, (part, conv) in enumerate(parts, start=1):
                yield f"{ours}_{part}", f"{theirs}.{conv}"
                yield f"{ours}_{part}_BN", f"{theirs}.bn{norm}"
    yield from (("Conv_1", "conv_head"), ("Conv_1_bn", "bn2"))


def _mobilenet_v2_torchvision(backbone: MobileNetV2) -> _Pairs:
    del backbone
    yield from (("Conv1", "features.0.0"), ("bn_Conv1", "features.0.1"))
    for index, (_, _, expansion) in enumerate(BLOCKS):
        ours = f"block_{index}" if index else "expanded_conv"
        theirs = f"features.{index + 1}.conv"
        parts = ("expand", "depthwise") if expansion > 1 else ("depthwise",)
        for number, part in enumerate(parts):
            yield f"{ours}_{part}", f"{theirs}.{number}.0"
            yield f"{ours}_{part}_BN", f"{theirs}.{number}.1"
        yield f"{ours}_project", f"{theirs}.{len(parts)}"
        yield f"{ours}_project_BN", f"{theirs}.{len(parts) + 1}"
    last = len(BLOCKS) + 1
    yield from (("Conv_1", f"features.{last}.0"), ("Conv_1_bn", f"features.{last}.1"))


_CONVNEXT_PARTS = ("depthwise_conv", "layernorm", "pointwise_conv_1", "pointwise_conv_2")


def _convnext_timm(backbone: ConvNeXt) -> _Pairs:
    yield from (("stem_conv", "stem.0"), ("stem_layernorm", "stem.1"))
    for stage, depth in enumerate(backbone.depths):
        if stage:
            yield f"downsampling_layernorm_{stage - 1}", f"stages.{stage}.downsample.0"
            yield f"downsampling_conv_{stage - 1}", f"stages.{stage}.downsample.1"
        for block in range(depth):
            ours, theirs = f"stage_{stage}_block_{block}", f"stages.{stage}.blocks.{block}"
            for part, name in zip(
                _CONVNEXT_PARTS, ("conv_dw", "norm", "mlp.fc1", "mlp.fc2"), strict=True
            ):
                yield f"{ours}_{part}", f"{theirs}.{name}"
            yield f"{ours}_layer_scale", f"{theirs}.gamma"
    yield "layernorm", "head.norm"


def _convnext_torchvision(backbone: ConvNeXt) -> _Pairs:
    yield from (("stem_conv", "features.0.0"), ("stem_layernorm", "features.0.1"))
    for stage, depth in enumerate(backbone.depths):
        if stage:
            yield f"downsampling_layernorm_{stage - 1}", f"features.{2 * stage}.0"
            yield f"downsampling_conv_{stage - 1}", f"features.{2 * stage}.1"
        for block in range(depth):
            ours, theirs = f"stage_{stage}_block_{block}", f"features.{2 * stage + 1}.{block}"
            for part, number in zip(_CONVNEXT_PARTS, (0, 2, 3, 5), strict=True):
                yield f"{ours}_{part}", f"{theirs}.block.{number}"
            yield f"{ours}_layer_scale", f"{theirs}.layer_scale"
    yield "layernorm", "classifier.0"


def _vit_timm(backbone: ViT) -> _Pairs:
    yield from (("class_token", "cls_token"), ("position_embedding", "pos_embed"))
    yield "patch_embedding", "patch_embed.proj"
    for index in range(backbone.depth):
        ours, theirs = f"block_{index}", f"blocks.{index}"
        for number in (1, 2):
            yield f"{ours}_layer_norm_{number}", f"{theirs}.norm{number}"
            yield f"{ours}_dense_{number}", f"{theirs}.mlp.fc{number}"
        for part in ("query", "key", "value"):
            yield f"{ours}_attention/{part}", f"{theirs}.attn.qkv"
        yield f"{ours}_attention/out", f"{theirs}.attn.proj"
    yield "layer_norm", "fc_norm" if backbone.pool_patches else "norm"


def _vit_torchvision(backbone: ViT, mlp: tuple[str, str] = ("0", "3")) -> _Pairs:
    yield from (("class_token", "class_token"), ("position_embedding", "encoder.pos_embedding"))
    yield "patch_embedding", "conv_proj"
    for index in range(backbone.depth):
        ours, theirs = f"block_{index}", f"encoder.layers.encoder_layer_{index}"
        for number in (1, 2):
            yield f"{ours}_layer_norm_{number}", f"{theirs}.ln_{number}"
            yield f"{ours}_dense_{number}", f"{theirs}.mlp.{mlp[number - 1]}"
        for part in ("query", "key", "value"):
            yield f"{ours}_attention/{part}", f"{theirs}.self_attention.in_proj"
        yield f"{ours}_attention/out", f"{theirs}.self_attention.out_proj"
    yield "layer_norm", "encoder.ln"


def _cifar_resnet(model: ResNet) -> _Pairs:
    """Of RepDistiller and mdistiller."""
    yield from (("stem", "conv1"), ("stem_norm", "bn1"))
    index, per_stage = itertools.count(), (model.depth - 2) // 6
    for stage, block in itertools.product(range(1, 4), range(per_stage)):
        ours, theirs = f"blocks_{next(index)}", f"layer{stage}.{block}"
        for number in (0, 1):
            yield f"{ours}/Conv_{number}", f"{theirs}.conv{number + 1}"
            yield f"{ours}/BatchNorm_{number}", f"{theirs}.bn{number + 1}"
        if block == 0 and (stage > 1 or model.widths[0] != model.widths[1]):
            yield f"{ours}/Conv_2", f"{theirs}.downsample.0"
            yield f"{ours}/BatchNorm_2", f"{theirs}.downsample.1"


def _wrn(model: WideResNet) -> _Pairs:
    """Of RepDistiller and mdistiller."""
    yield "stem", "conv1"
    index, per_stage = itertools.count(), (model.depth - 4) // 6
    for stage, block in itertools.product(range(1, 4), range(per_stage)):
        ours, theirs = f"blocks_{next(index)}", f"block{stage}.layer.{block}"
        widens = block == 0 and (stage > 1 or model.factor > 1)
        if widens:
            yield f"{ours}/Conv_0", f"{theirs}.convShortcut"
        for number in (0, 1):
            yield f"{ours}/Conv_{number + widens}", f"{theirs}.conv{number + 1}"
            yield f"{ours}/BatchNorm_{number}", f"{theirs}.bn{number + 1}"
    yield "last_norm", "bn1"
