"""A product of different families over blocks of one vector."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import checked_config
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.layers.distribution_layer import (
    DistributionLayer,
    check_inner_layer,
)

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class Blockwise(DistributionLayer):
    r"""Independent blocks of a vector, each with the distribution of another layer.

    .. math:: \log p(x) = \sum_j \log p_j(x_j; \mathrm{parameters}_j)

    where x_j is block j of x. The inputs are the parameters of the first block, then
    those of the second, and so on. A draw concatenates the flattened draws of the
    blocks in this order; if their dtypes differ, integers become real numbers. In a
    likelihood, a weight or a missing entry acts on one coordinate, if its block
    factorises. In another block all coordinates must have the same weight, or be
    missing together; otherwise an error is raised, or the loss of a compiled step is
    NaN. The KL to a `Blockwise` or `tfd.Blockwise` prior is the sum over the blocks,
    and exact if each term is.

    Reference:
        `tfp.distributions.Blockwise`.

    Args:
        layers: Distribution layers, such as
            `[IndependentNormal(3), VonMisesFisher(5)]`. The conversion, seed, dtype and
            regularizer are arguments of this layer.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        A `tfd.Blockwise` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If `layers` are not distribution layers with a known number of
            parameters, one has an argument that belongs to this layer, or the last axis
            of the inputs is not the sum of the numbers.

    Example:
        >>> blocks = [tv.IndependentNormal(3), tv.IndependentLaplace(2)]
        >>> q = Blockwise(blocks)(tf.zeros([7, Blockwise.params_size(blocks)]))
        >>> q.batch_shape, q.event_shape
        (TensorShape([7]), TensorShape([5]))
    """

    def __init__(
        self,
        layers: Sequence[DistributionLayer],
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            convert_to_tensor_fn=convert_to_tensor_fn,
            validate_args=validate_args,
            **kwargs,
        )
        self.layers = _checked_layers(layers)
        for layer in self.layers:
            check_inner_layer(layer, self)

    @staticmethod
    def params_size(
        layers: Sequence[DistributionLayer], name: str | None = None
    ) -> int:
        """The sum over the layers."""
        return sum(_widths(_checked_layers(layers)))

    @property
    def description(self) -> str:
        """The layer as error messages show it."""
        return f"Blockwise([{', '.join(layer.description for layer in self.layers)}])"

    def build(self, input_shape: Any) -> None:
        """Builds the layers of the blocks."""
        for layer, width in zip(self.layers, _widths(self.layers), strict=True):
            if not layer.built:
                layer.build((*input_shape[:-1], width))
        super().build(input_shape)

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        parts = tf.split(parameters, _widths(self.layers), axis=-1)
        return self._joined(
            layer.make_distribution(part)
            for layer, part in zip(self.layers, parts, strict=True)
        )

    def distribution_for(self, values: tf.Tensor) -> Any:
        """As in the base class; each layer sees the values of its block."""
        of_zeros = super().distribution_for(values)
        if values.shape[1:] != of_zeros.event_shape:
            return of_zeros  # The caller compares the shapes.
        shapes = [block.event_shape for block in of_zeros.distributions]
        parts = tf.split(values, [shape.num_elements() for shape in shapes], axis=-1)
        blocks = [
            unwrap(layer.distribution_for(tf.reshape(part, [-1, *shape])))
            for layer, part, shape in zip(self.layers, parts, shapes, strict=True)
        ]
        batch = values.shape[:1]
        return self._joined(
            block if block.batch_shape == batch else tfd.BatchBroadcast(block, batch)
            for block in blocks
        )

    def _joined(self, distributions: Iterable[Any]) -> Any:
        blocks = [unwrap(block) for block in distributions]
        mixed = len({tf.as_dtype(block.dtype) for block in blocks}) > 1
        return tfd.Blockwise(
            blocks,
            dtype_override=tf.as_dtype(self.compute_dtype) if mixed else None,
            validate_args=self.validate_args,
            allow_nan_stats=True,
        )

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, the layers serialized."""
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.layers]
        return {**super().get_config(), "layers": layers}

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> DistributionLayer:
        """Restores the layers before calling `__init__`."""
        layers = [keras.saving.deserialize_keras_object(c) for c in config["layers"]]
        rest = {key: value for key, value in config.items() if key != "layers"}
        return super().from_config({**rest, "layers": layers})


def _checked_layers(layers: Any) -> list[DistributionLayer]:
    layers = list(layers) if isinstance(layers, list | tuple) else []
    if not layers or not all(
        isinstance(layer, DistributionLayer) and layer.parameters_width
        for layer in layers
    ):
        raise ValueError(
            "`Blockwise` expects a list of distribution layers with a known number of "
            f"parameters. Received: {layers!r}. Give instances such as "
            "`[IndependentNormal(3), VonMisesFisher(5)]`."
        )
    return layers


def _widths(layers: Sequence[DistributionLayer]) -> list[int]:
    return [layer.parameters_width or 0 for layer in layers]
