"""A sparse variational Gaussian process as a layer output."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import integer, keras_object, positive_number
from tfp_vae.closures import variables_read
from tfp_vae.constraints import SCALE_FLOOR, bounded, positive
from tfp_vae.environment import refuse_keras_2
from tfp_vae.layers.distribution_layer import DistributionLayer

tfd = tfp.distributions
psd_kernels = tfp.math.psd_kernels

_NOISE = keras.initializers.Constant(-10.0)


class ProcessOutputs(tfp.distributions.Distribution):
    """The joint distribution of a variational Gaussian process's outputs at n inputs.

    Its event shape is (n, outputs), so that `log_prob` is one number for all inputs
    together.

    Args:
        process: `tfd.VariationalGaussianProcess` of batch shape `(outputs,)`.
        prior: The prior of the inducing values, of batch shape `(outputs,)`.
        noise: Variance of the observations, a scalar tensor, or `None`.
        name: Name of the distribution.

    Example:
        >>> kernel = tfp.math.psd_kernels.MaternThreeHalves()
        >>> p = VariationalGaussianProcess.new(
        ...     tf.zeros([5, 1]), kernel_provider=type("K", (), {"kernel": kernel}),
        ...     event_shape=[2], inducing_index_points=tf.zeros([2, 1, 1]),
        ...     mean_fn=None, variational_inducing_observations_loc=tf.zeros([2, 1]),
        ...     variational_inducing_observations_scale=tf.ones([2, 1, 1]),
        ...     observation_noise_variance=0.1)
        >>> p.batch_shape, p.event_shape
        (TensorShape([]), TensorShape([5, 2]))
    """

    def __init__(
        self,
        process: Any,
        prior: Any,
        noise: Any = None,
        name: str = "VariationalGaussianProcess",
    ) -> None:
        parameters = dict(locals())
        super().__init__(
            dtype=process.dtype,
            reparameterization_type=tfd.FULLY_REPARAMETERIZED,
            validate_args=process.validate_args,
            allow_nan_stats=True,
            parameters=parameters,
            name=name,
        )
        self._process, self._prior, self._noise = process, prior, noise

    @property
    def gaussian_process(self) -> Any:
        """The `tfd.VariationalGaussianProcess`, of batch shape `(outputs,)`."""
        return self._process

    def variational_loss(self, observations: Any, kl_weight: Any = 1.0) -> tf.Tensor:
        r"""The negative evidence lower bound of each output, in nats.

        .. math::

            \mathrm{loss} = -\sum_i E_q[\log \mathcal N(y_i; f(x_i), \mathrm{noise})]
            + \mathrm{kl\_weight} \, \mathrm{KL}(q(u) \,\|\, p(u))

        Args:
            observations: y, of shape `(n, outputs)`.
            kl_weight: Rows in a batch / rows in the data, for an unbiased gradient.

        Returns:
            A tensor of shape `(outputs,)`.

        Raises:
            ValueError: If y has another shape, or there is no noise.
        """
        y = tf.cast(tf.convert_to_tensor(observations), self.dtype)
        if not self.event_shape.is_compatible_with(y.shape):
            raise ValueError(
                "`variational_loss` expects observations of shape (rows, outputs), "
                f"here {tuple(self.event_shape)}. Received: observations of shape "
                f"{tuple(y.shape) if y.shape.rank is not None else None}. Reshape them "
                "to one row for each row of the inputs."
            )
        if self._noise is None:
            raise ValueError(
                "`variational_loss` expects observations with noise. Received: "
                "unconstrained_observation_noise_variance_initializer=None. Give the "
                "layer an initializer, such as `keras.initializers.Constant(-10.0)`."
            )
        y = tf.linalg.matrix_transpose(tf.ensure_shape(y, self.event_shape))
        # TFP's loss counts the noise twice: it is n / 2 larger for each output.
        x, noise = self._process.index_points, tf.convert_to_tensor(self._noise)
        mean, variance = self._process.mean(), self._process.kernel.apply(x, x, 1)
        # Rounding may make a variance negative.
        variance = bounded(variance, 0.0, variance.dtype.max)
        squares = (tf.square(y - mean) + variance) / noise
        nll = (squares + tf.math.log(2 * math.pi * noise)) / 2
        kl = self.surrogate_posterior_kl_divergence_prior()
        weight = tf.convert_to_tensor(kl_weight)
        return tf.reduce_sum(nll, axis=-1) + tf.cast(weight, self.dtype) * kl

    def surrogate_posterior_kl_divergence_prior(self) -> tf.Tensor:
        """KL(q(u) || p(u)) of the inducing values u of each output, in nats.

        Returns:
            A tensor of shape `(outputs,)`.
        """
        posterior = tfd.MultivariateNormalTriL(
            self._process.variational_inducing_observations_loc,
            self._process.variational_inducing_observations_scale,
        )
        return tfd.kl_divergence(posterior, self._prior)

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: Any = None) -> Any:
        parts = tfp.util.BatchedComponentProperties(event_ndims=1)
        return {
            "process": parts,
            "prior": parts,
            "noise": tfp.util.ParameterProperties(),
        }

    def _batch_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _batch_shape_tensor(self, **kwargs: Any) -> tf.Tensor:
        return tf.constant([], tf.int32)

    def _event_shape(self) -> tf.TensorShape:
        rows = self._process.index_points.shape[-self._axes()]
        return tf.TensorShape([rows, *self._prior.batch_shape])

    def _event_shape_tensor(self) -> tf.Tensor:
        rows = tf.shape(self._process.index_points)[-self._axes()]
        return tf.stack([rows, *self._prior.batch_shape])

    def _axes(self) -> int:
        return self._process.kernel.feature_ndims + 1

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        return tf.linalg.matrix_transpose(self._process.sample(n, seed=seed))

    def _log_prob(self, y: Any) -> tf.Tensor:
        y = tf.linalg.matrix_transpose(y)
        return tf.reduce_sum(self._process.log_prob(y), axis=-1)

    def _mean(self) -> tf.Tensor:
        return tf.linalg.matrix_transpose(self._process.mean())

    def _mode(self) -> tf.Tensor:
        return self._mean()

    def _variance(self) -> tf.Tensor:
        return tf.linalg.matrix_transpose(self._process.variance())

    def _stddev(self) -> tf.Tensor:
        return tf.sqrt(self._variance())

    def _entropy(self) -> tf.Tensor:
        return tf.reduce_sum(self._process.entropy(), axis=-1)

    def _default_event_space_bijector(self) -> Any:
        return tfp.bijectors.Identity()


@keras.saving.register_keras_serializable("tfp_vae")
class VariationalGaussianProcess(DistributionLayer):
    r"""Functions drawn from a sparse variational Gaussian process, at the inputs.

    .. math::

        f &\sim \mathrm{GP}(m, k), \quad u = f(z) \\
        q(u) &= \mathcal N(\mathrm{loc}, S S^T), \quad S \text{ lower triangular} \\
        q(f) &= \int p(f \mid u) \, q(u) \, du \\
        y &= f(x) + e, \quad e \sim \mathcal N(0, \mathrm{softplus}(\mathrm{raw}))

    The inducing points z, loc, S, the noise, and the mean if no `mean_fn` is given, are
    trained, and so are the variables of the kernel provider. Of S only the lower
    triangle is read.

    The output is **one distribution for all rows**: its event shape is (n, outputs),
    its `log_prob` is one number, and a draw is one function (with noise) at all n
    inputs. It has `variational_loss(y, kl_weight)`, the loss to train with, in nats,
    and `surrogate_posterior_kl_divergence_prior()`. Both return one number for each
    output; Keras takes their mean. Whatever gives rows a weight raises an error:
    `tv.NegativeLogLikelihood`, `sample_weight` in `tv.Model`, masks, `tv.VAE`. (A plain
    `keras.Model` multiplies weights into such a loss.) `predict` concatenates batches:
    means are those of each row, but with "sample" each batch is a draw of its own.

    The Cholesky factors need floats with more digits than the kernel's condition
    number: if they fail in float32, give more `jitter`, which here reaches the prior
    too, or `dtype="float64"`.

    Reference:
        Titsias, Variational learning of inducing variables in sparse Gaussian
        processes, 2009, https://proceedings.mlr.press/v5/titsias09a.html;
        Hensman et al., Gaussian processes for big data, 2013,
        https://arxiv.org/abs/1309.6835;
        `tfp.layers.VariationalGaussianProcess`.

    Args:
        num_inducing_points: Number of inducing points z.
        kernel_provider: A Keras layer with a property `kernel` that makes a kernel of
            `tfp.math.psd_kernels` from the layer's weights.
        event_shape: Number of outputs, `(outputs,)`, each with its own process.
        inducing_index_points_initializer: Keras initializer of z, of shape
            `(outputs, num_inducing_points, *features)`. Place them among the inputs.
        unconstrained_observation_noise_variance_initializer: Keras initializer of the
            raw noise; `None` for no noise, with which there is no `variational_loss`.
        variational_inducing_observations_scale_initializer: Keras initializer of S; by
            default 1e-5 times the identity.
        mean_fn: Function of inputs `(..., n, *features)` with values `(..., n)`; by
            default a trained constant. To be saved it must be registered.
        jitter: Number added to the diagonal of covariances.
        convert_to_tensor_fn: See `DistributionLayer`.
        name: Name of the layer.
        **kwargs: Passed to `DistributionLayer`. The default `dtype` is that of the
            kernel provider.

    Call arguments:
        inputs: Tensor of shape `(n, *features)`.

    Returns:
        A `DistributionTensor` of event shape `(n, outputs)`.

    Raises:
        ValueError: If an argument is invalid, the kernel is not of TFP or reads
            a trainable `tf.Variable`, or the inputs have more axes or a mask.

    Example:
        >>> class RBF(keras.layers.Layer):
        ...     def __init__(self, **kwargs):
        ...         super().__init__(**kwargs)
        ...         self.raw = self.add_weight(name="length_scale", initializer="zeros")
        ...     @property
        ...     def kernel(self):
        ...         return tfp.math.psd_kernels.ExponentiatedQuadratic(
        ...             length_scale=tf.nn.softplus(self.raw))
        >>> process = tv.VariationalGaussianProcess(5, RBF(), jitter=1e-4)
        >>> model = tv.Sequential([keras.Input((1,)), process])
        >>> model.compile("adam", loss=lambda y, p: p.variational_loss(y, 4 / 8))
        >>> x = np.linspace(-1, 1, 8, dtype="float32")[:, None]
        >>> history = model.fit(x, x**2, batch_size=4, verbose=0)
        >>> p = model(x)
        >>> p.mean().shape, p.stddev().shape, p.log_prob(x**2).shape
        (TensorShape([8, 1]), TensorShape([8, 1]), TensorShape([]))
    """

    def __init__(
        self,
        num_inducing_points: int,
        kernel_provider: Any,
        event_shape: Any = (1,),
        inducing_index_points_initializer: Any = None,
        unconstrained_observation_noise_variance_initializer: Any = _NOISE,
        variational_inducing_observations_scale_initializer: Any = None,
        mean_fn: Callable[[Any], Any] | None = None,
        jitter: float = 1e-6,
        convert_to_tensor_fn: Any = "sample",
        name: str | None = None,
        **kwargs: Any,
    ) -> None:
        caller = type(self).__name__
        refuse_keras_2(kernel_provider, f"`{caller}`")
        if not isinstance(kernel_provider, keras.layers.Layer):
            raise ValueError(
                f"`{caller}` expects `kernel_provider` to be a Keras layer with a "
                f"property `kernel`. Received: kernel_provider={kernel_provider!r}. "
                "Make a subclass of `keras.layers.Layer` with the kernel's variables, "
                "and a property that makes the kernel from them."
            )
        if kwargs.get("dtype") is None:
            kwargs["dtype"] = kernel_provider.dtype_policy
        super().__init__(
            event_shape=event_shape,
            convert_to_tensor_fn=convert_to_tensor_fn,
            name=name,
            **kwargs,
        )
        if len(self.event_shape) != 1:
            raise ValueError(
                f"`{caller}` expects `event_shape` to be (outputs,). Received: "
                f"event_shape={event_shape!r}. Give one size, such as (1,), and "
                "reshape the outputs afterwards."
            )
        if not (mean_fn is None or callable(mean_fn)):
            raise ValueError(
                f"`{caller}` expects `mean_fn` to be None or a function of the inputs. "
                f"Received: mean_fn={mean_fn!r}. Use None for a trained constant."
            )
        self.num_inducing_points = integer(
            num_inducing_points, "num_inducing_points", caller
        )
        self.kernel_provider = kernel_provider
        self.mean_fn = mean_fn
        self.jitter = positive_number(jitter, "jitter", caller, zero=True)
        for name_, value in {
            "inducing_index_points_initializer": inducing_index_points_initializer,
            "unconstrained_observation_noise_variance_initializer": (
                unconstrained_observation_noise_variance_initializer
            ),
            "variational_inducing_observations_scale_initializer": (
                variational_inducing_observations_scale_initializer
            ),
        }.items():
            found = keras_object(keras.initializers.get, value, name_, caller)
            setattr(self, name_, found)

    def build(self, input_shape: Any) -> None:
        """Makes the variables, and finds those that the user's functions read."""
        caller = type(self).__name__
        if not self.kernel_provider.built:
            self.kernel_provider.build(input_shape)
            self.kernel_provider.built = True
        features = self._features(input_shape)
        (outputs,), points = self.event_shape, self.num_inducing_points
        self._constant = None
        if self.mean_fn is None:
            self._constant = self.add_weight(name="mean", shape=(), initializer="zeros")
        noise = self.unconstrained_observation_noise_variance_initializer
        self._raw_noise = None
        if noise is not None:
            self._raw_noise = self.add_weight(
                name="observation_noise_variance", shape=(), initializer=noise
            )
        self.inducing_index_points = self.add_weight(
            name="inducing_index_points",
            shape=(outputs, points, *features),
            initializer=self.inducing_index_points_initializer or "glorot_uniform",
        )
        self.variational_inducing_observations_loc = self.add_weight(
            name="variational_inducing_observations_loc",
            shape=(outputs, points),
            initializer="zeros",
        )
        self.variational_inducing_observations_scale = self.add_weight(
            name="variational_inducing_observations_scale",
            shape=(outputs, points, points),
            initializer=self.variational_inducing_observations_scale_initializer
            or _small_identity,
        )
        functions = [f for f in (self.mean_fn, *super()._functions()) if f is not None]
        read = variables_read(
            self._with_value,
            keras.KerasTensor((None, *features), self.compute_dtype),
            [*functions, self.kernel_provider, self],
            caller,
            self.compute_dtype,
        )
        own = {id(variable) for variable in self.variables}
        self._variables_read = [v for v in read if id(v) not in own]
        super().build(input_shape)

    def _functions(self) -> list[Any]:
        # `build` inspects them from the shape alone: a loaded layer needs its variables
        # before its first call.
        return []

    def _features(self, input_shape: Any) -> tuple[int, ...]:
        """The shape of one input, after checks of inputs and kernel."""
        caller, kernel = type(self).__name__, self._kernel()
        several = isinstance(input_shape, dict) or (
            len(input_shape) > 0 and isinstance(input_shape[0], Sequence)
        )
        axes = kernel.feature_ndims + 1
        if several or len(input_shape) != axes or None in input_shape[1:]:
            raise ValueError(
                f"`{caller}` expects one tensor of shape (rows, *features), with "
                f"{axes} axes and known features. Received: inputs of shape "
                f"{input_shape}. Reshape them; for features with more axes give the "
                "kernel another `feature_ndims`."
            )
        if kernel.dtype is not None and kernel.dtype != self.compute_dtype:
            raise ValueError(
                f"`{caller}` expects a kernel of its own dtype, {self.compute_dtype}. "
                f"Received: a kernel of dtype {tf.as_dtype(kernel.dtype).name}. Give "
                "the layer, or its kernel provider, `dtype`."
            )
        return tuple(input_shape[1:])

    def _kernel(self) -> Any:
        kernel = getattr(self.kernel_provider, "kernel", None)
        if not isinstance(kernel, psd_kernels.PositiveSemidefiniteKernel):
            raise ValueError(
                f"`{type(self).__name__}` expects the `kernel` of its provider to be a "
                f"kernel of `tfp.math.psd_kernels`. Received: {kernel!r:.200} of "
                f"{self.kernel_provider!r}. Return an instance, such as "
                "`tfp.math.psd_kernels.ExponentiatedQuadratic(...)`."
            )
        return kernel

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """Makes the distribution of the outputs at all rows."""
        if any(part is not None for part in keras.tree.flatten(mask)):
            raise ValueError(
                f"`{type(self).__name__}` expects inputs without a mask, since it has "
                "one distribution for all rows. Received: inputs with a mask. Leave "
                "out the masked rows before the layer."
            )
        return super().call(inputs)

    def make_distribution(self, parameters: Any) -> Any:
        """The joint distribution at the rows of the inputs."""
        self._features(tuple(parameters.shape))
        noise = self._raw_noise
        if noise is not None:  # the floor of a scale, squared
            noise = positive(tf.convert_to_tensor(noise), SCALE_FLOOR**2)
        mean_fn = self.mean_fn
        if mean_fn is None:
            constant = tf.convert_to_tensor(self._constant)
            mean_fn = lambda x: constant  # noqa: E731
        return self.new(
            parameters,
            kernel_provider=self.kernel_provider,
            event_shape=self.event_shape,
            inducing_index_points=tf.convert_to_tensor(self.inducing_index_points),
            mean_fn=mean_fn,
            variational_inducing_observations_loc=tf.convert_to_tensor(
                self.variational_inducing_observations_loc
            ),
            variational_inducing_observations_scale=tf.convert_to_tensor(
                self.variational_inducing_observations_scale
            ),
            observation_noise_variance=noise,
            jitter=self.jitter,
            name=self.name,
        )

    @staticmethod
    def new(
        x: Any,
        kernel_provider: Any,
        event_shape: Any,
        inducing_index_points: Any,
        mean_fn: Callable[[Any], Any] | None,
        variational_inducing_observations_loc: Any,
        variational_inducing_observations_scale: Any,
        observation_noise_variance: Any,
        jitter: float = 1e-6,
        name: str | None = None,
    ) -> ProcessOutputs:
        """Makes the distribution without a layer, from tensors.

        Args:
            x: Inputs of shape `(n, *features)`.
            kernel_provider: Anything with a kernel of TFP as `kernel`.
            event_shape: `(outputs,)`.
            inducing_index_points: z, of shape `(outputs, m, *features)`.
            mean_fn: See the layer; `None` for 0.
            variational_inducing_observations_loc: Of shape `(outputs, m)`.
            variational_inducing_observations_scale: S, of shape `(outputs, m, m)`.
            observation_noise_variance: The noise, positive, or `None`.
            jitter: See the layer.
            name: Name of the distribution.

        Returns:
            A distribution of event shape `(n, outputs)`.
        """
        kernel, z = kernel_provider.kernel, inducing_index_points
        lower = tf.linalg.band_part(variational_inducing_observations_scale, -1, 0)
        noise = observation_noise_variance
        process = tfd.VariationalGaussianProcess(
            kernel,
            x,
            z,
            variational_inducing_observations_loc,
            # TFP's q(u) uses only the lower triangle, but its q(f) the whole matrix.
            lower,
            mean_fn=mean_fn,
            observation_noise_variance=0.0 if noise is None else noise,
            jitter=jitter,
        )
        covariance = kernel.matrix(z, z)
        covariance += jitter * tf.eye(lower.shape[-1], dtype=covariance.dtype)
        zeros = tf.zeros([*event_shape, lower.shape[-1]], covariance.dtype)
        prior = tfd.MultivariateNormalTriL(
            zeros if mean_fn is None else zeros + mean_fn(z),
            tf.linalg.cholesky(covariance),
        )
        return ProcessOutputs(process, prior, noise, name or "ProcessOutputs")

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, layers and functions as Keras serializes them."""
        serialize = keras.saving.serialize_keras_object
        config = super().get_config()
        names = (n for n in config if n.endswith("_initializer"))
        return {
            **config,
            **{name: serialize(config[name]) for name in names},
            "kernel_provider": serialize(self.kernel_provider),
            "mean_fn": serialize(self.mean_fn),
        }


def _small_identity(shape: Any, dtype: Any = None) -> tf.Tensor:
    eye = tf.eye(shape[-1], batch_shape=shape[:-2], dtype=dtype or "float32")
    return 1e-5 * eye
