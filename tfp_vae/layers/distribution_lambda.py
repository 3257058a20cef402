"""Any distribution as a layer output, from a function."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow_probability as tfp

from tfp_vae.layers.distribution_layer import DistributionLayer

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class DistributionLambda(DistributionLayer):
    """Turns the output of the previous layer into any distribution of TFP.

    For families without a layer. Keras saves the function by name: to load the model
    again, use a named function and register it. Keras variables and layers that the
    function reads, from a closure or a global, are trained and saved with the layer.

    Reference:
        `tfp.layers.DistributionLambda`.

    Args:
        make_distribution_fn: Callable from the inputs to a `tfd.Distribution`.
        convert_to_tensor_fn: See `DistributionLayer`.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: What `make_distribution_fn` takes: a tensor, or a list, tuple or
            dictionary of tensors.

    Returns:
        A `DistributionTensor`.

    Raises:
        ValueError: If the function does not return a distribution, reads a trainable
            `tf.Variable`, or is a Python lambda and the model is loaded in safe mode.

    Example:
        >>> layer = DistributionLambda(lambda rate: tfd.Exponential(tf.exp(rate)))
        >>> layer(tf.zeros([5])).batch_shape
        TensorShape([5])
    """

    def __init__(
        self,
        make_distribution_fn: Callable[[Any], Any],
        convert_to_tensor_fn: Any = "sample",
        **kwargs: Any,
    ) -> None:
        super().__init__(convert_to_tensor_fn=convert_to_tensor_fn, **kwargs)
        if not callable(make_distribution_fn):
            raise ValueError(
                "`DistributionLambda` expects `make_distribution_fn` to be a function "
                "from the inputs to a `tfd.Distribution`. Received: "
                f"make_distribution_fn={make_distribution_fn!r}. For one distribution "
                "whatever the inputs, use `lambda _: distribution`."
            )
        self.make_distribution_fn = make_distribution_fn

    @property
    def description(self) -> str:
        """The layer as error messages show it."""
        return f"DistributionLambda({self.make_distribution_fn!r})"

    def make_distribution(self, parameters: Any) -> Any:
        """Calls the function."""
        return self.make_distribution_fn(parameters)

    def _functions(self) -> list[Any]:
        return [*super()._functions(), self.make_distribution_fn]

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, functions as Keras serializes them."""
        fn = keras.saving.serialize_keras_object(self.make_distribution_fn)
        return {**super().get_config(), "make_distribution_fn": fn}
