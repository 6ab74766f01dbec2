r"""What the models of a run say of images that show none of their classes: handwritten digits.

    python docs/results/cifar10/unfamiliar.py runs/study --out=unfamiliar.json

scikit-learn's 1,797 digits are enlarged to the size of the run's images (bilinear) and repeated in
its channels. Told of each model: its confidence and the entropy of its predictions there, both as
means, and how well confidence and entropy tell these images from the test images: AUROC, the
probability that a digit, drawn at random, looks less certain than a test image; 0.5 is chance.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import jax
import numpy as np
from seeds import markdown, models_of
from sklearn.metrics import roc_auc_score

from mixkd_jax import cpu, data, load_model, vicinal
from mixkd_jax.config import ConfigError
from mixkd_jax.files import write_json
from mixkd_jax.model import ModelError
from mixkd_jax.report.intervals import interval

COLUMNS = {
    "confidence %": (100, 1),
    "entropy": (1, 3),
    "AUROC by confidence %": (100, 1),
    "AUROC by entropy %": (100, 1),
}


def main() -> None:
    """Measures the models, prints the table, and writes JSON if asked to."""
    cpu.tune()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[2])
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("--arms", default="ce,mixup,kd,mixkd", help="of the run")
    parser.add_argument("--out", help="JSON file to write")
    options = parser.parse_args()
    try:
        found = measure(options.run, options.arms.split(","))
    except (FileNotFoundError, ConfigError, ModelError, data.DataError) as error:
        sys.exit(f"error: {error}")
    print(markdown(found, COLUMNS))
    if options.out:
        write_json(options.out, found)


def measure(run: str, arms: list[str]) -> dict[str, dict[str, Any]]:
    """Returns by model and quantity what `intervals.interval` does, over seeds."""
    models, familiar = models_of(run, arms)
    digits = data.load("digits")
    pixels = np.concatenate([digits.train.images, digits.test.images])
    rows = {
        model: [scores(load_model(path), familiar.images, pixels) for path in paths]
        for model, paths in models.items()
    }
    return {
        model: {name: interval([row[name] for row in found]) for name in COLUMNS}
        for model, found in rows.items()
    }


def scores(model: Any, familiar: np.ndarray, digits: np.ndarray) -> dict[str, float]:
    """Returns the four quantities of one model; images are u8[N, H, W, C]."""
    height, width, channels = model.image_shape
    enlarged = jax.image.resize(
        np.repeat(digits, channels, axis=-1).astype(np.float32),
        (len(digits), height, width, channels),
        "bilinear",
    )
    known, unknown = (model.probabilities(images) for images in (familiar, enlarged))
    is_digit = np.repeat([0, 1], [len(known), len(unknown)])
    both = np.concatenate([known, unknown])
    entropy = np.asarray(vicinal.entropy(both))
    found = (
        float(unknown.max(-1).mean()),
        float(entropy[len(known) :].mean()),
        float(roc_auc_score(is_digit, -both.max(-1))),
        float(roc_auc_score(is_digit, entropy)),
    )
    return dict(zip(COLUMNS, found, strict=True))


if __name__ == "__main__":
    main()
