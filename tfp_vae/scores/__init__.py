"""Proper scores of predicted distributions, as losses and metrics."""
