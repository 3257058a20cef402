"""The base class of all layers that output a distribution."""

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import (
    boolean,
    canonical_event_shape,
    check_floating,
    check_width,
    checked_config,
    optional_seed,
)
from tfp_vae.closures import variables_read
from tfp_vae.constraints import float_policy
from tfp_vae.distribution_tensor import DistributionTensor, TensorConversion
from tfp_vae.draws import seed_for_tfp
from tfp_vae.environment import refuse_keras_2
from tfp_vae.keras_internals import in_predict, nested_layers, set_mask
from tfp_vae.kl.layer import KLDivergenceRegularizer, track_kl
from tfp_vae.seeds import Seeds
from tfp_vae.serialization import revive_arguments

tfd = tfp.distributions

NO_EVENT_SHAPE: Any = object()


class DistributionLayer(keras.layers.Layer):
    """A Keras layer whose output is a `tfp.distributions` distribution.

    To add a family, define `params_size`, the width of the previous layer, and
    `make_distribution`, from parameters to distribution, in a subclass. This class
    returns a `DistributionTensor`, takes reproducible seeds for draws from a generator
    that is saved with the model, checks the width, and computes in float32 under every
    dtype policy except float64.

    Args:
        event_shape: Shape of one draw, or an integer for a vector; omitted by families
            with another argument for it.
        convert_to_tensor_fn: How the distribution becomes a tensor where one is
            needed: a name such as `"sample"` or `"mean"`, a method of
            `tfd.Distribution`, or a callable.
        validate_args: Whether TFP checks parameters and values at run time.
        seed: Integer seed of the draws; by default it follows
            `keras.utils.set_random_seed`.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        inputs: Tensor of shape `(..., params_size)`.

    Returns:
        A `DistributionTensor` with `batch_shape == inputs.shape[:-1]`.

    Raises:
        ValueError: If an argument is invalid, or the inputs have a last axis of the
            wrong width or a dtype that is not floating-point.

    Example:
        >>> from tfp_vae.layers.events import event_size
        >>> class Directions(DistributionLayer):
        ...     @staticmethod
        ...     def params_size(event_shape):
        ...         return event_size(event_shape, "Directions")
        ...     def make_distribution(self, parameters):
        ...         return tfd.PowerSpherical(tf.math.l2_normalize(parameters, -1), 2.0)
        >>> Directions(3, "mean")(tf.ones([5, 3])).event_shape
        TensorShape([3])
    """

    # Its arguments differ between families, as in `tfp.layers`.
    params_size: ClassVar[Callable[..., int]]

    def __init__(
        self,
        event_shape: Any = NO_EVENT_SHAPE,
        convert_to_tensor_fn: Any = "sample",
        validate_args: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": float_policy(kwargs.get("dtype"))})
        caller = type(self).__name__
        self.event_shape: Any = None
        if event_shape is not NO_EVENT_SHAPE:
            self.event_shape = canonical_event_shape(event_shape, caller)
        self.validate_args = boolean(validate_args, "validate_args", caller)
        self.seed = optional_seed(seed, caller)
        self.supports_masking = True
        self._conversion = TensorConversion(convert_to_tensor_fn, caller)
        self._seeds = Seeds(self.seed)
        self._first_inputs: Callable[[], Any] | None = None
        if isinstance(self.activity_regularizer, KLDivergenceRegularizer):
            track_kl(self, self.activity_regularizer)

    @property
    def convert_to_tensor_fn(self) -> Any:
        """The name of the conversion, if it has one, or the given callable."""
        return self._conversion.fn

    @property
    def parameters_width(self) -> int | None:
        """The required width of the last axis of the inputs; `None` if any is allowed.

        It calls `params_size` with the attributes that have its arguments' names.
        """
        size = getattr(self, "params_size", None)
        if size is None:
            return None
        found = self._attributes_named_in(size)
        absent = [
            name
            for name, argument in inspect.signature(size).parameters.items()
            if argument.default is argument.empty and name not in found
        ]
        if absent:
            raise ValueError(
                f"`{type(self).__name__}.params_size` expects arguments that are "
                f"attributes of the layer, such as `event_shape`. Received: {absent}. "
                "Rename them, or set attributes of these names in `__init__`."
            )
        return size(**found)

    @property
    def description(self) -> str:
        """The layer as error messages show it, with what decides its width."""
        size: Any = getattr(self, "params_size", None)
        named = {} if size is None else self._attributes_named_in(size)
        first = named.pop("event_size", None)
        if first is None:
            named.pop("event_shape", None)
            first = f"event_shape={self.event_shape}"
        defaults = inspect.signature(size).parameters if named else {}
        rest = [
            f", {name}={value!r}"
            for name, value in named.items()
            if value != defaults[name].default
        ]
        return f"{type(self).__name__}({first}{''.join(rest)})"

    def make_distribution(self, parameters: tf.Tensor) -> Any:
        """Makes a `tfd.Distribution` from the output of the previous layer.

        Args:
            parameters: Tensor of shape `(..., params_size)`.

        Returns:
            A distribution with batch shape `parameters.shape[:-1]`.
        """
        raise NotImplementedError

    def distribution_for(self, values: tf.Tensor) -> Any:
        """A distribution of the family whose support contains the values, if any does.

        Args:
            values: Tensor of shape `(n, *event_shape)`.

        Returns:
            A distribution; here that of parameters 0, with batch shape `(1,)`.
        """
        zeros = tf.zeros([1, self.parameters_width], self.compute_dtype)
        return self.make_distribution(zeros)

    def build(self, input_shape: Any) -> None:
        """Checks the width, and finds the variables that the functions read.

        A subclass calls it after making its own variables.
        """
        width = self.parameters_width
        if (
            width is not None
            and input_shape
            and not isinstance(input_shape[0], Sequence)
        ):
            check_width(input_shape, width, self.description)
        regularizer = self.activity_regularizer
        if isinstance(regularizer, KLDivergenceRegularizer):
            regularizer.build()
        first, self._first_inputs = self._first_inputs, None
        if first is not None:
            read = variables_read(
                self._with_value,
                first(),
                [*self._functions(), self],
                type(self).__name__,
                self.compute_dtype,
            )
            own = {id(variable) for variable in self.variables}
            # Keras tracks the variables in attributes of a layer that is not built.
            self._variables_read = [v for v in read if id(v) not in own]
        self.built = True

    def __call__(self, inputs: Any, *others: Any, **kwargs: Any) -> Any:
        """Calls the layer; the first call finds what its functions read."""
        if others:
            raise ValueError(
                f"`{self.description}` expects its inputs in one list or dictionary. "
                f"Received: {1 + len(others)} arguments. Call it with `[a, b]`."
            )
        if not self.built and self._functions():
            # A function, since Keras would track a list or a dictionary.
            self._first_inputs = lambda: inputs
        return super().__call__(inputs, **kwargs)

    def get_build_config(self) -> dict[str, Any] | None:
        """How a loaded layer is built; one with functions waits for its first call."""
        return None if self._functions() else super().get_build_config()

    def _functions(self) -> list[Any]:
        """The user's functions that the layer, or one inside it, calls."""
        own = [] if self._conversion.name else [self._conversion.fn]
        inner = nested_layers(self)[1:]
        layers = [layer for layer in inner if isinstance(layer, DistributionLayer)]
        return [*own, *itertools.chain(*(layer._functions() for layer in layers))]

    def _with_value(self, inputs: Any) -> Any:
        """The distribution, after its value was made."""
        distribution = self.make_distribution(self._parameters(inputs))
        with contextlib.suppress(Exception):
            self._conversion(distribution, tf.zeros([2], tf.int32))
        return distribution

    def _parameters(self, inputs: Any) -> Any:
        """The inputs as `make_distribution` takes them."""
        return inputs

    def call(self, inputs: Any, mask: Any = None) -> DistributionTensor:
        """Makes the distribution; its value is drawn when something first uses it."""
        for part in keras.tree.flatten(inputs):
            refuse_keras_2(part, f"`{type(self).__name__}`")
        inputs = self._parameters(inputs)
        width = self.parameters_width
        if width is not None:
            check_width(inputs.shape, width, self.description)
            check_floating(inputs.dtype, self.description)
            # A width that is still unknown is checked when the graph runs.
            unknown = [None] * (inputs.shape.rank - 1)
            inputs = tf.ensure_shape(inputs, [*unknown, width])
        distribution = self.make_distribution(inputs)
        if not isinstance(distribution, tfd.Distribution):
            raise ValueError(
                f"`{self.description}` expects its function to return a "
                f"`tfd.Distribution`. Received: {distribution!r}. Return an instance "
                "of a class of `tfp.distributions`."
            )
        # No seed without draws: an exported model would hold the generator's state.
        seed = self._seeds.next() if self._conversion.draws else None
        if seed is not None and self._conversion.name is None:
            seed = seed_for_tfp(seed)  # The user's function gives it to TFP.
        output = DistributionTensor(distribution, self._conversion, seed)
        self._refuse_unknown_rank(distribution)
        self._refuse_draw_axes_in_predict(output)
        return set_mask(output, self._one_mask(mask))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Shape of the distribution as a tensor."""
        inputs = _map_shapes(
            lambda shape: keras.KerasTensor(shape, dtype=self.compute_dtype),
            input_shape,
        )
        return tuple(self.compute_output_spec(inputs).shape)

    def compute_output_spec(self, inputs: Any, mask: Any = None) -> keras.KerasTensor:
        """Shape and dtype of the distribution as a tensor."""
        # `Layer.compute_output_spec` would call `compute_output_shape` and guess the
        # dtype. That of `Operation` traces `call`, and so gets the right dtype.
        return keras.Operation.compute_output_spec(self, inputs)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, from the attributes of the same names.

        A subclass adds arguments that are not attributes or that Keras must serialize.
        """
        classes = [c for c in type(self).__mro__ if issubclass(c, DistributionLayer)]
        inits = [c.__init__ for c in classes]
        fn = self.convert_to_tensor_fn
        return {
            **self._attributes_named_in(*inits),
            **super().get_config(),
            "convert_to_tensor_fn": keras.saving.serialize_keras_object(fn),
            "validate_args": self.validate_args,
            "seed": self.seed,
        }

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "DistributionLayer":
        """Restores functions and nested layers before calling `__init__`."""
        return cls(**revive_arguments(config))

    def _attributes_named_in(self, *functions: Any) -> dict[str, Any]:
        """The layer's own attributes with the names of the functions' arguments."""
        signatures = [inspect.signature(f).parameters.values() for f in functions]
        several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        names = dict.fromkeys(
            argument.name
            for argument in itertools.chain(*signatures)
            if argument.kind not in several
            and not hasattr(keras.layers.Layer, argument.name)
        )
        names.pop("name", None)
        if self.event_shape is None:
            names.pop("event_shape", None)
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def _one_mask(self, masks: Any) -> Any:
        """The mask of the output: the logical and of the masks of all inputs."""
        masks = [mask for mask in keras.tree.flatten(masks) if mask is not None]
        if not all(mask.shape.is_compatible_with(masks[0].shape) for mask in masks):
            raise ValueError(
                f"`{self.description}` expects inputs with masks of one shape. "
                f"Received: masks of shapes {[tuple(mask.shape) for mask in masks]}. "
                "Mask one of the inputs, or concatenate them before."
            )
        return functools.reduce(tf.logical_and, masks) if masks else None

    def _refuse_unknown_rank(self, distribution: Any) -> None:
        shapes = tf.nest.flatten([distribution.batch_shape, distribution.event_shape])
        if any(shape.rank is None for shape in shapes):
            raise ValueError(
                f"`{self.description}` expects a distribution with a known number of "
                f"axes. Received: batch shape {distribution.batch_shape}, event shape "
                f"{distribution.event_shape}, while the size of the batch is unknown. "
                "Say which axis to drop, `tf.squeeze(x, axis=-1)`, and reshape to a "
                "list of sizes."
            )

    def _refuse_draw_axes_in_predict(self, output: DistributionTensor) -> None:
        """Rejects draws on axis 0, along which `predict` concatenates the batches."""
        if self._conversion.name is not None or not in_predict():
            return
        batch, rank = output.batch_shape, output.batch_shape.rank
        more = rank and output.shape.rank > rank + output.event_shape.rank
        if more and output.shape[0] != batch[0]:
            raise ValueError(
                f"`predict` expects outputs with the batch as first axis. Received: "
                f"{self.description} as a tensor of shape {tuple(output.shape)}, with "
                "draws in front of the batch. Convert with 'mean' or 'sample' and draw "
                "from the distribution, `model(x).sample(5)`, or average the draws in "
                "the conversion."
            )


def _map_shapes(fn: Any, shapes: Any) -> Any:
    """Applies `fn` to each shape of a possibly nested structure of shapes."""
    if isinstance(shapes, dict):
        return {key: _map_shapes(fn, shape) for key, shape in shapes.items()}
    if isinstance(shapes, Sequence) and shapes and isinstance(shapes[0], Sequence):
        return [_map_shapes(fn, shape) for shape in shapes]
    return fn(shapes)


def check_inner_layer(layer: DistributionLayer, outer: DistributionLayer) -> None:
    """Checks that a layer inside another has no argument that the outer one ignores.

    The outer layer calls only `make_distribution` of the inner one, on a vector.

    Args:
        layer: The inner layer.
        outer: The outer layer.

    Raises:
        ValueError: If the inner layer has a `parameters_axis`, a regularizer, a seed, a
            conversion other than `"sample"`, or a dtype wider than that of the outer.

    Example:
        >>> inner = tv.IndependentNormal(3)
        >>> check_inner_layer(inner, tv.MixtureSameFamily(2, inner))
    """
    caller = type(outer).__name__
    axis = getattr(layer, "parameters_axis", None)
    if axis is not None:
        raise ValueError(
            f"`{caller}` expects layers whose parameters are one vector. Received: "
            f"{layer.description} with parameters_axis={axis}. Make it without "
            "`parameters_axis`."
        )
    own, of_outer = tf.as_dtype(layer.compute_dtype), tf.as_dtype(outer.compute_dtype)
    ignored = {
        "activity_regularizer": layer.activity_regularizer,
        "seed": layer.seed,
        "convert_to_tensor_fn": (
            None if layer._conversion.name == "sample" else layer.convert_to_tensor_fn
        ),
        "dtype": own.name if own.size > of_outer.size else None,
    }
    for name, value in ignored.items():
        if value is not None:
            raise ValueError(
                f"`{caller}` expects layers that leave `{name}` to it. Received: "
                f"{layer.description} with {name}={value!r}. Give `{name}` to "
                f"`{caller}`."
            )
