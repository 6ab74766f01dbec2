"""Calibration errors, proper scores and temperature scaling.

Bins are sums that merge over batches, devices and processes; errors are read
off the merged bins. Probabilities and labels come in, classes on the last axis.
"""

from mixkd_jax.calibration.bins import (
    CalibrationBins,
    calibration_bins,
    expected_calibration_error,
    maximum_calibration_error,
    overconfidence,
    overconfidence_error,
)
from mixkd_jax.calibration.errors import adaptive_calibration_error, classwise_calibration_error
from mixkd_jax.calibration.scores import brier_score, negative_log_likelihood
from mixkd_jax.calibration.temperature import fit_temperature

__all__ = [
    "CalibrationBins",
    "adaptive_calibration_error",
    "brier_score",
    "calibration_bins",
    "classwise_calibration_error",
    "expected_calibration_error",
    "fit_temperature",
    "maximum_calibration_error",
    "negative_log_likelihood",
    "overconfidence",
    "overconfidence_error",
]
