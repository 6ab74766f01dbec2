"""What the weights don't tell: constants and order in ``config.json``, read as plain data."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import numpy as np

from mixkd_jax.models.convnext import MEAN, STD, ConvNeXt
from mixkd_jax.weights.errors import WeightsError


def check(config: Any, model: nn.Module) -> None:
    """Raises WeightsError where a ConvNeXt's configuration contradicts the model.

    Its standardisation has no weights, and its last LayerNorm has the same ones before and after
    the spatial mean.

    Args:
        config: The parsed ``config.json``, or None: then there is nothing to check.
        model: The model to load into.
    """
    backbone = getattr(model, "backbone", None)
    if config is None or not isinstance(backbone, ConvNeXt):
        return
    layers = list(_layers(config))
    _check_normalization([layer for layer in layers if layer.get("class_name") == "Normalization"])
    classes = [layer.get("class_name") for layer in layers]
    order = [c for c in classes if c in ("GlobalAveragePooling2D", "LayerNormalization")]
    pooled = "GlobalAveragePooling2D" in order
    if pooled and backbone.pool_first != (order[-1] == "LayerNormalization"):
        raise WeightsError(
            f"pools {'after' if backbone.pool_first else 'before'} its last LayerNormalization, "
            f"unlike the model: create it with the head "
            f"{'teacher' if backbone.pool_first else 'imagenet'!r}"
        )


def _check_normalization(layers: list[dict[str, Any]]) -> None:
    """Accepts one layer with the constants of ImageNet on [0, 255]."""
    if len(layers) != 1:
        raise WeightsError(f"expected one Normalization layer in a ConvNeXt, got {len(layers)}")
    for field, expected in (
        ("mean", 255 * np.array(MEAN)),
        ("variance", (255 * np.array(STD)) ** 2),
    ):
        try:
            got = np.array(layers[0]["config"][field], float).ravel()
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"Normalization: can't read its {field}: {error}") from error
        if got.shape != expected.shape or not np.allclose(got, expected, rtol=1e-5):
            raise WeightsError(f"Normalization: expected {field} {expected}, got {got}")


def _layers(item: Any) -> Iterator[dict[str, Any]]:
    """Yields every layer of a configuration in order, those of nested models too."""
    if not isinstance(item, dict) or not isinstance(item.get("config"), dict):
        raise WeightsError("config.json describes no Keras model")
    layers = item["config"].get("layers")
    if not isinstance(layers, list):
        yield item
    else:
        for layer in layers:
            yield from _layers(layer)
