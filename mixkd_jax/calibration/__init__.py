"""Calibration errors and proper scores."""

from mixkd_jax.calibration.bins import (
    CalibrationBins,
    calibration_bins,
    expected_calibration_error,
    overconfidence,
)
from mixkd_jax.calibration.scores import brier_score, negative_log_likelihood

__all__ = [
    "CalibrationBins",
    "brier_score",
    "calibration_bins",
    "expected_calibration_error",
    "negative_log_likelihood",
    "overconfidence",
]
