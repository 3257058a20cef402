"""Figures of what a VAE has learned, and of predictions and their calibration."""

from tfp_vae.plots.predictions import plot_calibration, plot_predictive
from tfp_vae.plots.vae import (
    image_grid,
    is_image,
    latent_centers,
    observed,
    plot_interpolations,
    plot_kl_per_dimension,
    plot_latents,
    plot_reconstructions,
    plot_samples,
    plot_traversals,
    reconstruction_grid,
    unit_images,
)

__all__ = [
    "image_grid",
    "is_image",
    "latent_centers",
    "observed",
    "plot_calibration",
    "plot_interpolations",
    "plot_kl_per_dimension",
    "plot_latents",
    "plot_predictive",
    "plot_reconstructions",
    "plot_samples",
    "plot_traversals",
    "reconstruction_grid",
    "unit_images",
]
