"""Run folders made of random numbers, for the tests of results and report."""

import json
from pathlib import Path

import numpy as np

from mixkd_jax.evaluation import analyse
from mixkd_jax.evaluation.answers import Answers

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


class Labels:
    """A split of which nothing but the labels is asked."""

    def __init__(self, labels: np.ndarray):
        self._labels = labels

    def __len__(self) -> int:
        return len(self._labels)

    def labels(self, indices: np.ndarray) -> np.ndarray:
        return self._labels[indices]


def questions() -> analyse.Questions:
    """Of two small splits with random labels of six classes."""
    labels = np.random.default_rng(0).integers(0, 6, (3, 40)).astype(np.int32)
    train, test, held_out = (Labels(own) for own in labels)
    corrupted = Labels(np.tile(labels[1], 26))
    return analyse.create_questions(
        {"train": train, "test": test},  # pyright: ignore[reportArgumentType]
        held_out,  # pyright: ignore[reportArgumentType]
        corrupted,  # pyright: ignore[reportArgumentType]
        num_pairs=400,
        path_pairs=6,
        num_bins=15,
        seed=0,
    )


def interview(asked: analyse.Questions, rng: np.random.Generator) -> analyse.Interview:
    """What a model that guesses would answer."""

    def answers(count: int) -> Answers:
        return Answers(
            (2 * rng.normal(size=(count, 6))).astype(np.float32),
            rng.normal(size=(count, 5)).astype(np.float32),
        )

    splits = {
        name: analyse.Response(answers(len(p.images)), answers(len(p.i)), answers(21 * 6))
        for name, p in asked.pairs.items()
    }
    return analyse.Interview(splits, *(answers(n).logits for n in (40, 40, 26 * 40)))


def add_analyses(root: Path, runs) -> dict[str, dict]:
    """Adds an analysis to each of `runs`, and returns them by run."""
    rng, asked = np.random.default_rng(1), questions()
    teacher = interview(asked, rng)
    found = {}
    for run in runs:
        model = teacher if run == "teacher" else interview(asked, rng)
        against = None if run == "teacher" else teacher
        found[run] = {"step": 40, **analyse.analyse(asked, model, against)}
        write_json(root / run / "analysis.json", found[run])
    return found


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
