"""Priors p(z): Keras layers, `prior(inputs=None) -> distribution`."""
