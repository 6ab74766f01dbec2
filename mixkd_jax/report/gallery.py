"""Mixed test images with what the models predict for them, as `analysis.json` has examples of."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, NamedTuple

from mixkd_jax.folder import TEACHER
from mixkd_jax.report.figures.style import drawn
from mixkd_jax.report.records import Records

_PNG = b"\x89PNG\r\n\x1a\n"


class Prediction(NamedTuple):
    """What one model predicts: its largest probabilities, in %, by class, falling."""

    model: str
    classes: list[tuple[str, float]]


class Example(NamedTuple):
    """A mixed image.

    Attributes:
      rule: why it was chosen.
      lam: the weight of the first image.
      labels: of the two images.
      source: the image as a `data:` address.
      predictions: of the teacher and the students, one seed each.
    """

    rule: str
    lam: float
    labels: list[str]
    source: str
    predictions: list[Prediction]


def examples(records: Records) -> list[Example]:
    """Returns the examples of the teacher's analysis, then those that only students have.

    An example is known by its pair and λ. Of each arm the first analysed seed is shown.
    """
    names = records.about.get("data", {}).get("class_names")
    models = {TEACHER: records.analyses.get(TEACHER, {})}
    for arm in drawn(records.arms):
        models[arm] = next(iter(records.of_arm(records.analyses, arm).values()), {})
    found: dict[tuple[int, float], Example] = {}
    for model, analysis in models.items():
        for one in analysis.get("examples") or []:
            key = one["pair"], one["lam"]
            if key not in found:
                source = _source(one.get("image"))
                if not source:
                    continue
                rule = one.get("rule")
                labels = [_name(names, label) for label in one["labels"]]
                rule = rule if isinstance(rule, str) else ""
                found[key] = Example(rule, one["lam"], labels, source, [])
                if one.get("teacher"):
                    found[key].predictions.append(_prediction(TEACHER, one["teacher"], names))
            found[key].predictions.append(_prediction(model, one, names))
    return list(found.values())


def _prediction(model: str, largest: Mapping[str, Any], names: Any) -> Prediction:
    pairs = zip(largest["classes"], largest["probabilities"], strict=False)
    shown = [(_name(names, label), 100.0 * min(share, 1)) for label, share in pairs]
    return Prediction(model, shown[:5])


def _source(image: Any) -> str:
    """Returns a PNG file in base64 as an address for a page; nothing for anything else."""
    try:
        content = base64.b64decode(image, validate=True) if isinstance(image, str) else b""
    except (binascii.Error, ValueError):
        return ""
    if not content.startswith(_PNG):
        return ""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _name(names: Any, label: int) -> str:
    known = isinstance(names, list) and label < len(names) and isinstance(names[label], str)
    return names[label] if known else str(label)
