"""What the files of a run must hold to be shown; a file may hold more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixkd_jax.report.quantities import CALIBRATION, METRICS, VICINAL
from mixkd_jax.report.shapes import AMOUNT, ANYTHING, COUNT, NUMBER, TEXT, Each, Optional

_RECIPE = {"base": TEXT, "loss": TEXT, "options": Each(ANYTHING)}
EVALUATION = {
    "step": COUNT,
    "total_steps": Optional(COUNT),
    "recipe": Optional(_RECIPE),
    "metrics": Each(NUMBER),
    "bins": {"count": [AMOUNT], "confidence": [AMOUNT], "correct": [AMOUNT]},
    "teacher": Optional(Each(NUMBER)),
}
TIME = Each(AMOUNT)
RUN_TIME = {"wall": AMOUNT, "cpu": AMOUNT, "sessions": COUNT}
_STATISTIC = {"mean": NUMBER, "stderr": NUMBER}
_CURVE = {"mean": [NUMBER], "stderr": [NUMBER]}
_TEST = {
    "images": COUNT,
    "pairs": COUNT,
    "path_pairs": COUNT,
    "mixed": {
        "all": {"overall": Each(_STATISTIC), "peak": Each(_STATISTIC), "bins": Each(_CURVE)},
        "different": {"peak": Each(_STATISTIC)},
    },
    "straightness": Optional(_STATISTIC),  # None of a model that doesn't give its features
    "real": Optional(Each(_STATISTIC)),
    "cka": Optional(Each(Optional(NUMBER))),
}
_CALIBRATION = {
    "scores": Each(NUMBER),
    "scaled": Optional(Each(NUMBER)),
    "temperature": NUMBER,
    "held_out": COUNT,
    "reliability": {"count": [AMOUNT], "accuracy": [NUMBER], "low": [NUMBER], "high": [NUMBER]},
    "risk_coverage": {"coverage": [AMOUNT], "risk": [NUMBER]},
}
_LARGEST = {"classes": [COUNT], "probabilities": [AMOUNT]}
_EXAMPLE = {
    "pair": COUNT,
    "lam": AMOUNT,
    "labels": [COUNT],
    **_LARGEST,
    "teacher": Optional(_LARGEST),
}
ANALYSIS = {
    "step": COUNT,
    "splits": {"test": _TEST},
    "calibration": _CALIBRATION,
    "corruption": Optional({"scores": {"mean": Each([NUMBER])}}),
    "examples": Optional([_EXAMPLE]),
}
# Where the run itself is described, in config.json.
CONFIG = {
    "config": Each(ANYTHING),
    "data": Each(ANYTHING),
    "versions": Each(TEXT),
    "devices": [TEXT],
    "git_commit": TEXT,
    "command": TEXT,
}

# results.json, as far as tables show it.
_SPREAD = {"mean": NUMBER, "std": NUMBER, "low": NUMBER, "high": NUMBER}
_COMPARED = {**_SPREAD, "seeds": COUNT, "won": COUNT}
RESULTS = {
    "teacher": Each(NUMBER),
    "arms": Each({name: Optional(_SPREAD) for name in METRICS}),
    "seeds": Each([COUNT]),
    "wins": Each(Each({"wins": COUNT, "seeds": COUNT})),
    "data": {"skipped": COUNT},
    "differences": Each({name: _COMPARED for name in METRICS}),
    "analyses": Each(
        {"/".join(path): {**_SPREAD, "seeds": COUNT} for path in (*VICINAL, *CALIBRATION)}
    ),
    "best": Each({**{name: Optional(_SPREAD) for name in METRICS}, "steps": [COUNT]}),
    "behind": Each(COUNT),
    "warnings": [TEXT],
}


def lengths(content: Any, place: str = "") -> dict[str, dict[str, int]]:
    """Returns the lengths of the lists of numbers by the object that they are in and their name."""
    found: dict[str, dict[str, int]] = {}
    for name, entry in content.items():
        inside = f"{place}.{name}" if place else name
        if isinstance(entry, Mapping):
            found |= lengths(entry, inside)
        elif isinstance(entry, list) and name != "examples":
            found.setdefault(place, {})[name] = len(entry)
    return found
