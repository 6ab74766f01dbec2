"""Figures of what models predict for mixtures of two test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mixkd_jax.report.claims import NORMAL
from mixkd_jax.report.figures import fonts, style
from mixkd_jax.report.figures.curves import Band, draw, over_seeds
from mixkd_jax.report.intervals import at

Analyses = Mapping[str, Sequence[Mapping[str, Any]]]  # model -> `analysis.json` of its seeds
LABELS = {
    "nonlinearity": "L_NL / nats",
    "entropy": "entropy of p(x̃) / nats",
    "kl_teacher": "KL(teacher ‖ student) / nats",
}
_CORRELATIONS = {
    "structure": ("with r", "o"),
    "structure_other": ("r of another pair", "s"),
    "structure_shuffled": ("shuffled", "x"),
}


def lambda_curves(analyses: Analyses, measure: str) -> Figure:
    """A measure in bins of λ, on pairs of test images.

    Args:
      analyses: "teacher" or an arm -> the `analysis.json` of its seeds.
      measure: a name of `LABELS`; models without it are left out.
    """
    looks = style.looks(list(analyses))
    with matplotlib.rc_context(style.STYLE):
        figure = style.create()
        axes = figure.add_subplot(xlabel="λ, the weight of the first image", ylabel=LABELS[measure])
        for name, seeds in analyses.items():
            found = [
                at(s, "splits", "test", "mixed", "all", "bins", measure, "mean") for s in seeds
            ]
            if None in found:
                continue
            band = over_seeds(found, lowest=0)
            x = (np.arange(band.mean.size) + 0.5) / band.mean.size
            draw(axes, x, band, name, looks[name])
        axes.set_xlim(0, 1)
        axes.set_ylim(bottom=0)
        style.legend(figure, axes)
    return figure


def outside_pair(analyses: Analyses) -> Figure | None:
    """Probability outside the two mixed classes, and whether it follows r; at the peak.

    Test pairs of different classes with λ between 0.45 and 0.55. With few classes there is nothing
    to rank outside a pair, and the lower panel is left out.

    Returns:
      None where there is no class outside a pair, or no pair of different classes.
    """
    mass = {name: _peak(analyses, name, 0, 1) for name in ("outside", "outside_reference")}
    ranks = {name: _peak(analyses, name, -1, 1) for name in _CORRELATIONS}
    if not np.any(np.nan_to_num(mass["outside"].mean)):
        return None
    ranked = bool(np.any(np.isfinite(ranks["structure"].mean)))
    names = list(analyses)
    with matplotlib.rc_context(style.STYLE):
        figure = style.create(height=4.2 if ranked else 2.6)
        rows = figure.subplots(2 if ranked else 1, 1, sharex=True, squeeze=False)[:, 0]
        _draw_mass(rows[0], mass, names)
        if ranked:
            _draw_ranks(rows[1], ranks, len(names))
        turned = {"rotation": 30, "ha": "right"} if sum(map(len, names)) > 36 else {}
        rows[-1].set_xticks(np.arange(len(names)), [fonts.drawable(n) for n in names], **turned)
        for axes in rows:
            axes.legend(
                loc="lower left", bbox_to_anchor=(0, 1), ncols=3, columnspacing=1, handlelength=1.2
            )
    return figure


def _draw_mass(axes: Axes, mass: Mapping[str, Band], names: Sequence[str]) -> None:
    x, looks = np.arange(len(names)), style.looks(names)
    colors = [looks[name]["color"] for name in names]
    reference = 100 * mass["outside_reference"].mean
    axes.bar(x, 100 * mass["outside"].mean, 0.6, color=colors, alpha=0.35, label="p(x̃)")
    axes.vlines(x, 100 * mass["outside"].low, 100 * mass["outside"].high, color=style.INK, lw=1)
    axes.hlines(reference, x - 0.3, x + 0.3, color=style.INK, linewidth=1.5, label="reference r")
    axes.set(ylabel="outside the pair / %")
    axes.set_ylim(bottom=0)


def _draw_ranks(axes: Axes, ranks: Mapping[str, Band], models: int) -> None:
    for k, (measure, (label, marker)) in enumerate(_CORRELATIONS.items()):
        band, place = ranks[measure], np.arange(models) + 0.18 * (k - 1)
        axes.plot(place, band.mean, marker, color=style.INK, label=label, markersize=4)
        axes.vlines(place, band.low, band.high, color=style.INK, linewidth=1)
    axes.axhline(0, color=style.INK, linewidth=0.7)
    axes.set(ylabel="rank correlation")


def _peak(analyses: Analyses, measure: str, lowest: float, highest: float) -> Band:
    """A measure of every model on test pairs of different classes at the peak.

    Limits are those over seeds; of a single model those over its pairs.
    """
    bands = []
    for seeds in analyses.values():
        found = [
            at(s, "splits", "test", "mixed", "different", "peak", measure) or {} for s in seeds
        ]
        band = over_seeds([[one.get("mean")] for one in found], lowest, highest)
        if len(found) == 1:
            half = NORMAL * np.array([found[0].get("stderr")], float)
            limits = (np.clip(band.mean + sign * half, lowest, highest) for sign in (-1, 1))
            band = Band(band.mean, *limits)
        bands.append(band)
    return Band(*(np.concatenate(part) for part in zip(*bands, strict=True)))
