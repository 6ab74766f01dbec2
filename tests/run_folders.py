"""Run folders made of random numbers, for the tests of results and report."""

import json
from pathlib import Path

import numpy as np

METRICS = ("accuracy", "ece", "overconfidence", "nll", "brier", "nonlinearity")
BINS = 15


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def evaluation(rng: np.random.Generator) -> dict:
    metrics = {name: float(rng.random()) for name in METRICS}
    metrics["overconfidence"] = float(rng.normal(0, 0.03))
    count = rng.integers(0, 40, BINS)
    count[0] = 0
    confidence = count * (np.arange(BINS) + rng.random(BINS)) / BINS
    correct = rng.binomial(count, 0.6)
    bins = {"count": count, "confidence": confidence, "correct": correct}
    return {
        "step": 40,
        "metrics": metrics,
        "bins": {name: values.astype(float).tolist() for name, values in bins.items()},
    }


def add_run(root: Path, run: str, rng: np.random.Generator) -> dict:
    """Adds an evaluated run with its log, and returns its evaluation."""
    written = evaluation(rng)
    write_json(root / run / "evaluation.json", written)
    parts = ("compile", "train", "evaluate", "checkpoint", "analyse")
    write_json(root / run / "time.json", {part: float(rng.random()) for part in parts})
    with (root / "metrics.jsonl").open("a", encoding="utf-8") as log:
        for step in range(10, 50, 10):
            numbers = {"loss": float(rng.random()), "accuracy": float(rng.random())}
            record = {"run": run, "step": step, "epoch": step / 20, **numbers}
            log.write(json.dumps(record) + "\n")
    return written


def make(root: Path, arms=("ce", "mixup", "kd", "mixkd"), seeds=3, config=None) -> dict[str, dict]:
    """A run folder with an evaluated teacher and arms; returns the evaluations by run."""
    rng = np.random.default_rng(0)
    described = {
        "config": config if config is not None else {"arms": arms, "seeds": list(range(seeds))},
        "versions": {"python": "3.11.9", "jax": "0.10.2"},
        "devices": ["cpu:0"],
        "git_commit": None,
        "command": "python run.py --config=configs/digits.py",
    }
    write_json(root / "config.json", described)
    runs = ["teacher", *(f"arms/{arm}/{seed}" for arm in arms for seed in range(seeds))]
    return {run: add_run(root, run, rng) for run in runs}
