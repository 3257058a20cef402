"""Measures of trained models: information in codes, scores, calibration, intervals."""

from tfp_vae.evaluation.calibration import (
    Reliability,
    coverage,
    expected_calibration_error,
    pit,
    reliability,
)
from tfp_vae.evaluation.conformal import conformal_intervals
from tfp_vae.evaluation.information import (
    RateDistortion,
    active_units,
    kl_per_dimension,
    marginal_kl,
    mutual_information,
    rate_distortion,
)
from tfp_vae.evaluation.scores import crps, energy_score, interval_score

__all__ = [
    "RateDistortion",
    "Reliability",
    "active_units",
    "conformal_intervals",
    "coverage",
    "crps",
    "energy_score",
    "expected_calibration_error",
    "interval_score",
    "kl_per_dimension",
    "marginal_kl",
    "mutual_information",
    "pit",
    "rate_distortion",
    "reliability",
]
