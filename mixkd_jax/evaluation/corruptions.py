"""Accuracy and calibration under common corruptions of the test images, at five severities.

Five of the corruptions of Hendrycks and Dietterich, Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations, ICLR 2019, arXiv:1903.12261, with the strengths of their
CIFAR-10-C for images below 64 pixels and of their ImageNet-C from there on. The libraries that have
them need OpenCV, and images of at least 32 pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import ndimage

from mixkd_jax.data.types import Split
from mixkd_jax.evaluation.scores import score

SEVERITIES = 5
_LARGE = 64  # pixels

Corruption = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def gaussian_noise(x: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Adds noise of standard deviation `strength` to pixels f[N, H, W, C] in [0, 1]."""
    return x + rng.normal(0, strength, x.shape)


def gaussian_blur(x: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Blurs with a Gaussian of `strength` pixels; the border repeats itself."""
    return ndimage.gaussian_filter(x, (0, strength, strength, 0), mode="nearest", truncate=4)


def contrast(x: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Shrinks each channel's difference from its mean over the image to a share of `strength`."""
    mean = x.mean((1, 2), keepdims=True)
    return mean + strength * (x - mean)


def brightness(x: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Adds `strength` to the value of each pixel (HSV), at the same hue and saturation."""
    value = x.max(-1, keepdims=True)
    brighter = np.minimum(value + strength, 1)
    return np.where(value > 0, x / np.where(value > 0, value, 1), 1) * brighter


def jpeg(x: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Compresses with Pillow at quality `strength`."""
    return np.stack([_through_jpeg(image, int(strength)) for image in _to_bytes(x)]) / 255


# name -> (function, strengths for small images, strengths for large ones)
CORRUPTIONS: dict[str, tuple[Corruption, tuple[float, ...], tuple[float, ...]]] = {
    "gaussian_noise": (
        gaussian_noise,
        (0.04, 0.06, 0.08, 0.09, 0.1),
        (0.08, 0.12, 0.18, 0.26, 0.38),
    ),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0), (1.0, 2.0, 3.0, 4.0, 6.0)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "jpeg": (jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}


def corrupt(images: np.ndarray, name: str, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Returns images u8[N, H, W, C] corrupted with a severity from 1 to 5."""
    apply, small, large = CORRUPTIONS[name]
    strength = (small if max(images.shape[1:3]) < _LARGE else large)[severity - 1]
    return _to_bytes(apply(images / 255, strength, rng))


def corrupt_all(split: Split, seed: int) -> Split:
    """Returns the images of a split as they are, then for each corruption in each severity."""
    parts = [split.images]
    for k, name in enumerate(CORRUPTIONS):
        for severity in range(1, SEVERITIES + 1):
            rng = np.random.default_rng([seed, k, severity])
            parts.append(corrupt(split.images, name, severity, rng))
    return Split(np.concatenate(parts), np.tile(split.labels, len(parts)))


def robustness(logits: np.ndarray, labels: np.ndarray, *, num_bins: int) -> dict[str, Any]:
    """Scores of the logits of what `corrupt_all` returned.

    Args:
      logits: f32[26 · N, C].
      labels: i32[26 · N].
      num_bins: bins of confidence.

    Returns:
      "images": N. "scores": of each corruption, and of their "mean", "accuracy", "ece" and
      "overconfidence", lists from severity 0, which is no corruption, to 5.
    """
    conditions = 1 + SEVERITIES * len(CORRUPTIONS)
    names = ("accuracy", "ece", "overconfidence")
    parts = zip(np.split(logits, conditions), np.split(labels, conditions), strict=True)
    scores = [score(*part, num_bins=num_bins)[0] for part in parts]
    table = np.array([[found[name] for name in names] for found in scores])  # [condition, score]
    by_corruption = table[1:].reshape(len(CORRUPTIONS), SEVERITIES, -1)
    kinds = {**dict(zip(CORRUPTIONS, by_corruption, strict=True)), "mean": by_corruption.mean(0)}
    return {
        "images": len(labels) // conditions,
        "scores": {
            kind: dict(zip(names, np.vstack([table[:1], found]).T.tolist(), strict=True))
            for kind, found in kinds.items()
        },
    }


def _to_bytes(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(255 * x), 0, 255).astype(np.uint8)


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    from PIL import Image

    grey = image.shape[-1] == 1
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if grey else image).save(buffer, "JPEG", quality=quality)
    with Image.open(buffer) as decoded:
        return np.asarray(decoded).reshape(image.shape)
