"""Models of PyTorch to compare with: random weights, and the CIFAR models of RepDistiller.

The CIFAR models are written anew after the papers; only the names of their layers, which files
have, are RepDistiller's and mdistiller's (https://github.com/HobbitLong/RepDistiller, models/).
"""

import numpy as np
import torch
from torch import nn


class BasicBlock(nn.Module):
    def __init__(self, width, filters, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(width, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample = None
        if stride > 1 or width != filters:
            shortcut = nn.Conv2d(width, filters, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(filters))

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + (self.downsample(x) if self.downsample else x)).relu()


class CifarResNet(nn.Module):
    def __init__(self, depth, widths, classes):
        super().__init__()
        width, *stages = widths
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        for stage, filters in enumerate(stages, start=1):
            blocks = []
            for block in range((depth - 2) // 6):
                blocks.append(BasicBlock(width, filters, 2 if stage > 1 and block == 0 else 1))
                width = filters
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


class WideBlock(nn.Module):
    def __init__(self, width, filters, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, filters, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.convShortcut = None
        if width != filters:
            self.convShortcut = nn.Conv2d(width, filters, 1, stride, bias=False)

    def forward(self, x):
        before = self.bn1(x).relu()
        y = self.conv2(self.bn2(self.conv1(before)).relu())
        return y + (self.convShortcut(before) if self.convShortcut else x)


class WideStage(nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.layer = nn.Sequential(*blocks)

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth, factor, classes):
        super().__init__()
        self.conv1, width = nn.Conv2d(3, 16, 3, 1, 1, bias=False), 16
        for stage, filters in enumerate((16 * factor, 32 * factor, 64 * factor), start=1):
            blocks = []
            for block in range((depth - 4) // 6):
                blocks.append(WideBlock(width, filters, 2 if stage > 1 and block == 0 else 1))
                width = filters
            setattr(self, f"block{stage}", WideStage(*blocks))
        self.bn1 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(self.bn1(x).relu().mean((2, 3)))


def to_torch(images):
    """Turns images [B, H, W, C] into PyTorch's [B, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))


@torch.no_grad()
def randomize(model, images):
    """Draws every weight and statistic so that the logits depend on each, and on the images."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "pos_embed" in name or "token" in name:
            weight.normal_(0, 0.5, generator=generator)
        elif name.endswith("bias"):
            weight.normal_(0, 0.1, generator=generator)
        elif weight.ndim in (2, 4):
            weight.normal_(0, (2 / weight[0].numel()) ** 0.5, generator=generator)
        else:  # scales of normalisations and of layers
            weight.uniform_(0.5, 1.5, generator=generator)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        model.train()(images)
    for norm in norms:
        norm.momentum = 0.1
        norm.running_mean.add_(0.2 * torch.randn(norm.running_mean.shape, generator=generator))
        norm.running_var.mul_(0.8 + 0.4 * torch.rand(norm.running_var.shape, generator=generator))
    return model.eval()
