"""Layers whose weights are draws from a distribution."""
