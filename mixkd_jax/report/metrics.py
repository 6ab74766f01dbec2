"""The metrics of an evaluation, and how they are shown."""

import dataclasses
from collections.abc import Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Metric:
    """How a metric is shown and which direction is better.

    Attributes:
      heading: column heading, with the unit.
      scale: what a stored value is multiplied by for display.
      decimals: digits after the point.
      better: "higher", "lower", or "zero" for a signed metric that should be near zero.
      meaning: one sentence for a reader of the report.
    """

    heading: str
    scale: int
    decimals: int
    better: Literal["higher", "lower", "zero"]
    meaning: str


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(
        "accuracy %", 100, 2, "higher", "Share of test examples whose most probable class is right."
    ),
    "ece": Metric(
        "ECE %",
        100,
        2,
        "lower",
        "Expected calibration error: the gap between confidence and accuracy, averaged over"
        " equal-width bins of confidence, weighted by their number of examples.",
    ),
    "overconfidence": Metric(
        "conf-acc %",
        100,
        2,
        "zero",
        "Mean confidence minus accuracy: positive is overconfident, negative underconfident.",
    ),
    "nll": Metric(
        "NLL", 1, 3, "lower", "Negative log-likelihood of the true class, in nats per example."
    ),
    "brier": Metric(
        "Brier",
        1,
        3,
        "lower",
        "Squared distance between the predicted probabilities and the one-hot label, summed"
        " over classes (0 to 2).",
    ),
    "nonlinearity": Metric(
        "L_NL",
        1,
        4,
        "lower",
        "How far the prediction on a mixed input is from the same mixture of the two separate"
        " predictions: KL(λ p_i + (1-λ) p_j ‖ p(x̃)), in nats.",
    ),
}
