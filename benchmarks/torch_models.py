"""Models of PyTorch that this package's have the weights of.

The CIFAR models are written after the papers (arXiv:1512.03385, arXiv:1605.07146); only the names
of their layers, which files have, are RepDistiller's and mdistiller's
(https://github.com/HobbitLong/RepDistiller, models/).
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from torch import nn


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut of a CIFAR ResNet."""

    def __init__(self, width: int, filters: int, stride: int):
        """Makes the layers."""
        super().__init__()
        self.conv1 = nn.Conv2d(width, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample = None
        if stride > 1 or width != filters:
            shortcut = nn.Conv2d(width, filters, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(filters))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, C, H, W] to [B, filters, H / stride, W / stride]."""
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (self.downsample(x) if self.downsample else x)).relu()


class CifarResNet(nn.Module):
    """A CIFAR ResNet of 6 n + 2 layers."""

    def __init__(self, depth: int, widths: tuple[int, int, int, int], classes: int):
        """Makes the layers; `widths` are those of the stem and the stages."""
        super().__init__()
        width, *stages = widths
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        made = []
        for stage, filters in enumerate(stages):
            blocks = []
            for block in range((depth - 2) // 6):
                blocks.append(BasicBlock(width, filters, 2 if stage and block == 0 else 1))
                width = filters
            made.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = made
        self.fc = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images [B, 3, H, W] to logits."""
        x = self.bn1(self.conv1(x)).relu()
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class WideBlock(nn.Module):
    """A pre-activation block of a wide ResNet."""

    def __init__(self, width: int, filters: int, stride: int):
        """Makes the layers."""
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, filters, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.convShortcut = None
        if width != filters:
            self.convShortcut = nn.Conv2d(width, filters, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps [B, C, H, W] to [B, filters, H / stride, W / stride]."""
        before = self.bn1(x).relu()
        y = self.conv2(self.bn2(self.conv1(before)).relu())
        return y + (self.convShortcut(before) if self.convShortcut else x)


class WideStage(nn.Module):
    """Blocks of one width, under the name that files have."""

    def __init__(self, *blocks: nn.Module):
        """Takes the blocks."""
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Applies the blocks."""
        return self.layer(x)


class WideResNet(nn.Module):
    """A wide ResNet of 6 n + 4 layers for CIFAR."""

    def __init__(self, depth: int, factor: int, classes: int):
        """Makes the layers."""
        super().__init__()
        self.conv1, width = nn.Conv2d(3, 16, 3, 1, 1, bias=False), 16
        made = []
        for stage, filters in enumerate((16 * factor, 32 * factor, 64 * factor)):
            blocks = []
            for block in range((depth - 4) // 6):
                blocks.append(WideBlock(width, filters, 2 if stage and block == 0 else 1))
                width = filters
            made.append(WideStage(*blocks))
        self.block1, self.block2, self.block3 = made
        self.bn1 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images [B, 3, H, W] to logits."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.bn1(x).relu().mean((2, 3)))


class CNN(nn.Module):
    """Two convolutions of stride 2 and a classifier, for small images."""

    def __init__(self, classes: int, image_size: int):
        """Makes the layers."""
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.fc = nn.Linear(32 * math.ceil(image_size / 4) ** 2, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps images [B, 3, H, W] to logits."""
        x = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return self.fc(x.permute(0, 2, 3, 1).flatten(1))

    def variables(self) -> dict[str, Any]:
        """Returns what this package's `cnn` takes, which no kind of file has."""

        def kernel(conv: nn.Conv2d) -> np.ndarray:
            return conv.weight.detach().numpy().transpose(2, 3, 1, 0).reshape(-1, conv.out_channels)

        convs, norms = (self.conv1, self.conv2), (self.bn1, self.bn2)
        params: dict[str, Any] = {
            "classifier": {
                "kernel": self.fc.weight.detach().numpy().T,
                "bias": self.fc.bias.detach().numpy(),
            }
        }
        statistics = {}
        for k, (conv, norm) in enumerate(zip(convs, norms, strict=True)):
            params[f"convs_{k}"] = {"Dense_0": {"kernel": kernel(conv)}}
            scale, bias = (each.detach().numpy() for each in (norm.weight, norm.bias))
            params[f"norms_{k}"] = {"scale": scale, "bias": bias}
            buffers = dict(norm.named_buffers())
            statistics[f"norms_{k}"] = {
                name: buffers[f"running_{name}"].numpy() for name in ("mean", "var")
            }
        return {"params": params, "batch_stats": statistics}


_WIDTHS = {"": (16, 16, 32, 64), "x4": (32, 64, 128, 256)}
# Options that leave out what this package's models of the same names don't have.
_TORCHVISION: dict[str, dict[str, Any]] = {
    "resnet50": {},
    "mobilenet_v2": {"dropout": 0.0},
    "convnext_tiny": {"stochastic_depth_prob": 0.0},
    "convnext_large": {"stochastic_depth_prob": 0.0},
    "vit_b_16": {},
}


def create(name: str, classes: int, image_size: int = 224) -> nn.Module:
    """Returns the twin of a model, at random.

    Args:
      name: of this package's model: cnn, a CIFAR ResNet or WRN, or one that ends in "_torch".
      classes: number of logits.
      image_size: pixels of both sides, which `cnn` and a ViT must know.

    Raises:
      ValueError: if the model has no twin here.
    """
    if name == "cnn":
        return CNN(classes, image_size)
    if found := re.fullmatch(r"resnet(\d+)(x4)?", name):
        depth, times = found.groups(default="")
        if (int(depth) - 2) % 6 == 0:
            return CifarResNet(int(depth), _WIDTHS[times], classes)
    if found := re.fullmatch(r"wrn-(\d+)-(\d+)", name):
        return WideResNet(int(found[1]), int(found[2]), classes)
    theirs = name.removesuffix("_torch").replace("vit_b16", "vit_b_16")
    if theirs == name or theirs not in _TORCHVISION:
        raise ValueError(
            f"expected cnn, a CIFAR ResNet or WRN, or one of {', '.join(_TORCHVISION)} by its name "
            f"that ends in _torch, got {name}"
        )
    import torchvision

    model = getattr(torchvision.models, theirs)
    size = {"image_size": image_size} if theirs == "vit_b_16" else {}
    return model(num_classes=classes, **size, **_TORCHVISION[theirs])
