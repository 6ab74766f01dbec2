"""The claims of arXiv:2606.12171, each decided from a run's numbers by a rule that is stated.

"Supported" means that the rule holds, "not supported" that it doesn't: too few seeds to tell count
as such too, for the rules ask for confidence intervals. A claim is "not testable here" if the run
lacks what the rule compares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from mixkd_jax.report import comparison
from mixkd_jax.report.run_folder import RunFolder

SUPPORTED, NOT_SUPPORTED, NOT_TESTABLE = "supported", "not supported", "not testable here"
_NORMAL = 1.96  # of an interval over pairs, of which there are many


@dataclasses.dataclass(frozen=True)
class Claim:
    """A row of the table of claims.

    Attributes:
      name: C1 to C6.
      says: what the paper claims.
      rule: when that counts as supported.
      shows: the numbers, or what is missing.
      verdict: `SUPPORTED`, `NOT_SUPPORTED` or `NOT_TESTABLE`.
    """

    name: str
    says: str
    rule: str
    shows: str
    verdict: str


SAYS = {
    "C1": "On mixed inputs the teacher's signal is dominated by distributional confusion rather"
    " than by structure between classes.",
    "C2": "The student becomes more linear than its teacher between two inputs.",
    "C3": "Distillation with mixup improves the student's accuracy.",
    "C4": "It reduces overconfidence by an order of magnitude against the CE baseline.",
    "C5": "Calibration passes from teacher to student independently of accuracy.",
    "C6": "Temperature trades accuracy against calibration, more so with mixup.",
}
RULES = {
    "C1": "Test pairs of different classes at the peak: of the probability outside the pair, the"
    " interval of what is in excess of the linear reference r lies above what is in r; and the rank"
    " correlation of the classes outside the pair with r explains less than half of their order"
    " (its interval lies below 0.71).",
    "C2": "Test pairs at the peak: the 95 % interval over seeds of L_NL(teacher) - L_NL(mixkd) lies"
    " above 0.",
    "C3": "The 95 % interval over seeds of the paired difference in accuracy, mixkd - ce, lies"
    " above 0.",
    "C4": "The size of confidence minus accuracy, averaged over seeds, is at most a tenth of that"
    " of ce, which is overconfident on average.",
    "C5": "Over at least 4 runs with different teachers, the teacher's and the mixkd student's"
    " confidence minus accuracy correlate (95 % interval above 0), also with the student's accuracy"
    " held fixed (partial correlation above 0).",
    "C6": 'Over at least 3 temperatures ("std" is none), mean accuracy and ECE of mixkd rise'
    " together (rank correlation above 0), and the ECE of mixkd varies more than that of kd.",
}


def judge(folder: RunFolder) -> list[Claim]:
    """Returns the claims C1 to C6 as one run shows them."""
    return [claim(name, rule(folder)) for name, rule in _JUDGES.items()]


def claim(name: str, found: tuple[str, bool | None]) -> Claim:
    """Makes a row of the numbers and of whether the rule holds (None: not testable)."""
    shows, holds = found
    verdict = {True: SUPPORTED, False: NOT_SUPPORTED, None: NOT_TESTABLE}[holds]
    return Claim(name, SAYS[name], RULES[name], shows, verdict)


def _confusion(folder: RunFolder) -> tuple[str, bool | None]:
    peak = ("splits", "test", "mixed", "different", "peak")
    found = comparison.at(folder.analyses.get("teacher"), *peak)
    if found is None:
        return "The teacher has not been analysed.", None
    excess, reference, structure = (
        found[name] for name in ("outside_excess", "outside_reference", "structure")
    )
    if None in (excess["stderr"], structure["stderr"]):
        return "Too few classes or pairs of different classes.", None
    low = excess["mean"] - _NORMAL * excess["stderr"]
    high = structure["mean"] + _NORMAL * structure["stderr"]
    shows = (
        f"Outside the pair: {_percent(found['outside']['mean'])} of p(x̃),"
        f" {_percent(reference['mean'])} of r, excess {_percent(excess['mean'])}"
        f" ± {_percent(_NORMAL * excess['stderr'])}. Rank correlation with r:"
        f" {structure['mean']:.2f} ± {_NORMAL * structure['stderr']:.2f}"
        f" (classes shuffled {_number(found['structure_shuffled']['mean'])}, r of another pair"
        f" {_number(found['structure_other']['mean'])})."
    )
    return shows, low > reference["mean"] and high < 0.5**0.5


def _linearity(folder: RunFolder) -> tuple[str, bool | None]:
    path = ("splits", "test", "mixed", "all", "peak", "linearity_gain", "mean")
    gain = {arm: comparison.analysis_values(folder, arm, *path) for arm in folder.arms()}
    if len(gain.get("mixkd", {})) < 2:
        return "Needs two analysed seeds of mixkd or more.", None
    found = comparison.interval(gain["mixkd"].values())
    others = "; ".join(
        f"{arm} {comparison.interval(values.values())['mean']:+.3f}"
        for arm, values in gain.items()
        if values and arm != "mixkd"
    )
    return f"mixkd {_interval(found, '+.3f')} nats" + (f" ({others})." if others else "."), (
        found["low"] > 0
    )


def _accuracy(folder: RunFolder) -> tuple[str, bool | None]:
    gaps = comparison.differences(folder)
    found = gaps.get("mixkd - ce", {}).get("accuracy")
    if not found or found["seeds"] < 2:
        return "Needs two seeds of mixkd and ce or more.", None
    shows = f"mixkd - ce: {_points(found)}"
    if "mixkd - kd" in gaps:
        shows += f"; mixkd - kd: {_points(gaps['mixkd - kd']['accuracy'])}"
    return f"{shows}. One data set and one teacher.", found["low"] > 0


def _overconfidence(folder: RunFolder) -> tuple[str, bool | None]:
    size = {a: comparison.metric_values(folder, a, "overconfidence") for a in ("ce", "mixkd")}
    if not all(size.values()):
        return "Needs ce and mixkd.", None
    signed = [
        folder.evaluations[f"arms/ce/{seed}"]["metrics"]["overconfidence"] for seed in size["ce"]
    ]
    ce, mixkd = (comparison.interval(size[arm].values())["mean"] for arm in ("ce", "mixkd"))
    sizes = f"Mean size: ce {_percent(ce)}, mixkd {_percent(mixkd)}"
    if sum(signed) <= 0:
        return f"{sizes}; ce is not overconfident here.", None
    factor = ce / mixkd if mixkd else float("inf")
    return f"{sizes}: smaller by a factor of {factor:.1f}.", factor >= 10


_JUDGES: dict[str, Callable[[RunFolder], tuple[str, bool | None]]] = {
    "C1": _confusion,
    "C2": _linearity,
    "C3": _accuracy,
    "C4": _overconfidence,
    "C5": lambda folder: ("One run has one teacher; compare runs (--mode=compare).", None),
    "C6": lambda folder: ("One run has one temperature; compare runs (--mode=compare).", None),
}


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _interval(found: dict[str, Any], form: str) -> str:
    return f"{found['mean']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"


def _points(found: dict[str, Any]) -> str:
    scaled = {key: 100 * found[key] for key in ("mean", "low", "high") if found[key] is not None}
    if len(scaled) < 3:
        return f"{scaled['mean']:+.2f} points"
    return f"{_interval(scaled, '+.2f')} points, won {found['won']} of {found['seeds']} seeds"
