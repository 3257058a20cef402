"""Posteriors and priors of weights: functions that make variables and a distribution.

Each is called with `(dtype, shape, name, trainable, add_variable_fn)`, as in
`tfp.layers`, and returns a distribution whose event has that shape.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import boolean, checked_config, keras_object
from tfp_vae.serialization import revive_arguments

tfd = tfp.distributions

_OBJECTS: dict[str, Any] = {
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
}
_OPTIONS = tuple(
    f"{part}_{kind}" for kind in _OBJECTS for part in ("loc", "untransformed_scale")
)
_INITIALIZERS = {
    "loc_initializer": keras.initializers.RandomNormal(stddev=0.1),
    "untransformed_scale_initializer": keras.initializers.RandomNormal(-3.0, 0.1),
}


@keras.saving.register_keras_serializable("tfp_vae")
class LocScaleFn:
    """What `default_loc_scale_fn` returns: makes `loc` and `scale` of weights.

    Args:
        **options: The arguments of `default_loc_scale_fn`.

    Raises:
        ValueError: If Keras does not know one of them.

    Example:
        >>> loc, scale = LocScaleFn()(
        ...     tf.float32, [2], "kernel", True, keras.layers.Layer().add_weight)
        >>> loc.shape
        TensorShape([2])
    """

    def __init__(self, **options: Any) -> None:
        caller = type(self).__name__
        options = {"is_singular": False, **dict.fromkeys(_OPTIONS), **options}
        singular = options.pop("is_singular")
        self.is_singular = boolean(singular, "is_singular", caller)
        for name, default in _INITIALIZERS.items():
            if options[name] is None:
                options[name] = default
        for name, value in options.items():
            get = _OBJECTS[name.rpartition("_")[2]].get
            setattr(self, name, keras_object(get, value, name, caller))

    def __call__(
        self,
        dtype: tf.DType,
        shape: Any,
        name: str,
        trainable: bool,
        add_variable_fn: Callable[..., Any],
    ) -> tuple[Any, Any]:
        """Makes the variables.

        Args:
            dtype: Their dtype.
            shape: Their shape.
            name: Beginning of their names.
            trainable: Whether they are trained.
            add_variable_fn: Makes a variable, such as `Layer.add_weight`.

        Returns:
            loc and scale, or `None` in place of the scale.
        """

        def variable(part: str) -> Any:
            initializer = getattr(self, f"{part}_initializer")
            if isinstance(initializer, keras.initializers.Initializer):
                # One object gives all weights of a shape the same values.
                initializer = initializer.clone()
            return add_variable_fn(
                name=f"{name}_{part}",
                shape=shape,
                initializer=initializer,
                regularizer=getattr(self, f"{part}_regularizer"),
                constraint=getattr(self, f"{part}_constraint"),
                dtype=dtype,
                trainable=trainable,
            )

        loc = variable("loc")
        if self.is_singular:
            return loc, None
        eps = np.finfo(dtype.as_numpy_dtype).eps
        scale = tfp.util.DeferredTensor(
            variable("untransformed_scale"), lambda u: eps + tf.nn.softplus(u)
        )
        return loc, scale

    def __repr__(self) -> str:
        """The class and whether there is a scale, as signatures show it."""
        singular = "is_singular=True" if self.is_singular else ""
        return f"{type(self).__name__}({singular})"

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        parts = {
            name: _OBJECTS[name.rpartition("_")[2]].serialize(getattr(self, name))
            if getattr(self, name) is not None
            else None
            for name in _OPTIONS
        }
        return {"is_singular": self.is_singular, **parts}

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "LocScaleFn":
        """Restores initializers, regularizers and constraints."""
        return cls(**revive_arguments(config))


@keras.saving.register_keras_serializable("tfp_vae")
class MeanFieldNormalFn(LocScaleFn):
    """What `default_mean_field_normal_fn` returns: makes q(w) = N(loc, diag(scale^2)).

    Args:
        **options: The arguments of `default_mean_field_normal_fn`.

    Example:
        >>> q = MeanFieldNormalFn()(
        ...     tf.float32, [2], "kernel", True,
        ...     lambda **options: tf.zeros(options["shape"]))
        >>> q.event_shape
        TensorShape([2])
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Makes the variables and a distribution of them."""
        loc, scale = super().__call__(*args, **kwargs)
        each = tfd.Deterministic(loc) if scale is None else tfd.Normal(loc, scale)
        return tfd.Independent(each, len(loc.shape))


def default_loc_scale_fn(
    is_singular: bool = False,
    loc_initializer: Any = None,
    untransformed_scale_initializer: Any = None,
    loc_regularizer: Any = None,
    untransformed_scale_regularizer: Any = None,
    loc_constraint: Any = None,
    untransformed_scale_constraint: Any = None,
) -> LocScaleFn:
    r"""A function that makes the variables `loc` and `scale` of weights.

    .. math:: \mathrm{scale} = \epsilon + \mathrm{softplus}(u)

    Reference:
        `tfp.layers.default_loc_scale_fn`. What it returns can be saved.

    Args:
        is_singular: Whether there is no scale.
        loc_initializer: Initializer of loc; by default N(0, 0.1^2).
        untransformed_scale_initializer: Initializer of u; by default N(-3, 0.1^2).
        loc_regularizer: Regularizer of loc.
        untransformed_scale_regularizer: Regularizer of u.
        loc_constraint: Constraint of loc.
        untransformed_scale_constraint: Constraint of u.

    Returns:
        A function of `(dtype, shape, name, trainable, add_variable_fn)`.

    Raises:
        ValueError: If Keras does not know one of the arguments.

    Example:
        >>> default_loc_scale_fn(is_singular=True).is_singular
        True
    """
    return LocScaleFn(**locals())


def default_mean_field_normal_fn(
    is_singular: bool = False,
    loc_initializer: Any = None,
    untransformed_scale_initializer: Any = None,
    loc_regularizer: Any = None,
    untransformed_scale_regularizer: Any = None,
    loc_constraint: Any = None,
    untransformed_scale_constraint: Any = None,
) -> MeanFieldNormalFn:
    r"""A function that makes a posterior q(w) = N(loc, diag(scale^2)) of weights.

    .. math:: \mathrm{scale} = \epsilon + \mathrm{softplus}(u)

    Reference:
        `tfp.layers.default_mean_field_normal_fn`. What it returns can be saved.

    Args:
        is_singular: Whether there is no scale, so that q(w) is the point loc.
        loc_initializer: Initializer of loc; by default N(0, 0.1^2).
        untransformed_scale_initializer: Initializer of u; by default N(-3, 0.1^2).
        loc_regularizer: Regularizer of loc.
        untransformed_scale_regularizer: Regularizer of u.
        loc_constraint: Constraint of loc.
        untransformed_scale_constraint: Constraint of u.

    Returns:
        A function of `(dtype, shape, name, trainable, add_variable_fn)`.

    Raises:
        ValueError: If Keras does not know one of the arguments.

    Example:
        >>> layer = tv.DenseReparameterization(
        ...     2, kernel_posterior_fn=default_mean_field_normal_fn(
        ...         untransformed_scale_initializer="zeros"))
        >>> layer(tf.ones([5, 3])).shape
        TensorShape([5, 2])
    """
    return MeanFieldNormalFn(**locals())


@keras.saving.register_keras_serializable("tfp_vae")
def default_multivariate_normal_fn(
    dtype: tf.DType,
    shape: Any,
    name: str,
    trainable: bool,
    add_variable_fn: Any,
) -> Any:
    """Makes the prior p(w) = N(0, I) of weights.

    Reference:
        `tfp.layers.default_multivariate_normal_fn`.

    Args:
        dtype: Dtype of the weights.
        shape: Their shape.
        name: Not used.
        trainable: Not used.
        add_variable_fn: Not used.

    Returns:
        A `tfd.Independent` of event shape `shape`.

    Example:
        >>> default_multivariate_normal_fn(
        ...     tf.float32, [3, 2], "kernel", True, None).event_shape
        TensorShape([3, 2])
    """
    loc = tf.zeros(shape, dtype)
    one = tfd.Normal(loc, dtype.as_numpy_dtype(1))
    return tfd.Independent(one, len(loc.shape))
