"""Predictions that average over random weights, or over the models of an ensemble."""
