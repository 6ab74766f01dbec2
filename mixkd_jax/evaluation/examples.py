"""A few mixed test images with a model's largest probabilities, chosen by rule and not by hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import special

from mixkd_jax.evaluation.pairs import Pairs
from mixkd_jax.training.feeds import Images, fetch

_TOP = 5  # classes that are told of an example
_MIXED = (0.3, 0.7)  # λ of the examples: inputs in which both images can be seen
_RANDOM = 2

Logits = Callable[[np.ndarray], np.ndarray]  # from pairs' numbers i[m] to logits f32[m, C]


def examples(
    images: Images,
    pairs: Pairs,
    nonlinearity: np.ndarray,
    divergence: np.ndarray | None,
    model: Logits,
    teacher: Logits | None,
) -> list[dict[str, Any]]:
    """Returns the examples of a model, as `analysis.json` holds them.

    All models of a run have the pairs that are the most and the least linear for their teacher, and
    two at random; a student also the one on which it is farthest from the teacher.

    Args:
      images: the split.
      pairs: of it.
      nonlinearity: f64[n], L_NL of the teacher between each pair, of a teacher itself its own.
      divergence: f64[n], KL(teacher ‖ student) on the mixtures; None for a teacher itself.
      model: what it predicts for some of them.
      teacher: the same of its teacher; None for a teacher itself.

    Returns:
      "rule", why it was chosen; "pair", its number; "lam"; "labels" of both images; "classes" and
      "probabilities", the five largest, falling. Those that the teacher doesn't have already also
      have "image", the mixed image as PNG in base64, and "teacher", what that predicts.
    """
    shown = _rules(pairs, nonlinearity)
    if not shown:
        return []
    own = shown if divergence is None else _farthest(pairs, divergence, shown)
    chosen = shown | own
    logits = dict(zip(chosen, model(np.array([*chosen])), strict=True))
    others = {}
    if teacher is not None and own:
        others = dict(zip(own, teacher(np.array([*own])), strict=True))
    pictures = _pictures(images, pairs, list(own))
    found = []
    for k, rule in chosen.items():
        example = _example(pairs, k, rule) | _largest(logits[k])
        if k in own:
            example["image"] = pictures[k]
        if k in others:
            example["teacher"] = _largest(others[k])
        found.append(example)
    return found


def _candidates(pairs: Pairs) -> np.ndarray:
    """The pairs of two classes that are well mixed, as indices."""
    low, high = _MIXED
    return np.flatnonzero(~pairs.same & (pairs.lam > low) & (pairs.lam < high))


def _rules(pairs: Pairs, nonlinearity: np.ndarray) -> dict[int, str]:
    known = _candidates(pairs)
    if not len(known):
        return {}
    chosen = {int(k): "at random" for k in known[:_RANDOM]}
    chosen[int(known[nonlinearity[known].argmin()])] = "most linear for the teacher"
    chosen[int(known[nonlinearity[known].argmax()])] = "least linear for the teacher"
    return chosen


def _farthest(pairs: Pairs, divergence: np.ndarray, shown: dict[int, str]) -> dict[int, str]:
    known = _candidates(pairs)
    farthest = int(known[divergence[known].argmax()])
    return {} if farthest in shown else {farthest: "farthest from the teacher"}


def _example(pairs: Pairs, k: int, rule: str) -> dict[str, Any]:
    return {
        "rule": rule,
        "pair": k,
        "lam": round(float(pairs.lam[k]), 4),
        "labels": [int(pairs.labels[pairs.i[k]]), int(pairs.labels[pairs.j[k]])],
    }


def _largest(logits: np.ndarray) -> dict[str, Any]:
    probs = special.softmax(logits)
    top = np.argsort(-probs, kind="stable")[:_TOP]
    return {
        "classes": top.tolist(),
        "probabilities": [round(float(p), 4) for p in probs[top]],
    }


def _pictures(images: Images, pairs: Pairs, chosen: list[int]) -> dict[int, str]:
    """Returns the mixed images as PNG files in base64."""
    if not chosen:
        return {}
    i, j = (fetch(images, pairs.images[side[chosen]]) for side in (pairs.i, pairs.j))
    lam = pairs.lam[chosen][:, None, None, None]
    mixed = np.rint(lam * i + (1 - lam) * j).astype(np.uint8)
    return {k: _png(image) for k, image in zip(chosen, mixed, strict=True)}


def _png(image: np.ndarray) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
