"""Layers that output a distribution, one family per file."""
