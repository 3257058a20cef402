"""Names that the examples in docstrings may use without importing them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv


@pytest.fixture(autouse=True)
def names_in_doctests(doctest_namespace: dict[str, object]) -> None:
    """Adds the names."""
    doctest_namespace.update(
        keras=keras, np=np, tf=tf, tfp=tfp, tfd=tfp.distributions, tv=tv
    )
