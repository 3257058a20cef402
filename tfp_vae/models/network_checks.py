"""Checks that the networks of a VAE fit each other and the data."""

import warnings
from typing import Any

import keras
import tensorflow_probability as tfp

from tfp_vae.checks import check_rows_in_batch
from tfp_vae.kl.closed_forms import family_name
from tfp_vae.layers.distribution_layer import DistributionLayer
from tfp_vae.objectives import ALL
from tfp_vae.supports import number_of_values

tfd = tfp.distributions

# The decoder gets every value of z for every example: with 4096 values a batch of 128
# has half a million rows, for which a layer of 128 units outputs a quarter of a GiB.
MOST_VALUES = 4096


def check_distribution(output: Any, network: str, symbol: str) -> None:
    """Checks that a network returned one distribution for each example.

    Args:
        output: Output of the network.
        network: `"encoder"`, `"decoder"` or `"missing_model"`.
        symbol: Symbol of the distribution, for messages.

    Raises:
        ValueError: If it is not a distribution, or its batch shape is not `(batch,)`.

    Example:
        >>> check_distribution(tfd.Normal([0.0], 1.0), "encoder", "q(z | x)")
    """
    if not isinstance(output, tfd.Distribution):
        raise ValueError(
            f"`VAE` expects its {network} to return a distribution, {symbol}. "
            f"Received: {type(output).__name__} of shape "
            f"{getattr(output, 'shape', None)}. Make a distribution layer, such as "
            "`tv.IndependentNormal`, its last layer."
        )
    check_rows_in_batch(output, f"`VAE` with {symbol} from its {network}")
    batch = output.batch_shape
    if batch.rank != 1:
        raise ValueError(
            f"`VAE` expects {symbol} to be one distribution for each example, of batch "
            f"shape (batch,). Received: batch shape {tuple(batch)}, event shape "
            f"{tuple(output.event_shape)} from the {network}. Give its last layer the "
            "event shape of a whole example, or wrap it in `tfd.Independent`."
        )


def check_latent(posterior: Any, decoder: Any) -> None:
    """Compares the latent shape with the decoder's input shape, if that is known.

    Args:
        posterior: q(z | x).
        decoder: The network that takes z.

    Raises:
        ValueError: If their shapes differ.

    Example:
        >>> decoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> check_latent(tfd.MultivariateNormalDiag(tf.zeros([5, 3])), decoder)
    """
    try:
        shape = decoder.input_shape
    except (AttributeError, ValueError):
        return
    shape = shape[0] if isinstance(shape, list) else shape
    event = posterior.event_shape
    if not event.is_compatible_with(tuple(shape)[1:]):
        raise ValueError(
            "`VAE` expects a decoder for latents of the encoder's shape "
            f"{tuple(event)}. Received: a decoder for {tuple(shape)[1:]}. Give both "
            "the same latent size."
        )


def check_event(likelihood: Any, target: Any) -> None:
    """Compares the event shape of p(x | z) with the target's shape.

    Args:
        likelihood: p(x | z).
        target: Values of shape `(n, ...)`.

    Raises:
        ValueError: If the event shape is not that of one value.

    Example:
        >>> check_event(tfd.MultivariateNormalDiag(tf.zeros([5, 3])), np.zeros([5, 3]))
    """
    event = tuple(likelihood.event_shape)
    if not likelihood.event_shape.is_compatible_with(target.shape[1:]):
        raise ValueError(
            f"`VAE` expects targets of the decoder's event shape {event}. Received: "
            f"values of shape (n, *{tuple(target.shape[1:])}). Reshape them, or give "
            "the decoder's last layer their shape. A y that is a label is for "
            "`conditional=True`, or for `classifier=` if some are not known; otherwise "
            "y is the target instead of x."
        )


def check_mask_event(distribution: Any, x: Any) -> None:
    """Compares the event shape of p(observed | x) with the shape of x.

    Args:
        distribution: p(observed | x).
        x: Values of shape `(n, ...)`.

    Raises:
        ValueError: If there is not one number for each entry of x.

    Example:
        >>> p = tfd.Independent(tfd.Bernoulli(tf.zeros([5, 3])), 1)
        >>> check_mask_event(p, np.zeros([5, 3]))
    """
    if not distribution.event_shape.is_compatible_with(x.shape[1:]):
        raise ValueError(
            "`VAE` expects its missing_model to return p(observed | x) with the event "
            f"shape of x, {tuple(x.shape[1:])}. Received: event shape "
            f"{tuple(distribution.event_shape)}. End it with "
            f"`tv.IndependentBernoulli({tuple(x.shape[1:])})`."
        )


def check_inputs(
    x: Any,
    y: Any,
    network: Any,
    conditional: bool = False,
    name: str = "x",
    with_mask: bool = False,
) -> None:
    """Compares the shape of x with the network's input shape, if that is known.

    Args:
        x: Array of shape `(n, ...)`, or a structure of arrays.
        y: Conditions or `None`.
        network: The network that takes x: the encoder, or for latents the decoder.
        conditional: Whether the model is conditional.
        name: Name of x, for the message.
        with_mask: Whether the network also takes the mask of observed entries.

    Raises:
        ValueError: If there are more or fewer axes, one has another length, or the
            network has several inputs although the model is not conditional.

    Example:
        >>> encoder = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> check_inputs(np.zeros([5, 3]), None, encoder)
    """
    known = getattr(network, "inputs", None)
    if not known or isinstance(x, dict | list | tuple):
        return
    found = tuple(getattr(x, "shape", ()))
    if with_mask:  # An encoder with other inputs was refused.
        known = [known[0], *known[2:]]
    if len(known) > 1 and y is None and not conditional:
        raise ValueError(
            f"`VAE` expects {name} with an entry for each of the network's "
            f"{len(known)} inputs. Received: one array of shape {found}. If one input "
            "is the condition y, make the model with `VAE(..., conditional=True)`; "
            "otherwise give x as a dictionary."
        )
    expected = tuple(known[0].shape)
    sizes = zip(expected[1:], found[1:], strict=False)
    fits = len(found) == len(expected) and all(a in (None, b) for a, b in sizes)
    if (len(known) == 1) == (y is None) and not fits:
        raise ValueError(
            f"`VAE` expects {name} of shape (n, *{expected[1:]}), the network's input. "
            f"Received: {name}.shape={found}. Make a batch of one example with "
            f"`{name}[None]`, batches of a dataset with `.batch(128)`, a channel axis "
            f"with `{name}[..., None]`."
        )


def mask_input_error(count: int, conditional: bool) -> ValueError:
    """The error for an encoder that does not take the mask of observed entries.

    Args:
        count: The number of its inputs.
        conditional: Whether the model is conditional.

    Returns:
        The error.

    Example:
        >>> str(mask_input_error(1, False))[:30]
        '`VAE(missing_input=True)` expe'
    """
    inputs = "[x, observed, y]" if conditional else "[x, observed]"
    return ValueError(
        "`VAE(missing_input=True)` expects an encoder whose inputs are the list "
        f"{inputs}. Received: an encoder with {count} input{'s' * (count != 1)}. Make "
        f"it with `keras.Model({inputs}, q)`, or leave `missing_input` out."
    )


def check_conditions(y: Any, rows: int | None) -> None:
    """Checks that there is one condition for each example.

    Args:
        y: Conditions, tensors of shape `(n, ...)`, or `None`.
        rows: The number of examples, or `None` if unknown.

    Raises:
        ValueError: If there are more or fewer.

    Example:
        >>> check_conditions(np.zeros([5, 3]), 5)
    """
    for part in [] if y is None else keras.tree.flatten(y):
        shape = tuple(part.shape)
        if not shape or (rows is not None and shape[0] not in (None, rows)):
            raise ValueError(
                "`VAE` expects one condition for each example. Received: y.shape="
                f"{shape} for {rows} examples. Repeat a common one, "
                "`np.repeat(y[None], n, axis=0)`."
            )


def check_reparameterized(posterior: Any, objective: Any) -> None:
    """Warns if the gradient of the likelihood does not reach the encoder.

    Args:
        posterior: q(z | x).
        objective: The objective; its gradient may exclude the score of q, or need
            nothing but the score.

    Raises:
        ValueError: If the objective's gradient needs draws that are reparameterised.

    Example:
        >>> check_reparameterized(tfd.Normal([0.0], 1.0), tv.ELBO())
    """
    if objective.uses_score or objective.draws_per_example == ALL:
        return  # No gradient goes through the draws.
    if posterior.reparameterization_type == tfd.FULLY_REPARAMETERIZED:
        return
    family = family_name(posterior)
    others = (
        "`tv.ELBO(num_samples=8, gradient='loo')`, "
        "`tv.ImportanceWeightedBound(8, gradient='vimco')`, "
        "`tv.ELBO(latents='enumerate')` for a few discrete values, a relaxed "
        "distribution such as `IndependentRelaxedBernoulli`, or `reparameterize=True` "
        "for a mixture."
    )
    if objective.gradient != "total":
        raise ValueError(
            f"`VAE.fit` with gradient={objective.gradient!r} expects a posterior whose "
            f"draws are reparameterised. Received: {family}. Use {others}"
        )
    warnings.warn(
        f"Draws of the posterior, {family}, are not reparameterised: the gradient of "
        f"the likelihood does not reach the encoder. It does with {others}",
        stacklevel=4,
    )


def check_own_weights(**networks: Any) -> None:
    """Checks that networks share no weights, before they are serialized.

    Keras would save a layer of two networks twice, and fail to load it.

    Args:
        **networks: The networks by name, some `None`.

    Raises:
        ValueError: If a weight belongs to two.

    Example:
        >>> check_own_weights(encoder=keras.Sequential(), decoder=None)
    """
    owners: dict[int, str] = {}
    for name, network in networks.items():
        for weight in [] if network is None else network.weights:
            owner = owners.setdefault(id(weight), name)
            if owner != name:
                raise ValueError(
                    "Saving a `VAE` expects networks without common layers: Keras does "
                    f"not load them. Received: {weight.path!r}, in the {owner} and in "
                    f"the {name}. Save with `save_weights`, and load into a model that "
                    "is made by the same code."
                )


def check_reparameterized_values(likelihood: Any) -> None:
    """Checks that p(x | z) has reparameterised draws, as a `missing_model` needs.

    The model of the mask sees drawn entries, through which it trains the decoder.

    Args:
        likelihood: p(x | z).

    Raises:
        ValueError: If its draws are not reparameterised.

    Example:
        >>> check_reparameterized_values(tfd.Normal([0.0], 1.0))
    """
    if likelihood.reparameterization_type != tfd.FULLY_REPARAMETERIZED:
        raise ValueError(
            "`VAE.fit` with a `missing_model` expects a likelihood whose draws are "
            "reparameterised: the model of the mask sees drawn entries in the place of "
            f"the missing ones. Received: {family_name(likelihood)}. Use a continuous "
            "one such as `tv.IndependentNormal`, or leave `missing_model` out."
        )


def check_enumerable(posterior: Any) -> None:
    """Checks that the latents have few values, all of which can be decoded.

    Args:
        posterior: q(z | x).

    Raises:
        ValueError: If the values are not finitely many, or more than `MOST_VALUES`.

    Example:
        >>> check_enumerable(tfd.OneHotCategorical([[0.0, 1.0, 2.0]]))
    """
    count = number_of_values(posterior)
    if count is not None and count <= MOST_VALUES:
        return
    # Python does not print integers of more than 4,300 digits.
    size = (
        "no known number of" if count is None else f"about 2**{count.bit_length() - 1}"
    )
    raise ValueError(
        f"latents='enumerate' expects a posterior with at most {MOST_VALUES} values, "
        "all decoded for every example: Bernoulli, categorical and one-hot "
        f"latents, and products of them. Received: {family_name(posterior)} with {size}"
        " values. Make the latents fewer, or draw them, "
        "`tv.ELBO(num_samples=8, gradient='loo')`."
    )


def check_draws(draws: Any, objective: Any) -> None:
    """Checks that the draws of a batch are those that the objective needs.

    Args:
        draws: The `Draws` of the model's output.
        objective: The objective.

    Raises:
        ValueError: If one of them enumerates z and the other draws it, or the gradient
            compares draws and there is a single one.

    Example:
        >>> encoder = keras.Sequential([keras.Input((2,)), tv.IndependentNormal(1)])
        >>> decoder = keras.Sequential([keras.Input((1,)), tv.IndependentBernoulli(1)])
        >>> vae = tv.VAE(encoder, decoder, tv.StandardNormal(1))
        >>> check_draws(vae(tf.zeros([5, 2]), training=True).draws, vae.objective)
    """
    wanted = objective.draws_per_example
    count = draws.latents.shape[0]
    alike = draws.enumerated == (wanted == ALL)
    if alike and not (objective.uses_score and count < 2):
        return
    raise ValueError(
        f"`VAE.compute_loss` expects the draws of its objective, num_samples={wanted!r}"
        f". Received: a y_pred with {'all values' if draws.enumerated else count} of z."
        " Call the model with `num_samples=vae.objective.draws_per_example`."
    )


def last_distribution_layer(network: Any) -> DistributionLayer | None:
    """The distribution layer that a network ends with.

    Args:
        network: A layer or a model.

    Returns:
        The layer, or `None` if the network ends otherwise.

    Example:
        >>> last_distribution_layer(tv.IndependentNormal(3)).event_shape
        (3,)
    """
    while not isinstance(network, DistributionLayer):
        layers = getattr(network, "layers", None)
        if not layers:
            return None
        network = layers[-1]
    return network


def warn_of_activation(decoder: Any) -> None:
    """Warns of an activation before the distribution layer.

    The inputs of that layer are logits, or other unconstrained parameters.

    Args:
        decoder: A Keras model.

    Example:
        >>> warn_of_activation(keras.Sequential([tv.IndependentNormal(2)]))
    """
    layers = getattr(decoder, "layers", [])
    chain = isinstance(decoder, keras.Sequential) and len(layers) > 1
    if not chain or not isinstance(layers[-1], DistributionLayer):
        return
    activation = getattr(layers[-2], "activation", keras.activations.linear)
    if activation not in (None, keras.activations.linear):
        warnings.warn(
            f"The inputs of {type(layers[-1]).__name__} are logits, or other "
            f"unconstrained parameters, but the layer {layers[-2].name!r} before it "
            f"limits them by activation="
            f"{getattr(activation, '__name__', activation)!r}. The network learns "
            "better without that activation.",
            stacklevel=3,
        )
