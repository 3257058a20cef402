"""Layers that output a distribution, with the layers and functions around them."""
