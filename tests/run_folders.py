"""Run folders made of random numbers, for the tests of what reads them."""

import json
from pathlib import Path

import numpy as np

from mixkd_jax.folder import student_name

METRICS = ("accuracy", "ece", "overconfidence", "nll", "brier", "nonlinearity")
BASES = ("ce", "mixup", "kd", "mixkd")
BINS = 15
VICINAL = ("nonlinearity", "entropy", "kl_reference", "outside", "outside_reference")
SIGNED = ("outside_excess", "structure", "structure_shuffled", "structure_other")
OF_STUDENTS = ("kl_teacher", "agreement", "linearity_gain", "entropy_gap")


def write_json(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def change(path: Path, *place_and_value) -> None:
    """Sets one entry of a JSON file: the names on the way to it, then its value."""
    *place, name, value = place_and_value
    content = json.loads(path.read_text("utf-8"))
    inside = content
    for step in place:
        inside = inside[step]
    inside[name] = value
    write_json(path, content)


def set_metric(root: Path, arm: str, metric: str, values) -> None:
    """Sets a metric of an arm's seeds 0, 1, ..."""
    for seed, value in enumerate(values):
        path = root / student_name(arm, seed) / "evaluation.json"
        change(path, "metrics", metric, value)


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


def recipe(arm: str) -> dict:
    """What a run writes of an arm such as "mixkd:temperature=4": KL with T = 2 but for its text."""
    base, *changes = arm.split(":")
    if base not in ("kd", "mixkd"):
        options, teacher = {}, None
    else:
        options, teacher = {"temperature": 2.0, "kd_weight": 1.0, "ce_weight": 0.0}, 1.0
        for name, value in (text.split("=") for text in changes):
            number = value if value == "std" else float(value)
            if name == "teacher_temperature":
                teacher = number
            else:
                options[name] = number
    mixes = {"alpha": 1.0, "partial": 1.0, "per_example": True}
    return {
        "base": base,
        "loss": "kl" if options else "ce",
        "options": options,
        "teacher_temperature": teacher,
        "mixup": mixes if base in ("mixup", "mixkd") else None,
    }


def add_recipes(root: Path, gaps=None) -> None:
    """Adds to all students how they were trained, and their teacher's scores.

    Args:
      root: of the run.
      gaps: confidence minus accuracy of the teacher, by teacher_temperature.
    """
    for path in sorted(root.glob("arms/*/*/evaluation.json")):
        found = recipe(path.parts[-3].replace("~", ":"))
        change(path, "recipe", found)
        temperature = found["teacher_temperature"]
        if temperature is not None:
            gap = (gaps or {}).get(temperature, 0.02)
            scores = {"accuracy": 0.835, "ece": abs(gap), "overconfidence": gap, "nll": 0.5}
            change(path, "teacher", scores)


def _statistics(rng: np.random.Generator, names, size: int | None = None) -> dict:
    def number(positive):
        value = rng.random(size) if positive else rng.normal(0, 0.3, size)
        return np.asarray(value).tolist()

    count = 50 if size is None else [50] * size
    return {
        name: {"count": count, "mean": number(name not in SIGNED), "stderr": number(True)}
        for name in names
    }


def analysis(rng: np.random.Generator, *, teacher: bool = False) -> dict:
    """What `analysis.json` holds, see docs/analysis.md."""
    names = [*VICINAL, *SIGNED, *(() if teacher else OF_STUDENTS)]
    scores = ("ece", "adaptive_ece", "classwise_ece", "overconfidence", "nll", "brier", "aurc")
    kinds = {
        kind: {
            "overall": _statistics(rng, names),
            "peak": _statistics(rng, names),
            "bins": _statistics(rng, names, 20),
        }
        for kind in ("all", "same", "different")
    }
    test = {
        "images": 40,
        "pairs": 400,
        "path_pairs": 6,
        "mixed": kinds,
        "path": {"lam": np.linspace(0, 1, 21).tolist(), **_statistics(rng, names, 21)},
        "straightness": _statistics(rng, ["straightness"])["straightness"],
    }
    compared = () if teacher else ("kl_teacher", "agreement")
    test["real"] = _statistics(rng, ("accuracy", *compared))
    if not teacher:
        test["cka"] = {"real": float(rng.random()), "mixed": float(rng.random())}
    low, accuracy, high = np.sort(rng.random((3, BINS)), 0)
    risk = np.sort(rng.random(20))
    curve = {"count": [3] * BINS, "confidence": accuracy, "accuracy": accuracy}
    curve |= {"low": low, "high": high}
    corrupted = {
        kind: {name: rng.random(6).tolist() for name in ("accuracy", "ece", "overconfidence")}
        for kind in ("noise", "mean")
    }
    return {
        "step": 40,
        "splits": {"train": test, "test": test},
        "calibration": {
            "scores": {name: float(rng.random()) for name in scores},
            "intervals": {"ece": [0.1, 0.2], "overconfidence": [-0.1, 0.1]},
            "held_out": 40,
            "temperature": 1.5,
            "scaled": {name: float(rng.random()) for name in scores},
            "reliability": {name: np.asarray(values).tolist() for name, values in curve.items()},
            "risk_coverage": {
                "coverage": (np.arange(1, 21) / 20).tolist(),
                "risk": risk.tolist(),
            },
        },
        "corruption": {"images": 40, "scores": corrupted},
    }


def add_analyses(root: Path, runs) -> dict[str, dict]:
    """Adds an analysis to each of `runs`, and returns them by run."""
    rng = np.random.default_rng(1)
    found = {run: analysis(rng, teacher=run == "teacher") for run in runs}
    for run, content in found.items():
        write_json(root / run / "analysis.json", content)
    return found


def add_run(root: Path, run: str, rng: np.random.Generator) -> dict:
    """Adds an evaluated run with its log, and returns its evaluation."""
    written = evaluation(rng)
    write_json(root / run / "evaluation.json", written)
    parts = ("compile", "train", "evaluate", "checkpoint", "analyse")
    write_json(root / run / "time.json", {part: float(rng.random()) for part in parts})
    with (root / "metrics.jsonl").open("a", encoding="utf-8") as log:
        for step in range(10, 50, 10):
            names = ("loss", "accuracy", "validation_accuracy")
            numbers = {name: float(rng.random()) for name in names}
            record = {"run": run, "step": step, "time": 1.7e9, "epoch": step / 20, **numbers}
            log.write(json.dumps(record) + "\n")
    return written


def make(root: Path, arms=BASES, seeds=3, config=None, data=None) -> dict[str, dict]:
    """A run folder with an evaluated teacher and arms; returns the evaluations by run."""
    rng = np.random.default_rng(0)
    described = {
        "config": config if config is not None else {"arms": arms, "seeds": list(range(seeds))},
        "data": data or {},
        "versions": {"python": "3.11.9", "jax": "0.10.2"},
        "devices": ["cpu:0"],
        "git_commit": None,
        "command": "python run.py --config=configs/digits.py",
    }
    write_json(root / "config.json", described)
    runs = ["teacher", *(student_name(arm, seed) for arm in arms for seed in range(seeds))]
    return {run: add_run(root, run, rng) for run in runs}
