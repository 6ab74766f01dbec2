"""Weights and images of PyTorch's models to compare with."""

import numpy as np
import torch
from torch import nn


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
