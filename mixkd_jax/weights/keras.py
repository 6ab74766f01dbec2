"""The weights of a Keras file, for the models that Keras has."""

from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath

import flax.linen as nn
import numpy as np

from mixkd_jax.weights import config as _config
from mixkd_jax.weights.assign import Path, Target, read_all
from mixkd_jax.weights.files import open_weights
from mixkd_jax.weights.layout import VARIABLES, KerasLayer, keras_layers
from mixkd_jax.weights.places import stored_weights


def read(
    path: FilePath, model: nn.Module, shapes: Mapping[Path, tuple[int, ...]], *, headless: bool
) -> dict[Path, np.ndarray]:
    """Reads a file; see `mixkd_jax.weights.load_weights`.

    Args:
        path: On this machine.
        model: What the weights are for.
        shapes: Of the variables to fill: the model's, without its head's if ``headless``.
        headless: Whether a head in the file is passed over.
    """
    layers = keras_layers(model)
    targets = list(_targets(layers, shapes))
    if not headless and (unplaced := set(shapes) - {t.paths[0] for t in targets}):
        raise AssertionError(f"the layout lacks {sorted(unplaced)}")
    with open_weights(path) as (structure, config):
        _config.check(config, model)
        stored = stored_weights(structure, layers)
        if headless:
            places = {target.place for target in targets}
            stored = {p: s for p, s in stored.items() if p in places or not _is_head(p)}
        return read_all(targets, stored)


def _targets(layers: list[KerasLayer], shapes: Mapping[Path, tuple[int, ...]]) -> Iterator[Target]:
    """Yields what the model needs, with its place in the file."""
    for layer in layers:
        paths = [
            (collection, *layer.path, *([leaf] if leaf else []))
            for collection, leaf in VARIABLES[layer.kind]
        ]
        for index, path in enumerate(path for path in paths if path in shapes):
            shape, place = shapes[path], f"layers/{layer.h5}/vars/{index}"
            if layer.kind == "depthwise_conv2d":  # Keras has [H, W, C, 1], Flax [H, W, 1, C]
                shape = (*shape[:2], shape[3], shape[2])
                yield Target([path], place, shape, lambda kernel: [kernel.swapaxes(2, 3)])
            else:
                yield Target([path], place, shape, lambda values: [values])


def _is_head(place: str) -> bool:
    """Tells whether a weight that isn't the backbone's can be of a classifier on top of it."""
    return place.startswith(("layers/dense", "layers/batch_normalization"))
