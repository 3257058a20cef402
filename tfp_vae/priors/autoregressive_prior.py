"""A prior over sequences of latents, each conditioned on those before it."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import Shape, canonical_event_shape, integer
from tfp_vae.constraints import float_policy
from tfp_vae.layers.location_scale import IndependentNormal

tfd: Any = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class AutoregressivePrior(keras.layers.Layer):
    r"""A prior for sequences: each step is normal, given the steps before it.

    .. math::

        p(z) = \prod_t \mathcal N(z_t; \mathrm{loc}(h_t), \mathrm{scale}(h_t)), \quad
        h_t = \mathrm{LSTM}(0, z_{<t})

    Without inputs, the call returns this distribution of whole sequences: `log_prob(z)`
    feeds z to the network (teacher forcing), `sample` feeds it its own draws. With a
    draw z of the posterior, the call returns the distribution of each step given the
    *drawn* steps before it. For a posterior that factorises over the steps, such as
    `IndependentNormal((T, d))`,

    .. math::

        \mathrm{KL}(q \,\|\, p)
        = \sum_t E_{q(z_{<t})} \, \mathrm{KL}(q(z_t) \,\|\, p(z_t \mid z_{<t}))

    The inner KL is exact, so the estimate has less variance than log q - log p.
    `tv.VAE` and the KL layers use it, with the draws that the decoder gets.

    Reference:
        Li and Mandt, Disentangled sequential autoencoder, 2018.
        https://arxiv.org/abs/1803.02991

    Args:
        event_shape: `(T, d)`: the number of steps and the size of a latent.
        units: Width of the LSTM.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        inputs: `None`, or latents of shape `(..., T, d)` to feed to the network.

    Returns:
        Without inputs a `tfd.Autoregressive` with batch shape `()`; with them an
        `Independent(Normal)` with batch shape `(...)`. Event shape `(T, d)`.

    Raises:
        ValueError: If `event_shape` is not `(T, d)`, or the inputs do not end in it.

    Example:
        >>> prior = AutoregressivePrior((8, 4), units=16)
        >>> z = prior().sample(5)
        >>> z.shape, np.allclose(prior().log_prob(z), prior(z).log_prob(z), atol=1e-3)
        (TensorShape([5, 8, 4]), True)
    """

    def __init__(self, event_shape: Shape, units: int = 64, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": float_policy(kwargs.get("dtype"))})
        caller = type(self).__name__
        self.event_shape = canonical_event_shape(event_shape, caller)
        if len(self.event_shape) != 2:
            raise ValueError(
                "`AutoregressivePrior` expects `event_shape` to be (T, d). Received: "
                f"event_shape={event_shape!r}. Give the number of steps and the size "
                "of the latent of one step."
            )
        self.units = integer(units, "units", caller)
        size = self.event_shape[1]
        self.lstm = keras.layers.LSTM(
            self.units, return_sequences=True, dtype=self.dtype_policy
        )
        width = IndependentNormal.params_size(size)
        self.heads = keras.layers.Dense(width, dtype=self.dtype_policy)

    def build(self, inputs_shape: Any = None) -> None:
        """Makes the variables, whose shapes do not depend on the inputs."""
        steps, size = self.event_shape
        if not self.lstm.built:
            self.lstm.build((None, steps, size))
        if not self.heads.built:
            self.heads.build((None, steps, self.units))
        self.built = True

    def call(self, inputs: Any = None) -> Any:
        """The distribution of sequences, or of their steps given the inputs."""
        if inputs is not None:
            return self._given(tf.convert_to_tensor(inputs))
        start = tf.zeros(self.event_shape, self.compute_dtype)
        return _Sequences(self._given, start, num_steps=self.event_shape[0])

    def _given(self, latents: tf.Tensor) -> Any:
        """The distribution of each step given the steps of `latents` before it."""
        if not latents.shape[-2:].is_compatible_with(self.event_shape):
            raise ValueError(
                f"`AutoregressivePrior` expects latents of shape (..., "
                f"{str(self.event_shape)[1:-1]}). Received: inputs.shape="
                f"{tuple(latents.shape)}. Make the prior for sequences of that shape."
            )
        latents = tf.ensure_shape(latents, [*latents.shape[:-2], *self.event_shape])
        steps, size = self.event_shape
        flat = tf.reshape(latents, [-1, steps, size])
        before = tf.pad(flat[:, :-1], [[0, 0], [1, 0], [0, 0]])
        raw = self.heads(self.lstm(before))
        loc, scale = tf.split(raw, 2, axis=-1)
        raw = tf.concat([loc, scale], axis=-2)
        batch = tf.shape(latents)[:-2]
        raw = tf.reshape(raw, tf.concat([batch, [2 * steps * size]], axis=0))
        raw = tf.ensure_shape(raw, [*latents.shape[:-2], 2 * steps * size])
        return IndependentNormal.new(raw, self.event_shape)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {
            **super().get_config(),
            "event_shape": self.event_shape,
            "units": self.units,
        }


class _Sequences(tfd.Autoregressive):
    """Sets static shapes. TFP leaves them unknown: its function might change them."""

    def given(self, latents: tf.Tensor) -> Any:
        """The distribution of each step given the latents before it, for the KL."""
        return self.distribution_fn(latents)

    def _batch_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _event_shape(self) -> tf.TensorShape:
        return self.sample0.shape
