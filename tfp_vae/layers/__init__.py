"""Layers that output a distribution, one family a file."""
