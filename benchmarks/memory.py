"""Peak memory of the host while a model of ImageNet's size is evaluated and analysed.

    python benchmarks/memory.py
    python benchmarks/memory.py --pairs=10000 --out=docs/results/memory.json

The model's logits and features are drawn at random instead of computed: what is measured is what
the measures themselves hold, beside a network and its images. Each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import os
import pathlib
import platform
import resource
import time
from typing import Any

import jax
import numpy as np

from mixkd_jax import cpu
from mixkd_jax.data import Split
from mixkd_jax.evaluation import analyse
from mixkd_jax.evaluation.evaluate import evaluate
from mixkd_jax.evaluation.predict import Predict, Predictions
from mixkd_jax.evaluation.probe import ProbePredictions, create_probe
from mixkd_jax.models.network import Variables
from mixkd_jax.training import sharding
from mixkd_jax.training.feeds import Images, OnDevice


def main() -> None:
    """Prints and, with --out, writes the peak of each."""
    options = _options()
    found: dict[str, Any] = {"setting": {k: v for k, v in vars(options).items() if k != "out"}}
    found |= {"jax": jax.__version__, "machine": platform.machine(), "cpus": os.cpu_count()}
    found["date"] = datetime.date.today().isoformat()
    for what in ("evaluate", "analyse"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[what] = pool.apply(_measure, (what, options))
        print(f"{what}: {found[what]['peak_gib']} GiB, {found[what]['seconds']} s", flush=True)
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps(found, indent=2) + "\n")


def _measure(what: str, options: argparse.Namespace) -> dict[str, float]:
    cpu.tune()
    before, began = _peak(), time.perf_counter()
    {"evaluate": _evaluate, "analyse": _analyse}[what](options)
    return {
        "before_gib": round(before, 2),
        "peak_gib": round(_peak(), 2),
        "seconds": round(time.perf_counter() - began, 1),
    }


def _evaluate(options: argparse.Namespace) -> None:
    images, held_out = (_split(n, options) for n in (options.images, options.held_out))
    predict = _predict_with(options)
    evaluate(predict, {}, images, num_bins=15, key=jax.random.key(0), held_out=held_out)


def _analyse(options: argparse.Namespace) -> None:
    images = _split(options.images, options)
    probe = create_probe(
        {"train": images, "test": images},
        _split(options.held_out, options),
        None,
        num_pairs=options.pairs,
        path_pairs=options.path_pairs,
        num_bins=15,
        seed=0,
    )
    predict = _predict_with(options)
    student, teacher = (ProbePredictions(predict, {}, probe, keep=k) for k in (False, True))
    analyse.analyse(probe, student, teacher)


def _split(count: int, options: argparse.Namespace) -> Images:
    labels = np.random.default_rng(0).integers(0, options.classes, count).astype(np.int32)
    return OnDevice.put(Split(np.zeros((count, 4, 4, 3), np.uint8), labels), sharding.data_mesh())


def _predict_with(options: argparse.Namespace) -> Predict:
    rng = np.random.default_rng(1)

    def predict(variables: Variables, images: Images, i: Any, j: Any, lam: Any) -> Predictions:
        del variables, images, j, lam
        logits = rng.standard_normal((len(i), options.classes), dtype=np.float32)
        return Predictions(logits, rng.standard_normal((len(i), options.width), dtype=np.float32))

    return predict


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, value in {
        "images": 50_000,
        "held-out": 10_000,
        "classes": 1000,
        "width": 2048,
        "pairs": 1000,
        "path-pairs": 200,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", default="", help="file of JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
