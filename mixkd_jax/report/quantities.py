"""The quantities that a report shows: how each is called, its unit, and what it can be."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Quantity:
    """How a number is shown. Files hold shares as fractions; a report shows them in %.

    Attributes:
      name: for headings.
      unit: "%", "nats", or nothing.
      decimals: digits after the point.
      better: "higher", "lower", "zero" for a signed one that should be near zero; None for one
        that is neither good nor bad.
      lowest: the least that it can be, as stored.
      highest: the most that it can be, as stored.
      meaning: one sentence for a reader of the report.
    """

    name: str
    unit: Literal["%", "nats", ""]
    decimals: int
    better: Literal["higher", "lower", "zero"] | None = None
    lowest: float = -math.inf
    highest: float = math.inf
    meaning: str = ""

    @property
    def scale(self) -> int:
        """What a stored value is multiplied by for display."""
        return 100 if self.unit == "%" else 1

    @property
    def heading(self) -> str:
        """Of a column; nats go without saying."""
        return f"{self.name} %" if self.unit == "%" else self.name

    def text(self, value: float, *, signed: bool = False) -> str:
        """Returns a stored value as it is shown, without its unit."""
        sign = "+" if signed or self.better == "zero" else ""
        return f"{self.scale * value:{sign}.{self.decimals}f}"

    def size(self, value: float) -> str:
        """Returns a stored distance, such as a standard deviation, as it is shown."""
        return f"{self.scale * value:.{self.decimals}f}"


METRICS: Mapping[str, Quantity] = {
    "accuracy": Quantity(
        "accuracy", "%", 2, "higher", 0, 1, "Share of test examples whose likeliest class is right."
    ),
    "ece": Quantity(
        "ECE",
        "%",
        2,
        "lower",
        0,
        1,
        "Expected calibration error: the gap between confidence and accuracy, averaged over"
        " equal-width bins of confidence, weighted by their number of examples.",
    ),
    "overconfidence": Quantity(
        "conf-acc",
        "%",
        2,
        "zero",
        -1,
        1,
        "Mean confidence minus accuracy: positive is overconfident, negative underconfident.",
    ),
    "nll": Quantity(
        "NLL", "nats", 3, "lower", 0, meaning="Negative log-likelihood of the true class."
    ),
    "brier": Quantity(
        "Brier",
        "",
        3,
        "lower",
        0,
        2,
        "Squared distance between the predicted probabilities and the one-hot label, summed"
        " over classes (0 to 2).",
    ),
    "nonlinearity": Quantity(
        "L_NL",
        "nats",
        4,
        "lower",
        0,
        meaning="How far the prediction on a mixed input is from the same mixture of the two"
        " separate predictions: KL(λ p_i + (1-λ) p_j ‖ p(x̃)).",
    ),
}

_PEAK = ("splits", "test", "mixed", "all", "peak")
_OVERALL = ("splits", "test", "mixed", "all", "overall")
# Where in analysis.json -> the quantity.
VICINAL: Mapping[tuple[str, ...], Quantity] = {
    (*_OVERALL, "nonlinearity", "mean"): Quantity("L_NL", "nats", 3, "lower", 0),
    (*_PEAK, "nonlinearity", "mean"): Quantity("L_NL, peak", "nats", 3, "lower", 0),
    (*_PEAK, "linearity_gain", "mean"): Quantity("gain, peak", "nats", 3, "higher"),
    (*_PEAK, "entropy", "mean"): Quantity("entropy, peak", "nats", 3, None, 0),
    (*_OVERALL, "kl_teacher", "mean"): Quantity("KL mixed", "nats", 3, "lower", 0),
    ("splits", "test", "real", "kl_teacher", "mean"): Quantity("KL real", "nats", 3, "lower", 0),
    (*_OVERALL, "agreement", "mean"): Quantity("agree mixed", "%", 1, "higher", 0, 1),
    ("splits", "test", "real", "agreement", "mean"): Quantity("agree real", "%", 1, "higher", 0, 1),
    ("splits", "test", "cka", "mixed"): Quantity("CKA mixed", "", 3, "higher", 0, 1),
    ("splits", "test", "cka", "real"): Quantity("CKA real", "", 3, "higher", 0, 1),
    ("splits", "test", "straightness", "mean"): Quantity("straightness", "", 3, "higher", 0, 1),
}
CALIBRATION: Mapping[tuple[str, ...], Quantity] = {
    ("calibration", "scores", "ece"): Quantity("ECE", "%", 2, "lower", 0, 1),
    ("calibration", "scores", "adaptive_ece"): Quantity("adaptive", "%", 2, "lower", 0, 1),
    ("calibration", "scores", "classwise_ece"): Quantity("classwise", "%", 2, "lower", 0, 1),
    ("calibration", "scores", "aurc"): Quantity("AURC", "%", 2, "lower", 0, 1),
    ("calibration", "temperature"): Quantity("T", "", 2, None, 0),
    ("calibration", "scaled", "ece"): Quantity("ECE at T", "%", 2, "lower", 0, 1),
    ("calibration", "scores", "nll"): Quantity("NLL", "nats", 3, "lower", 0),
    ("calibration", "scaled", "nll"): Quantity("NLL at T", "nats", 3, "lower", 0),
}
