"""Mixtures of one family, with weights and components from one tensor."""

from collections.abc import Callable
from typing import Any, ClassVar

import keras
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae.meta_distributions as meta
from tfp_vae.checks import (
    Shape,
    boolean,
    check_width,
    integer,
    positive_number,
)
from tfp_vae.constraints import SCALE_FLOOR
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.layers.distribution_layer import (
    DistributionLayer,
    check_inner_layer,
)
from tfp_vae.layers.events import batch_axes
from tfp_vae.layers.location_scale import (
    IndependentLogistic,
    IndependentNormal,
    LocationScaleLayer,
)

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class MixtureSameFamily(DistributionLayer):
    r"""A mixture of K distributions that another layer describes.

    .. math::

        p(x) = \sum_k \mathrm{softmax}(\mathrm{weights})_k \,
        p(x; \mathrm{parameters}_k)

    The inputs are the K weights as logits, then the parameters of each component.

    Reference:
        `tfp.layers.MixtureSameFamily`.

    Args:
        num_components: The number of components K.
        component_layer: A distribution layer such as `IndependentNormal(3)`. The
            conversion, seed, dtype and regularizer are arguments of the mixture.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        reparameterize: Whether draws have gradients, as a posterior needs. They are the
            exact implicit gradients of TFP, for components of independent coordinates
            with a known distribution function.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        A `tfd.MixtureSameFamily` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If `component_layer` is not a distribution layer or has an argument
            that belongs to the mixture, or the last axis of the inputs is not
            `params_size`.

    Example:
        >>> layer = MixtureSameFamily(5, IndependentNormal(3))
        >>> units = MixtureSameFamily.params_size(5, IndependentNormal.params_size(3))
        >>> layer(tf.zeros([2, units])).event_shape
        TensorShape([3])
    """

    def __init__(
        self,
        num_components: int,
        component_layer: DistributionLayer,
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        reparameterize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            convert_to_tensor_fn=convert_to_tensor_fn,
            validate_args=validate_args,
            **kwargs,
        )
        caller = type(self).__name__
        self.reparameterize = boolean(reparameterize, "reparameterize", caller)
        self.num_components = integer(num_components, "num_components", caller)
        if not isinstance(component_layer, DistributionLayer):
            raise ValueError(
                f"`{caller}` expects `component_layer` to be a distribution layer. "
                f"Received: component_layer={component_layer!r}. Give an instance such "
                "as `IndependentNormal(3)`."
            )
        check_inner_layer(component_layer, self)
        self.component_layer = component_layer

    @staticmethod
    def params_size(
        num_components: int, component_params_size: int, name: str | None = None
    ) -> int:
        """One weight and `component_params_size` parameters for each component."""
        caller = name or "params_size"
        count = integer(num_components, "num_components", caller)
        if isinstance(component_params_size, DistributionLayer):
            layer: DistributionLayer = component_params_size
            raise ValueError(
                f"`{caller}` expects `component_params_size` to be a number of "
                f"parameters. Received: a layer, {layer.description}. Give its number, "
                f"`layer.parameters_width`, which is {layer.parameters_width}."
            )
        width = integer(component_params_size, "component_params_size", caller)
        return count * (1 + width)

    @property
    def parameters_width(self) -> int | None:
        """`params_size` of this layer."""
        width = self.component_layer.parameters_width
        return width and self.params_size(self.num_components, width)

    @property
    def description(self) -> str:
        """The layer as error messages show it."""
        component = self.component_layer.description
        return f"MixtureSameFamily({self.num_components}, {component})"

    @staticmethod
    def new(
        params: Any,
        num_components: int,
        component_layer: Callable[[tf.Tensor], Any],
        validate_args: bool = False,
        name: str | None = None,
        family: Any = tfd.MixtureSameFamily,
        reparameterize: bool = False,
    ) -> Any:
        """Makes the distribution from a tensor of parameters."""
        with tf.name_scope(name or "MixtureSameFamily"):
            params = tf.convert_to_tensor(params)
            rest = params[..., num_components:]
            width = -1 if rest.shape[-1] is None else rest.shape[-1] // num_components
            components = unwrap(
                component_layer(
                    tf.reshape(rest, [*batch_axes(params), num_components, width])
                )
            )
            if reparameterize:
                _check_coordinates(components)
            return family(
                tfd.Categorical(logits=params[..., :num_components]),
                components,
                reparameterize=reparameterize,
                validate_args=validate_args,
            )

    def build(self, input_shape: Any) -> None:
        """Builds the component layer."""
        if not self.component_layer.built:
            width = self.component_layer.parameters_width
            self.component_layer.build((*input_shape[:-1], width))
        super().build(input_shape)

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        return self.new(
            parameters,
            self.num_components,
            self.component_layer.make_distribution,
            self.validate_args,
            reparameterize=self.reparameterize,
        )

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, the component layer serialized."""
        layer = keras.saving.serialize_keras_object(self.component_layer)
        return {**super().get_config(), "component_layer": layer}


def _check_coordinates(components: Any) -> None:
    """Fails early: TFP fails at the first draw, and asks for univariate components."""
    inner = components
    while isinstance(inner, meta.Independent):
        inner = inner.distribution
    if inner.event_shape.rank != 0:
        raise ValueError(
            "`MixtureSameFamily` with reparameterize=True expects components of "
            f"independent coordinates. Received: {components}. Use an "
            "`Independent...` layer for the components."
        )


class MixtureOfLocationScale(DistributionLayer):
    r"""A mixture of K location-scale families over independent coordinates.

    .. math::

        p(x) = \sum_k \mathrm{softmax}(\mathrm{weights})_k
        \prod_i p(x_i; \mathrm{loc}_{k,i}, \mathrm{scale}_{k,i})

    A subclass sets `component`, a `LocationScaleLayer`.

    Args:
        num_components: The number of components K.
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        scale_floor: Smallest scale.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        A `tfd.MixtureSameFamily` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> MixtureNormal.params_size(num_components=5, event_shape=3)
        35
    """

    component: ClassVar[type[LocationScaleLayer]]

    def __init__(
        self,
        num_components: int,
        event_shape: Shape = (),
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        scale_floor: float = SCALE_FLOOR,
        **kwargs: Any,
    ) -> None:
        super().__init__(event_shape, convert_to_tensor_fn, validate_args, **kwargs)
        caller = type(self).__name__
        self.num_components = integer(num_components, "num_components", caller)
        self.scale_floor = positive_number(scale_floor, "scale_floor", caller)

    @staticmethod
    def params_size(
        num_components: int, event_shape: Shape = (), name: str | None = None
    ) -> int:
        """One weight, and a `loc` and raw scale per coordinate, for each component."""
        return MixtureSameFamily.params_size(
            num_components, LocationScaleLayer.params_size(event_shape, name), name
        )

    @classmethod
    def new(
        cls,
        params: Any,
        num_components: int,
        event_shape: Shape = (),
        validate_args: bool = False,
        name: str | None = None,
        scale_floor: float = SCALE_FLOOR,
    ) -> Any:
        """Makes the distribution from a tensor of parameters."""
        params = tf.convert_to_tensor(params)
        width = cls.params_size(num_components, event_shape)
        check_width(params.shape, width, f"{cls.__name__}({num_components}, ...)")
        return MixtureSameFamily.new(
            params,
            num_components,
            lambda rest: cls.component.new(
                rest, event_shape, validate_args, name, scale_floor
            ),
            validate_args,
            name or cls.__name__,
        )

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes the distribution from the inputs."""
        return self.new(
            parameters,
            self.num_components,
            self.event_shape,
            self.validate_args,
            scale_floor=self.scale_floor,
        )


@keras.saving.register_keras_serializable("tfp_vae")
class MixtureNormal(MixtureOfLocationScale):
    r"""A mixture of K independent normals.

    .. math::

        p(x) = \sum_k \mathrm{softmax}(\mathrm{weights})_k
        \prod_i \mathcal N(x_i; \mathrm{loc}_{k,i}, \mathrm{scale}_{k,i})

    Reference:
        `tfp.layers.MixtureNormal`.

    Args:
        num_components: The number of components K.
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        scale_floor: Smallest scale.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`: K weights as
            logits, then all `loc` and all raw scales of each component.

    Returns:
        A `tfd.MixtureSameFamily` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> p = MixtureNormal(5, event_shape=3)(tf.zeros([2, 35]))
        >>> p.event_shape, p.log_prob(tf.zeros([2, 3])).shape
        (TensorShape([3]), TensorShape([2]))
    """

    component = IndependentNormal


@keras.saving.register_keras_serializable("tfp_vae")
class MixtureLogistic(MixtureOfLocationScale):
    r"""A mixture of K independent logistics.

    .. math::

        p(x) = \sum_k \mathrm{softmax}(\mathrm{weights})_k
        \prod_i \mathrm{Logistic}(x_i; \mathrm{loc}_{k,i}, \mathrm{scale}_{k,i})

    Reference:
        `tfp.layers.MixtureLogistic`.

    Args:
        num_components: The number of components K.
        event_shape: Shape of one draw, or an integer for a vector.
        convert_to_tensor_fn: See `DistributionLayer`.
        validate_args: Whether TFP checks parameters and values at run time.
        scale_floor: Smallest scale.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`: K weights as
            logits, then all `loc` and all raw scales of each component.

    Returns:
        A `tfd.MixtureSameFamily` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If the last axis of the inputs is not `params_size`.

    Example:
        >>> MixtureLogistic(5, event_shape=3)(tf.zeros([2, 35])).batch_shape
        TensorShape([2])
    """

    component = IndependentLogistic
