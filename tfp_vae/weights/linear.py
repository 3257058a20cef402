"""What dense and convolution layers with random weights have in common."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import keras_object
from tfp_vae.distribution_tensor import DistributionTensor, TensorConversion, unwrap
from tfp_vae.weights.forward_pass import once, weights_are_fixed
from tfp_vae.weights.functions import checked_callable, serialized, weights_kl
from tfp_vae.weights.parameters import (
    default_mean_field_normal_fn,
    default_multivariate_normal_fn,
)
from tfp_vae.weights.random_weights import RandomWeights, check_pair

tfd = tfp.distributions

_PARTS = ("kernel", "bias")
MEAN_FIELD = default_mean_field_normal_fn()
POINT = default_mean_field_normal_fn(is_singular=True)


class LinearWithRandomWeights(RandomWeights):
    r"""A layer y = activation(K x + b) with random K and b.

    .. math::

        K &\sim q(K), \quad b \sim q(b) \\
        \mathrm{KL} &= \mathrm{KL}(q(K) \,\|\, p(K)) + \mathrm{KL}(q(b) \,\|\, p(b))

    A subclass defines how a kernel is applied, and its shape.

    Args:
        activation: Function of the outputs, or its Keras name.
        kernel_posterior_fn: Makes q(K): a function of
            `(dtype, shape, name, trainable, add_variable_fn)`.
        kernel_posterior_tensor_fn: The value of K: `"sample"`, or a function of q(K),
            which gets the layer's seed if it has a parameter `seed`.
        kernel_prior_fn: Makes p(K), like `kernel_posterior_fn`; `None` for no KL.
        kernel_divergence_fn: Function of q(K), p(K) and the value of K; `None` for no
            KL. By default the KL divided by the number of training examples, see
            `RandomWeights`; another function is added as it is.
        bias_posterior_fn: Makes q(b), by default a point; `None` for no bias.
        bias_posterior_tensor_fn: As for the kernel.
        bias_prior_fn: Makes p(b); by default `None`, for no KL.
        bias_divergence_fn: As for the kernel.
        seed: Integer seed of the draws.
        **kwargs: Passed to `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is invalid, q and p have different shapes, or q(K) or
            q(b) has no variables.

    Example:
        >>> layer = tv.DenseFlipout(2)
        >>> layer(tf.ones([5, 3])).shape, len(layer.trainable_weights)
        (TensorShape([5, 2]), 3)
    """

    def __init__(
        self,
        activation: Any = None,
        kernel_posterior_fn: Any = MEAN_FIELD,
        kernel_posterior_tensor_fn: Any = "sample",
        kernel_prior_fn: Any = default_multivariate_normal_fn,
        kernel_divergence_fn: Any = weights_kl,
        bias_posterior_fn: Any = POINT,
        bias_posterior_tensor_fn: Any = "sample",
        bias_prior_fn: Any = None,
        bias_divergence_fn: Any = weights_kl,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, **kwargs)
        caller = type(self).__name__
        self.activation = keras_object(
            keras.activations.get, activation, "activation", caller
        )
        given = {
            "kernel_posterior_fn": kernel_posterior_fn,
            "kernel_prior_fn": kernel_prior_fn,
            "kernel_divergence_fn": kernel_divergence_fn,
            "bias_posterior_fn": bias_posterior_fn,
            "bias_prior_fn": bias_prior_fn,
            "bias_divergence_fn": bias_divergence_fn,
        }
        for name, fn in given.items():
            optional = name != "kernel_posterior_fn"
            setattr(self, name, checked_callable(fn, name, caller, optional))
        self._conversions = {
            "kernel": TensorConversion(kernel_posterior_tensor_fn, caller),
            "bias": TensorConversion(bias_posterior_tensor_fn, caller),
        }
        parts = [
            given[f"{part}_divergence_fn"]
            for part in _PARTS
            if None not in (given[f"{part}_posterior_fn"], given[f"{part}_prior_fn"])
        ]
        used = [fn for fn in parts if fn is not None]
        self.divides_by_examples = weights_kl in used if used else None
        self._shapes: dict[str, Any] = {}
        self._variables_of: dict[Any, list[Any]] = {}

    @property
    def kernel_posterior_tensor_fn(self) -> Any:
        """How q(K) becomes a tensor."""
        return self._conversions["kernel"].fn

    @property
    def bias_posterior_tensor_fn(self) -> Any:
        """How q(b) becomes a tensor."""
        return self._conversions["bias"].fn

    def kernel_shape(self, input_shape: Any) -> tuple[int, ...]:
        """Shape of the kernel for inputs of a shape.

        Args:
            input_shape: Shape of the inputs.

        Returns:
            A tuple of integers, the last the number of outputs.
        """
        raise NotImplementedError

    def apply_kernel(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        """The linear map.

        Args:
            inputs: The layer's inputs.
            kernel: A kernel of shape `kernel_shape`.

        Returns:
            The outputs without bias and activation.
        """
        raise NotImplementedError

    def channel_axis(self, inputs: tf.Tensor) -> int:
        """The axis of the features or channels, in inputs and outputs alike.

        Args:
            inputs: Inputs or outputs.

        Returns:
            The number of an axis.
        """
        raise NotImplementedError

    def add_bias(self, outputs: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
        """The outputs with the bias.

        Args:
            outputs: What `apply_kernel` returned.
            bias: A vector.

        Returns:
            A tensor of the same shape.
        """
        return outputs + bias

    def build(self, input_shape: Any) -> None:
        """Makes the variables of posteriors and priors, and checks the shapes."""
        kernel_shape = self.kernel_shape(input_shape)
        self._shapes = {"kernel": kernel_shape, "bias": kernel_shape[-1:]}
        self._variables_of = {
            (part, role): [] for part in _PARTS for role in ("posterior", "prior")
        }
        with tf.init_scope():  # A model may be built while its step is traced.
            for part in _PARTS:
                q = self._made(part, "posterior", self.add_weight)
                p = self._made(part, "prior", self.add_weight)
                if q is not None and not self._variables_of[part, "posterior"]:
                    raise ValueError(
                        f"`{type(self).__name__}` expects a posterior with variables "
                        f"that can be trained. Received: {q} from "
                        f"`{part}_posterior_fn`, which made no variables. Make them "
                        "with its last argument, `add_variable_fn`."
                    )
                if q is not None and p is not None:
                    check_pair(q, p, type(self).__name__)
        self.built = True

    @property
    def kernel_posterior(self) -> Any:
        """q(K), once the layer is built."""
        return self._made("kernel", "posterior")

    @property
    def kernel_prior(self) -> Any:
        """p(K), or `None`."""
        return self._made("kernel", "prior")

    @property
    def bias_posterior(self) -> Any:
        """q(b), or `None` without a bias."""
        return self._made("bias", "posterior")

    @property
    def bias_prior(self) -> Any:
        """p(b), or `None`."""
        return self._made("bias", "prior")

    def _made(self, part: str, role: str, add_weight: Any = None) -> Any:
        """A posterior or prior of the present values of its variables.

        The user's function is called anew each time: a distribution that was made while
        Keras builds a model would keep the values that the variables had then.
        """
        fn = getattr(self, f"{part}_{role}_fn")
        if fn is None:
            return None
        variables = self._variables_of[part, role]
        known = iter(variables)

        def add_variable(*args: Any, **kwargs: Any) -> Any:
            if add_weight is None:
                return next(known).value
            if args and isinstance(args[0], str):  # Keras 2 took the name first.
                named = zip(("name", "shape", "dtype"), args, strict=False)
                args, kwargs = (), {**dict(named), **kwargs}
            dtype = kwargs.get("dtype")
            kwargs["dtype"] = None if dtype is None else tf.as_dtype(dtype).name
            variables.append(add_weight(*args, **kwargs))
            return variables[-1].value

        dtype, shape = tf.as_dtype(self.compute_dtype), list(self._shapes[part])
        made = fn(dtype, shape, f"{part}_{role}", True, add_variable)
        caller = type(self).__name__
        if not isinstance(made, tfd.Distribution):
            raise ValueError(
                f"`{caller}` expects `{part}_{role}_fn` to return a "
                f"`tfd.Distribution`. Received: {made!r}. Return an instance of a "
                "class of `tfp.distributions`."
            )
        one = made.batch_shape.concatenate(made.event_shape)
        if not one.is_compatible_with(shape):
            raise ValueError(
                f"`{caller}` expects the {role} of the {part} to have the shape "
                f"{tuple(shape)}. Received: {made}. `{part}_{role}_fn` receives the "
                "shape as its second argument."
            )
        return unwrap(made)

    def _value(self, part: str) -> DistributionTensor:
        """The posterior of a part, with its draw in this forward pass."""
        return once(
            self,
            part,
            lambda: DistributionTensor(
                self._made(part, "posterior"),
                self._conversions[part],
                self.next_seed(part),
            ),
        )

    def _divergence(self) -> list[tuple[Any, Any]]:
        """The divergences of kernel and bias, and their factors in the loss."""
        terms: list[tuple[Any, Any]] = []
        for part in _PARTS:
            fn, p = getattr(self, f"{part}_divergence_fn"), self._made(part, "prior")
            has_posterior = getattr(self, f"{part}_posterior_fn") is not None
            if not has_posterior or p is None or fn is None:
                continue
            value = self._value(part)
            if fn is weights_kl:  # which draws only if it must
                terms.append((tf.reduce_sum(fn(value, p, None)), None))
            else:
                kl = fn(unwrap(value), p, tf.convert_to_tensor(value))
                terms.append((tf.reduce_sum(kl), 1.0))
        return terms

    def outputs_of_kernel(self, inputs: tf.Tensor) -> tf.Tensor:
        """The outputs without bias and activation, of one draw of the kernel.

        Args:
            inputs: The layer's inputs.

        Returns:
            A tensor.
        """
        return self.apply_kernel(inputs, tf.convert_to_tensor(self._value("kernel")))

    def call(self, inputs: Any) -> tf.Tensor:
        """The outputs for a draw of the weights."""
        inputs = tf.convert_to_tensor(inputs)
        if not inputs.dtype.is_floating:  # Unsigned integers have no sign to change.
            inputs = tf.cast(inputs, self.compute_dtype)
        if weights_are_fixed():
            kernel = tf.convert_to_tensor(self._value("kernel"))
            outputs = self.apply_kernel(inputs, kernel)
        else:
            outputs = self.outputs_of_kernel(inputs)
        if self.bias_posterior_fn is not None:
            outputs = self.add_bias(outputs, tf.convert_to_tensor(self._value("bias")))
        self.add_divergence(self._divergence)
        return outputs if self.activation is None else self.activation(outputs)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, functions as Keras serializes them."""
        names = [
            f"{part}_{name}_fn"
            for part in _PARTS
            for name in ("posterior", "posterior_tensor", "prior", "divergence")
        ]
        caller = type(self).__name__
        functions = {
            name: serialized(getattr(self, name), name, caller) for name in names
        }
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "activation": activation, **functions}
