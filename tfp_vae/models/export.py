"""Exports a VAE as a SavedModel with an endpoint for each method."""

import contextlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import file_path, integer
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.draws import draw
from tfp_vae.latents import center, mean_or_center
from tfp_vae.models.imputation import from_moments
from tfp_vae.models.missing import is_missing
from tfp_vae.models.network_checks import mask_input_error
from tfp_vae.models.statistics import statistics_of
from tfp_vae.summaries import summary
from tfp_vae.weights.forward_pass import weights_drawn_with

tfd = tfp.distributions


def export_endpoints(
    vae: Any,
    filepath: Any,
    verbose: Any = None,
    input_signature: Any = None,
    max_draws: int | None = None,
) -> None:
    """Writes the endpoints of a VAE; see `VAE.export`.

    Args:
        vae: A `tv.VAE` that has weights.
        filepath: Directory to write to.
        verbose: Whether to print the endpoints.
        input_signature: Structure of `tf.TensorSpec` of x, or of `(x, y)` if the model
            is conditional; by default that of the encoder's input.
        max_draws: The most draws of a request; `None` for no limit.

    Raises:
        ValueError: If `filepath` is no path, the shape of x is not known, or
            `max_draws` is not a positive integer.
    """
    filepath = file_path(filepath, "filepath", "VAE.export")
    if max_draws is not None:
        max_draws = integer(max_draws, "max_draws", "VAE.export")
    known = input_signature is None
    given = vae_input_specs(vae, "VAE.export") if known else input_signature
    x_spec, y_specs = (given[0], [given[1]]) if vae.conditional else (given, [])
    has_labels = vae.classifier is not None
    if has_labels:
        y_specs = [tf.TensorSpec([None], tf.int32, "y")]
    number = tf.TensorSpec((), tf.int32)

    def encode(x: Any, y: Any = None) -> dict[str, tf.Tensor]:
        q = vae.posterior(_inputs(vae, x, y))
        return {**_moments(q), "sample": draw(q, seed=new_seed())[0]}

    def encode_moments(x: Any, y: Any = None) -> dict[str, tf.Tensor]:
        return _moments(vae.posterior(_inputs(vae, x, y)))

    def decode(z: Any, y: Any = None) -> tf.Tensor:
        if has_labels:
            y = vae.one_hot(vae.checked_in_graph(y, known=True))
        return statistics_of(vae.likelihood(z, y), None)

    def classify(x: Any) -> tf.Tensor:
        return tf.exp(vae.log_posterior_of_classes(x))

    def reconstruct(x: Any, y: Any = None) -> tf.Tensor:
        return statistics_of(vae(_inputs(vae, x, y), training=False), None)

    def generate(n: Any, seed: Any, y: Any = None) -> tf.Tensor:
        key = tf.where(seed < 0, new_seed(), tf.stack([seed, 0]))
        if has_labels:
            y = vae.checked_in_graph(y)
            y = tf.where(y < 0, vae.draw_labels(tf.shape(y)[0], key), y)
        prior = vae.prior_distribution(vae.one_hot(y) if has_labels else y)
        rows = [] if y is None else [tf.shape(y)[0]]
        given = [
            tf.debugging.assert_equal(
                n, row, "n must be the number of rows of y, one y for each example"
            )
            for row in rows
        ]
        n = _limited(n, "n", 0, max_draws, *given)
        z = prior.sample([] if prior.batch_shape.rank else [n], key)
        with weights_drawn_with(key):
            return decode(z, y)

    def log_prob(x: Any, num_samples: Any, y: Any = None) -> tf.Tensor:
        num_samples = _limited(num_samples, "num_samples", 1, max_draws)
        inputs = _inputs(vae, x, y)
        target = _checked_target(vae, inputs, x)
        log_sum = vae.log_sum_of_labels if has_labels else vae.log_sum
        total = log_sum(inputs, target, new_seed(), num_samples)
        total -= tf.math.log(tf.cast(num_samples, total.dtype))
        return tf.cast(total, vae.answer_dtype)

    def impute(x: Any, num_samples: Any, y: Any = None) -> tf.Tensor:
        num_samples = _limited(num_samples, "num_samples", 1, max_draws)
        inputs = _inputs(vae, x, y)
        target = _checked_target(vae, inputs, x)
        average = vae.averages_of_labels if has_labels else vae.averages
        total, averages = average(inputs, target, new_seed(), num_samples)
        message = "The density is 0 for every z that was drawn"
        with tf.control_dependencies([tf.debugging.check_numerics(total, message)]):
            averages = tf.identity(averages)
        found = from_moments(unwrap(vae(inputs, training=False)), averages)
        found = tf.cast(found, vae.answer_dtype)
        given = tf.cast(target, found.dtype)
        return tf.where(is_missing(target, vae.missing), found, given)

    archive = keras.export.ExportArchive()
    archive.track(vae)
    for fn, specs in (
        (reconstruct, [x_spec]),
        (encode, [x_spec]),
        (encode_moments, [x_spec]),
        (decode, [_latent_spec(vae, x_spec, y_specs)]),
        (generate, [number, number]),
        (log_prob, [x_spec, number]),
        *([] if vae.missing is None else [(impute, [x_spec, number])]),
    ):
        plain = tf.autograph.experimental.do_not_convert(fn)
        archive.add_endpoint(fn.__name__, plain, [*specs, *y_specs])
    if has_labels:
        plain = tf.autograph.experimental.do_not_convert(classify)
        archive.add_endpoint("classify", plain, [x_spec])
    archive.write_out(filepath, verbose=bool(verbose))


def _limited(
    number: tf.Tensor, name: str, low: int, high: int | None, *others: Any
) -> tf.Tensor:
    """The number, after a check that it is in its range."""
    checks = [tf.debugging.assert_greater_equal(number, low, f"{name} is below {low}")]
    if high is not None:
        said = f"{name} is above {high}, the limit of this export"
        checks.append(tf.debugging.assert_less_equal(number, high, said))
    with tf.control_dependencies([*others, *checks]):
        return tf.identity(number)


def _checked_target(vae: Any, inputs: Any, x: Any) -> tf.Tensor:
    """The decoder's target, after a check at the mean of q(z | x)."""
    p, target = unwrap(vae(inputs, training=False)), vae.target_of(x)
    gaps = None if vae.missing is None else is_missing(target, vae.missing)
    values = target
    if gaps is not None:
        possible = tf.cast(p.sample(seed=new_seed()), target.dtype)
        values = tf.where(gaps, possible, target)
    with tf.control_dependencies([strict_log_prob(p, values)]):
        return tf.identity(target)


def strict_log_prob(distribution: Any, values: tf.Tensor) -> tf.Tensor:
    """Computes log p(x), in a graph too, and fails for values that x cannot take.

    Args:
        distribution: A `tfd.Distribution`.
        values: Values of any dtype.

    Returns:
        log p(x).

    Raises:
        tf.errors.InvalidArgumentError: Where `check_values` raises an error.

    Example:
        >>> p = tv.IndependentBernoulli(1)(tf.zeros([1, 1])).tensor_distribution
        >>> strict_log_prob(p, tf.constant([[1.0]])).numpy().round(2)
        array([-0.69], dtype=float32)
    """
    cast, checks = tf.cast(values, distribution.dtype), []
    if distribution.dtype.is_integer:  # The cast would hide a fraction.
        back = tf.cast(cast, values.dtype)
        message = "Values must be integers."
        checks = [tf.debugging.assert_equal(back, values, message)]
    with tf.control_dependencies(checks):
        log_prob = _strict(distribution).log_prob(tf.identity(cast))
    return tf.debugging.check_numerics(log_prob, "Values outside the support")


def _strict(distribution: Any) -> Any:
    """A copy that checks values, as do the distributions inside it."""

    def inner(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(map(inner, value))
        is_one = isinstance(value, tfd.Distribution)
        return _strict(value) if is_one else value

    parameters = {key: inner(value) for key, value in distribution.parameters.items()}
    if "validate_args" in parameters:
        parameters["validate_args"] = True
    return distribution.copy(**parameters)


def _moments(posterior: Any) -> dict[str, tf.Tensor]:
    found = {"mean": mean_or_center(posterior)}
    with contextlib.suppress(NotImplementedError):
        found["stddev"] = summary(posterior, "stddev")
    return found


def _inputs(vae: Any, x: Any, y: Any) -> Any:
    if vae.classifier is not None:
        y = vae.checked_in_graph(y)
    return (x, y) if vae.conditional else x


def vae_input_specs(vae: Any, caller: str) -> Any:
    """Specs of the inputs with which a VAE is called: x, or the pair (x, y).

    Args:
        vae: A `tv.VAE`.
        caller: Name of the caller, for the message.

    Returns:
        A structure of `tf.TensorSpec`.

    Raises:
        ValueError: If the shape of x is not known.

    Example:
        >>> encoder = keras.Sequential([keras.Input((4,)), tv.IndependentNormal(2)])
        >>> decoder = keras.Sequential([keras.Input((2,)), tv.IndependentNormal(1)])
        >>> vae = tv.VAE(encoder, decoder, tv.StandardNormal(2))
        >>> vae_input_specs(vae, "VAE.export").shape
        TensorShape([None, 4])
    """
    given = input_specs(vae.encoder, caller)
    if not vae.missing_input:
        return given
    if not isinstance(given, list | tuple) or len(given) != 2 + vae.conditional:
        count = len(given) if isinstance(given, list | tuple) else 1
        raise mask_input_error(count, vae.conditional)
    x, _, *y = given  # The mask is made from x.
    return (x, *y) if y else x


def input_specs(network: Any, caller: str) -> Any:
    """Specs of a network's input, with a batch of any size.

    Args:
        network: A Keras model.
        caller: Name of the caller, for the message.

    Returns:
        A structure of `tf.TensorSpec`.

    Raises:
        ValueError: If the shape of x is not known.

    Example:
        >>> encoder = keras.Sequential([keras.Input((4,)), tv.IndependentNormal(2)])
        >>> input_specs(encoder, "VAE.export").shape
        TensorShape([None, 4])
    """
    try:
        # A `Sequential` has only the list `inputs`, which in others lacks structure.
        sequential = isinstance(network, keras.Sequential)
        known = network.inputs[0] if sequential else network.input
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"`{caller}` expects to know the shape of x. Received: a network without "
            "`keras.Input`. Give `input_signature`, a `tf.TensorSpec([None, ...])` "
            "of x."
        ) from error
    if isinstance(known, dict):  # Its names become those of the signature.
        return {name: _spec(tensor, name) for name, tensor in known.items()}
    return keras.tree.map_structure(_spec, known)


def _spec(tensor: Any, name: str | None = None) -> tf.TensorSpec:
    return tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name)


def _latent_spec(vae: Any, x_spec: Any, y_specs: list[Any]) -> tf.TensorSpec:
    one = keras.tree.map_structure(
        lambda spec: tf.zeros([side or 1 for side in spec.shape], spec.dtype),
        [x_spec, *y_specs],
    )
    z = center(vae.posterior(_inputs(vae, one[0], one[-1])))
    return tf.TensorSpec([None, *z.shape[1:]], z.dtype)


def new_seed() -> tf.Tensor:
    """A new random seed at each call of a served function.

    Returns:
        Two integers, which differ between processes.

    Example:
        >>> new_seed().shape
        TensorShape([2])
    """
    return tf.raw_ops.RandomUniformInt(
        shape=[2], minval=0, maxval=np.iinfo(np.int32).max, seed=0, seed2=0
    )
