r"""Whether students that learned from mixed inputs are linear because their predictions are soft.

    python docs/results/cifar10/softness.py runs/study --out=softness.json

Soft predictions are nearly linear between images whatever made them soft. So each model's logits
are divided by the temperature at which its predictions for the test images have one entropy, the
same for all models, and L_NL, in nats, is measured there as well as at temperature 1: for pairs of
test images with λ ~ U(0, 1), the same for all models. Cells are means over seeds with their sample
standard deviation.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import jax
import numpy as np
from scipy import optimize
from seeds import markdown, models_of

from mixkd_jax import cpu, data, load_model, mixup, vicinal
from mixkd_jax.config import ConfigError
from mixkd_jax.evaluation.pairs import Pairs, draw_pairs
from mixkd_jax.files import write_json
from mixkd_jax.model import Model, ModelError
from mixkd_jax.report.intervals import interval

COLUMNS = dict.fromkeys(("entropy", "L_NL", "temperature", "L_NL at one entropy"), (1, 3))
_CHUNK = 1000  # pairs at once


def main() -> None:
    """Measures the models, prints the table, and writes JSON if asked to."""
    cpu.tune()
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("--arms", help="of the run; all of them unless given")
    parser.add_argument("--entropy", type=float, default=1.0, help="in nats, of all models")
    parser.add_argument("--pairs", type=int, default=2000, help="of test images")
    parser.add_argument("--out", help="JSON file to write")
    options = parser.parse_args()
    try:
        models, test = models_of(options.run, options.arms and options.arms.split(","))
        pairs = draw_pairs(
            np.random.default_rng(0), len(test.labels), test.labels.__getitem__, options.pairs
        )
        found = {
            name: summarized(
                [measure(load_model(path), test.images, pairs, options.entropy) for path in paths]
            )
            for name, paths in models.items()
        }
    except (FileNotFoundError, ConfigError, ModelError, data.DataError) as error:
        sys.exit(f"error: {error}")
    print(markdown(found, COLUMNS))
    if options.out:
        write_json(options.out, found)


def measure(model: Model, images: np.ndarray, pairs: Pairs, entropy: float) -> dict[str, float]:
    """Returns the quantities of one model; images are u8[N, H, W, C]."""
    logits = np.asarray(model.logits(images))
    ends = logits[pairs.images[pairs.i]], logits[pairs.images[pairs.j]]
    mixed = np.concatenate(
        [
            model.logits(mixup.interpolate(lam, images[i], images[j]))
            for i, j, lam in (
                (pairs.images[pairs.i[at]], pairs.images[pairs.j[at]], pairs.lam[at])
                for at in np.split(np.arange(len(pairs.i)), range(_CHUNK, len(pairs.i), _CHUNK))
            )
        ]
    )
    temperature = temperature_of(logits, entropy)

    def nonlinearity(t: float) -> float:
        probs = [jax.nn.softmax(each / t) for each in (*ends, mixed)]
        return float(vicinal.nonlinearity(*probs, pairs.lam).mean())

    found = mean_entropy(logits, 1), nonlinearity(1), temperature, nonlinearity(temperature)
    return dict(zip(COLUMNS, found, strict=True))


def mean_entropy(logits: np.ndarray, temperature: float) -> float:
    """Returns the mean entropy, in nats, of predictions whose logits f32[N, C] are divided."""
    return float(vicinal.entropy(jax.nn.softmax(logits / temperature)).mean())


def temperature_of(logits: np.ndarray, entropy: float) -> float:
    """Returns the temperature at which predictions have this mean entropy, which grows with it."""
    difference = lambda log_t: mean_entropy(logits, float(np.exp(log_t))) - entropy  # noqa: E731
    return float(np.exp(optimize.brentq(difference, np.log(1e-3), np.log(1e3), xtol=1e-6)))


def summarized(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Returns by quantity what `intervals.interval` does over seeds."""
    return {name: interval([row[name] for row in rows]) for name in COLUMNS}


if __name__ == "__main__":
    main()
