"""Independent coordinates of one scalar family."""

from typing import Any, ClassVar

import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import Shape, integers
from tfp_vae.layers.distribution_layer import DistributionLayer
from tfp_vae.layers.events import batch_axes, event_size, independent, split_event

tfd = tfp.distributions


class IndependentLayer(DistributionLayer):
    r"""A scalar distribution for each coordinate of the event.

    .. math:: \log p(x) = \sum_i \log p(x_i; \mathrm{parameters}_i)

    By default the inputs are one vector: the first parameter of all coordinates, then
    the second of all, and so on. With `parameters_axis` they have the axes of the
    event. The size of that axis is multiplied by the number of parameters of a
    coordinate: the channels of a convolution, or the features of each step. A normal
    has two parameters, given by::

        loc, raw_scale = tf.split(inputs, 2, axis=parameters_axis)

    A subclass defines `parts`, the number of parameters of a coordinate, and
    `coordinates`, from these raw parts to a batch of scalar distributions.

    Args:
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        parameters_axis: Axis of the event along which the inputs list the parameters,
            a negative integer; -1 after convolutions and sequence layers. By default
            all parameters are one vector.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`, or with `parameters_axis=-1` of
            shape `(..., *event_shape[:-1], params_size(event_shape[-1]))`.

    Returns:
        A `tfd.Independent`; its batch shape is the `...` in the shape of the inputs.

    Raises:
        ValueError: If the inputs have another shape, or the event has no such axis.

    Example:
        >>> class Rayleighs(IndependentLayer):
        ...     parts = 1
        ...     def coordinates(self, raw):
        ...         return tfd.Weibull(2.0, tf.math.softplus(raw))
        >>> Rayleighs.params_size((2, 3)), Rayleighs((2, 3))(tf.zeros([5, 6])).shape
        (6, TensorShape([5, 2, 3]))

        >>> pixels = keras.layers.Conv2D(tv.IndependentNormal.params_size(3), 1)
        >>> images = tv.IndependentNormal((8, 8, 3), parameters_axis=-1)
        >>> images(pixels(tf.zeros([5, 8, 8, 4]))).batch_shape
        TensorShape([5])
    """

    parts: ClassVar[int]

    def __init__(
        self,
        event_shape: Shape = (),
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        *,
        parameters_axis: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)
        self.parameters_axis: int | None = None
        axes = range(-len(self.event_shape), 0)
        if parameters_axis is None:
            return
        (self.parameters_axis,) = integers([parameters_axis]) or (None,)
        if self.parameters_axis not in axes:
            raise ValueError(
                f"`{self.description}` expects `parameters_axis` to be None or an axis "
                f"of the event, one of {list(axes)}. Received: "
                f"parameters_axis={parameters_axis!r}. Give -1 where the parameters "
                "are channels, or the features of each step."
            )

    @classmethod
    def params_size(cls, event_shape: Shape = (), name: str | None = None) -> int:
        """`parts` numbers for each coordinate."""
        return cls.parts * event_size(event_shape, name or "params_size")

    def coordinates(self, *raw: tf.Tensor) -> Any:
        """Makes scalar distributions from real numbers.

        Args:
            *raw: The parts, tensors of shape `(..., *event_shape)`.

        Returns:
            A distribution of that batch shape and of scalar event.
        """
        raise NotImplementedError

    def build(self, input_shape: Any) -> None:
        """Checks the shape."""
        super().build(self._shape_of_vector(input_shape))

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        shape = self.event_shape
        raw = split_event(parameters, shape, self._count(), self.description)
        return independent(self.coordinates(*raw), shape, self.validate_args)

    def _count(self) -> int:
        """The number of parts into which the inputs are split."""
        return (self.parameters_width or 1) // event_size(self.event_shape, self.name)

    def _shape_of_vector(self, shape: Any) -> Any:
        """The shape of the inputs as vectors."""
        if self.parameters_axis is None:
            return shape
        event = self._axes_of_inputs()
        found = tuple(shape)[-len(event) :]
        if len(shape) < len(event) or any(
            size not in (None, expected)
            for size, expected in zip(found, event, strict=True)
        ):
            raise ValueError(
                f"`{self.description}` with parameters_axis={self.parameters_axis} "
                f"expects inputs of shape (..., {', '.join(map(str, event))}). "
                f"Received: inputs.shape={tuple(shape)}. Give the layer in front "
                f"{event[self.parameters_axis]} filters or units along that axis, or "
                "leave `parameters_axis` out where all parameters are one vector."
            )
        return (*tuple(shape)[: -len(event)], self.parameters_width)

    def _axes_of_inputs(self) -> list[int]:
        """The event shape, with the axis of the parameters as long as in the inputs."""
        sizes = list(self.event_shape)
        sizes[self.parameters_axis or 0] *= (self.parameters_width or 0) // event_size(
            self.event_shape, self.name
        )
        return sizes

    def _parameters(self, inputs: Any) -> Any:
        """The inputs as vectors: all of the first part, then all of the second."""
        axis = self.parameters_axis
        if axis is None:
            return inputs
        shape, sizes = self._shape_of_vector(inputs.shape), self._axes_of_inputs()
        batch, parts = len(shape) - 1, self._count()
        # Unknown sizes are checked when the graph runs.
        inputs = tf.ensure_shape(inputs, [*[None] * batch, *sizes])
        # The numbers of a part that belong to one coordinate become the last axis.
        coordinates = self.event_shape[axis]
        sizes[axis : axis + 1 or None] = [
            coordinates,
            sizes[axis] // (parts * coordinates),
        ]
        own = batch + len(self.event_shape) + axis + 1
        order = [i for i in range(batch + len(sizes)) if i != own]
        first = batch_axes(inputs, len(self.event_shape))
        vectors = [
            tf.reshape(
                tf.transpose(tf.reshape(part, [*first, *sizes]), [*order, own]),
                [*first, shape[-1] // parts],
            )
            for part in tf.split(inputs, parts, axis=axis)
        ]
        return tf.concat(vectors, axis=-1)
