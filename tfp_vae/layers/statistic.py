"""A statistic of a distribution as a layer, for functional models."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import optional_seed
from tfp_vae.constraints import float_policy
from tfp_vae.distribution_tensor import DRAW_SHAPED, TensorConversion, unwrap
from tfp_vae.seeds import Seeds

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class Statistic(keras.layers.Layer):
    r"""A statistic of the distribution that the previous layer outputs, as a tensor.

    .. math:: \mathrm{mean} = E[z], \; \mathrm{stddev} = \mathrm{Var}[z]^{1/2}, \ldots

    While a functional model is built, a distribution is a symbolic tensor, which has no
    method `mean`. This layer calls it when the model runs, and is saved with the model
    in safe mode.

    Args:
        statistic: `"mean"`, `"stddev"`, `"variance"`, `"mode"` or `"sample"`.
        seed: Integer seed of the draws of `"sample"`.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        distribution: The output of a distribution layer.

    Returns:
        A tensor of the shape of a draw, in the dtype of the input's value, or a real
        number if the statistic is one.

    Raises:
        ValueError: If `statistic` is none of these, or the input is no distribution.

    Example:
        >>> x = keras.Input((4,))
        >>> q = tv.IndependentNormal(2)(keras.layers.Dense(4)(x))
        >>> means = keras.Model(x, Statistic("mean")(q))
        >>> means(tf.zeros([5, 4])).shape
        TensorShape([5, 2])
    """

    def __init__(
        self, statistic: str = "mean", seed: int | None = None, **kwargs: Any
    ) -> None:
        policy = float_policy(kwargs.get("dtype"))
        super().__init__(**{"autocast": False, **kwargs, "dtype": policy})
        if not isinstance(statistic, str) or statistic not in DRAW_SHAPED:
            raise ValueError(
                f"`Statistic` expects `statistic` to be one of {DRAW_SHAPED}. "
                f"Received: statistic={statistic!r}. For others call the model, and "
                "then a method of its output: `model(x).entropy()`."
            )
        self.statistic = statistic
        self.seed = optional_seed(seed, "Statistic")
        self.supports_masking = True
        self._seeds = Seeds(self.seed)

    def call(self, distribution: Any) -> tf.Tensor:
        """Computes the statistic."""
        if not isinstance(distribution, tfd.Distribution):
            raise ValueError(
                "`Statistic` expects a distribution. Received: a plain tensor of shape "
                f"{distribution.shape}. Put it right behind a distribution layer such "
                "as `IndependentNormal`."
            )
        draw = distribution.batch_shape.concatenate(distribution.event_shape)
        if draw.rank != distribution.shape.rank:
            raise ValueError(
                "`Statistic` expects a value that has the shape of a draw. "
                f"Received: a value of shape {tuple(distribution.shape)} for draws of "
                f"shape {tuple(draw)}. Convert it with 'sample' or 'mean' in the "
                "distribution layer before it."
            )
        seed = self._seeds.next() if self.statistic == "sample" else None
        convert = TensorConversion(self.statistic)
        value = tf.convert_to_tensor(convert(unwrap(distribution), seed))
        dtype = tf.as_dtype(self._dtype_of_value(distribution))
        # Draws that the layer before converts to integers stay real numbers.
        truncates = value.dtype.is_floating and not dtype.is_floating
        return value if truncates else tf.cast(value, dtype)

    def compute_output_spec(self, distribution: Any) -> keras.KerasTensor:
        """The shape of a draw; a mean of integers is a real number."""
        dtype = self._dtype_of_value(distribution)
        return keras.KerasTensor(distribution.shape, dtype=dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's shape."""
        return input_shape

    def _dtype_of_value(self, distribution: Any) -> str:
        # A symbolic input has the dtype of its value, not that of draws.
        dtype = keras.backend.standardize_dtype(distribution.dtype)
        integers = not keras.backend.is_float_dtype(dtype)
        real = self.statistic not in ("sample", "mode")
        return self.compute_dtype if integers and real else dtype

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {
            **super().get_config(),
            "statistic": self.statistic,
            "seed": self.seed,
        }
