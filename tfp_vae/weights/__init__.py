"""Layers with random weights, and weight normalisation."""
