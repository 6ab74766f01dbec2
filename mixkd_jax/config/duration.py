"""Durations of training, written as text."""

from __future__ import annotations

import dataclasses
import math
import re

_MOST = 1e12  # of any unit


@dataclasses.dataclass(frozen=True)
class Duration:
    """A length of training, such as "240 epochs", "1500 steps" or "2e6 examples"."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Reads `text`; raises ValueError if it is not a number and a unit."""
        match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*(epochs?|steps?|examples?)\s*", text)
        if not match or float(match[1]) > _MOST:
            raise ValueError(text)
        return cls(float(match[1]), match[2].rstrip("s") + "s")

    def steps(self, *, num_examples: int, batch_size: int) -> int:
        """Returns whole steps, the nearest; an epoch has `num_examples // batch_size` of them."""
        per_unit = {
            "steps": 1.0,
            "epochs": num_examples // batch_size,
            "examples": 1 / batch_size,
        }[self.unit]
        return math.floor(self.amount * per_unit + 0.5)
