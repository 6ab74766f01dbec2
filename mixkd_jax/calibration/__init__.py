"""Calibration errors, proper scores and temperature scaling.

Bins are sums that merge over batches, devices and processes; errors are read
off the merged bins. The other errors need all examples at once. Probabilities
and labels come in, classes on the last axis.
"""

from mixkd_jax.calibration.binned import (
    debiased_l2_calibration_error,
    expected_calibration_error,
    maximum_calibration_error,
    overconfidence,
    overconfidence_error,
)
from mixkd_jax.calibration.bins import CalibrationBins, calibration_bins
from mixkd_jax.calibration.errors import (
    adaptive_calibration_error,
    area_under_risk_coverage,
    classwise_adaptive_calibration_error,
    classwise_calibration_error,
)
from mixkd_jax.calibration.scores import brier_score, negative_log_likelihood
from mixkd_jax.calibration.smooth import smooth_calibration_error
from mixkd_jax.calibration.temperature import fit_temperature

__all__ = [
    "CalibrationBins",
    "adaptive_calibration_error",
    "area_under_risk_coverage",
    "brier_score",
    "calibration_bins",
    "classwise_adaptive_calibration_error",
    "classwise_calibration_error",
    "debiased_l2_calibration_error",
    "expected_calibration_error",
    "fit_temperature",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "overconfidence",
    "overconfidence_error",
    "smooth_calibration_error",
]
