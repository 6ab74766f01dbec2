"""The claims of arXiv:2606.12171, each decided from a run's numbers by a rule that is stated.

"Supported" means that the rule holds, "not supported" that it doesn't: too few seeds to tell count
as such too, for the rules ask for confidence intervals. A claim is "not testable here" if the run
lacks what the rule compares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from mixkd_jax.folder import TEACHER
from mixkd_jax.report import intervals, sweeps
from mixkd_jax.report.intervals import interval, metric_values
from mixkd_jax.report.records import Records

SUPPORTED, NOT_SUPPORTED, NOT_TESTABLE = "supported", "not supported", "not testable here"
NORMAL = 1.96  # of an interval over pairs, of which there are many
SAYS = {
    "C1": "On mixed inputs the teacher's signal is dominated by distributional confusion rather"
    " than by structure between classes.",
    "C2": "The student becomes more linear than its teacher between two inputs.",
    "C3": "Distillation with mixup improves the student's accuracy.",
    "C4": "It reduces overconfidence by an order of magnitude against the baseline.",
    "C5": "Calibration passes from teacher to student independently of accuracy.",
    "C6": "Temperature trades accuracy against calibration, more so with mixup.",
}
RULES = {
    "C1": "Test pairs of different classes at the peak: of the probability outside the pair, the"
    " interval of what is in excess of the linear reference r lies above what is in r; and the rank"
    " correlation of the classes outside the pair with r explains less than half of their order"
    " (its interval lies below 0.71). The paper's own measure is unpublished: this one is how"
    " mixkd_jax reads the claim.",
    "C2": "Test pairs at the peak: the 95 % interval over seeds of L_NL(teacher) - L_NL(mixkd) lies"
    " above 0. The differences from mixup and kd, paired by seed, say how much of it is mixing's"
    " and how much is distillation's.",
    "C3": "The 95 % interval over seeds of the paired difference in accuracy, mixkd - ce, lies"
    " above 0.",
    "C4": "The size of confidence minus accuracy, averaged over seeds, is at most a tenth of that"
    ' of ce, which is overconfident on average. The paper says only "the baseline": the factor'
    " against kd is shown too.",
    "C5": "Arms of mixkd that differ in teacher_temperature alone, 3 or more, so that teachers of"
    " one accuracy differ in calibration: the slope of the student's confidence minus accuracy over"
    " its teacher's, fitted in each seed, has a 95 % interval over seeds above 0.",
    "C6": 'Arms that differ in temperature alone, 3 or more of kd and of mixkd ("std" is none):'
    " the rank correlation of accuracy and ECE over the temperatures, taken in each seed of mixkd,"
    " has a 95 % interval over seeds above 0; and so has the range of the ECE over the"
    " temperatures, mixkd - kd, paired by seed.",
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A row of the table of claims.

    Attributes:
      name: C1 to C6.
      says: what the paper claims.
      rule: when that counts as supported.
      shows: the numbers, or what is missing.
      verdict: `SUPPORTED`, `NOT_SUPPORTED` or `NOT_TESTABLE`.
      numbers: what the rule was applied to, for programs; empty if it was not applied.
    """

    name: str
    says: str
    rule: str
    shows: str
    verdict: str
    numbers: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a rule found.

    Attributes:
      shows: the numbers in words, or what is missing.
      holds: whether the rule holds; None if it can't be applied.
      numbers: for programs.
    """

    shows: str
    holds: bool | None = None
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)


def judge(records: Records) -> list[Claim]:
    """Returns the claims C1 to C6 as one run shows them."""
    return [decide(name, rule(records)) for name, rule in _JUDGES.items()]


def decide(name: str, found: Finding, rule: str | None = None) -> Claim:
    """Returns a claim with its verdict.

    Args:
      name: C1 to C6.
      found: by the rule.
      rule: in words, if it isn't that of `RULES`.
    """
    verdict = {True: SUPPORTED, False: NOT_SUPPORTED, None: NOT_TESTABLE}[found.holds]
    return Claim(name, SAYS[name], rule or RULES[name], found.shows, verdict, found.numbers)


def temperature_trade(sweep: sweeps.Sweep) -> Finding:
    """Decides C6 by students that differ in the temperature alone."""
    found = sweeps.trade(sweep)
    if found is None:
        return Finding(
            f"Needs {sweeps.FEWEST_VALUES} or more temperatures of kd and of mixkd, in"
            f" {sweeps.FEWEST_SEEDS} seeds or more."
        )
    parts = [
        f"{base}: rank correlation {between(found[base]['correlation'], '.2f')}, ECE varies by"
        f" {between(_hundred(found[base]['range']), '.2f')} points"
        for base in sweeps.DISTILLED
    ]
    more = found["range_difference"]
    shows = (
        f"Over T = {_listed(found['mixkd']['values'])}: {'; '.join(parts)}; mixkd - kd"
        f" {between(_hundred(more), '+.2f')} points."
    )
    return Finding(shows, found["mixkd"]["correlation"]["low"] > 0 and more["low"] > 0, found)


def calibration_transfer(sweep: sweeps.Sweep) -> Finding:
    """Decides C5 by students that differ in their teacher's temperature alone."""
    found = sweeps.transfer(sweep)
    if found is None:
        return Finding(
            f"Needs {sweeps.FEWEST_VALUES} or more teacher temperatures of mixkd, in"
            f" {sweeps.FEWEST_SEEDS} seeds or more."
        )
    parts = [
        f"{base}: slope {between(measured['slope'], '.2f')}, correlation"
        f" {between(measured['correlation'], '.2f')}"
        for base, measured in sorted(found.items(), reverse=True)
    ]
    gaps = found["mixkd"]["teacher"]
    accuracy = found["mixkd"]["teacher_accuracy"]
    at_one = f" at one accuracy of {percent(accuracy[0])}" if accuracy else ""
    shows = (
        f"Teacher's logits divided by {_listed(found['mixkd']['values'])}: its gap goes from"
        f" {100 * max(gaps):+.1f} % to {100 * min(gaps):+.1f} %{at_one}. {'; '.join(parts)}."
    )
    return Finding(shows, found["mixkd"]["slope"]["low"] > 0, found)


def _confusion(records: Records) -> Finding:
    peak = ("splits", "test", "mixed", "different", "peak")
    names = ("outside", "outside_reference", "outside_excess", "structure")
    controls = ("structure_shuffled", "structure_other")
    found = intervals.at(records.analyses.get(TEACHER), *peak)
    if found is None:
        return Finding("The teacher has not been analysed.")
    if any(found.get(name, {}).get("stderr") is None for name in names):
        return Finding("Too few classes, or too few pairs of different classes.")
    limits = {name: _over_pairs(found[name]) for name in names}
    limits |= {name: {"mean": intervals.at(found, name, "mean")} for name in controls}
    excess, structure = limits["outside_excess"], limits["structure"]
    reference = limits["outside_reference"]["mean"]
    shuffled, other = (_number(limits[name]["mean"]) for name in controls)
    shows = (
        f"Outside the pair: {percent(limits['outside']['mean'])} of p(x̃), {percent(reference)} of"
        f" r, excess {between(_hundred(excess), '.1f')} points. Rank correlation with r:"
        f" {between(structure, '.2f')} (classes shuffled {shuffled}, r of another pair {other})."
    )
    return Finding(shows, excess["low"] > reference and structure["high"] < 0.5**0.5, limits)


def _linearity(records: Records) -> Finding:
    peak = ("splits", "test", "mixed", "all", "peak")
    gain = intervals.analysis_values(records, "mixkd", *peak, "linearity_gain", "mean")
    if len(gain) < 2:
        return Finding("Needs two analysed seeds of mixkd or more.")
    numbers = {"teacher - mixkd": interval(gain.values())}
    own = intervals.analysis_values(records, "mixkd", *peak, "nonlinearity", "mean")
    for arm in ("ce", "mixup", "kd"):
        others = intervals.analysis_values(records, arm, *peak, "nonlinearity", "mean")
        found = interval(intervals.paired(others, own).values())
        if found["seeds"] > 1:
            numbers[f"{arm} - mixkd"] = found
    texts = [f"{name}: {between(found, '+.3f')}" for name, found in numbers.items()]
    shows = f"L_NL in nats, {'; '.join(texts)}."
    return Finding(shows, numbers["teacher - mixkd"]["low"] > 0, numbers)


def _accuracy(records: Records) -> Finding:
    numbers = {}
    ours = metric_values(records, "mixkd", "accuracy")
    for arm in ("ce", "mixup", "kd"):
        found = intervals.difference(ours, metric_values(records, arm, "accuracy"), "higher")
        if found["seeds"] > 1:
            numbers[f"mixkd - {arm}"] = found
    if "mixkd - ce" not in numbers:
        return Finding("Needs two seeds of mixkd and ce or more.")
    texts = [
        f"{name}: {between(_hundred(found), '+.2f')} points, better in {found['won']} of"
        f" {found['seeds']} seeds"
        for name, found in numbers.items()
    ]
    shows = f"{'; '.join(texts)}. One data set and one teacher."
    return Finding(shows, numbers["mixkd - ce"]["low"] > 0, numbers)


def _overconfidence(records: Records) -> Finding:
    sizes = {
        arm: interval(metric_values(records, arm, "overconfidence").values())
        for arm in ("ce", "kd", "mixkd")
    }
    known = {arm: found["mean"] for arm, found in sizes.items() if found["seeds"]}
    if "ce" not in known or "mixkd" not in known:
        return Finding("Needs ce and mixkd.")
    factors = {
        arm: mean / known["mixkd"] if known["mixkd"] else None
        for arm, mean in known.items()
        if arm != "mixkd"
    }
    sizes_text = ", ".join(f"{arm} {percent(mean)}" for arm, mean in known.items())
    times = " and ".join(f"{_factor(factor)} against {arm}" for arm, factor in factors.items())
    shows = f"Mean size of confidence - accuracy: {sizes_text}; smaller by a factor of {times}."
    if sum(intervals.signed_values(records, "ce", "overconfidence").values()) <= 0:
        return Finding(f"{shows} ce is not overconfident here, so nothing can be reduced.")
    holds = factors["ce"] is None or factors["ce"] >= 10
    return Finding(shows, holds, {"sizes": sizes, "factors": factors})


_JUDGES: dict[str, Callable[[Records], Finding]] = {
    "C1": _confusion,
    "C2": _linearity,
    "C3": _accuracy,
    "C4": _overconfidence,
    "C5": lambda records: calibration_transfer(sweeps.within(records, sweeps.TEACHER_TEMPERATURE)),
    "C6": lambda records: temperature_trade(sweeps.within(records, sweeps.TEMPERATURE)),
}


def between(found: dict[str, Any], form: str) -> str:
    """Returns a mean with its interval: "+4.9 [+2.1, +7.6]"."""
    if found["low"] is None:
        return f"{found['mean']:{form}}"
    return f"{found['mean']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"


def percent(value: float) -> str:
    """Returns a fraction in %."""
    return f"{100 * value:.1f} %"


def _over_pairs(found: dict[str, Any]) -> dict[str, float]:
    mean, half = found["mean"], NORMAL * found["stderr"]
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _hundred(found: dict[str, Any]) -> dict[str, Any]:
    """Returns an interval in points of a hundred."""
    keys = ("mean", "low", "high")
    return {key: None if found[key] is None else 100 * found[key] for key in keys}


def _listed(values: list[sweeps.Value]) -> str:
    return ", ".join(f"{value:g}" for value in values if not isinstance(value, str))


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"


def _factor(value: float | None) -> str:
    return "infinity" if value is None else f"{value:.1f}"
