"""Finds the KL layers in an encoder, for a VAE that computes the KL itself."""

from typing import Any

from tfp_vae.keras_internals import nested_layers
from tfp_vae.kl.layer import KLDivergenceAddLoss, KLDivergenceRegularizer


def carried_kls(network: Any) -> list[KLDivergenceRegularizer]:
    """The KLs that the layers of a network add to the loss.

    Args:
        network: A layer or a model.

    Returns:
        A list, empty if there is none.

    Example:
        >>> kl = tv.KLDivergenceAddLoss(tv.StandardNormal(2))
        >>> len(carried_kls(keras.Sequential([tv.IndependentNormal(2), kl])))
        1
    """
    found = []
    for layer in nested_layers(network):
        if isinstance(layer, KLDivergenceAddLoss):
            found.append(layer.regularizer)
        elif isinstance(layer.activity_regularizer, KLDivergenceRegularizer):
            found.append(layer.activity_regularizer)
    return list({id(kl): kl for kl in found}.values())


def prior_of(encoder: Any, decoder: Any, prior: Any) -> Any:
    """The prior of a VAE: the argument, or that of the encoder's KL layer.

    Args:
        encoder: The network that outputs q(z | x).
        decoder: The network that outputs p(x | z), without a KL layer.
        prior: The prior, or `None` to take the encoder's.

    Returns:
        The prior.

    Raises:
        ValueError: If there is no prior or more than one, or if the KL layer has
            options, which the VAE would ignore.

    Example:
        >>> kl = tv.KLDivergenceAddLoss(tv.StandardNormal(2))
        >>> encoder = keras.Sequential([tv.IndependentNormal(2), kl])
        >>> prior_of(encoder, tv.IndependentNormal(3), None) is kl.prior
        True
    """
    if carried_kls(decoder):
        raise ValueError(
            "`VAE` expects one KL, from the encoder's posterior to the prior. "
            "Received: a decoder with a KL layer. For latents inside the decoder build "
            "a `keras.Model` from layers, with `NegativeLogLikelihood`."
        )
    carried = carried_kls(encoder)
    if prior is not None:
        if carried:
            raise ValueError(
                "`VAE` expects its prior once. Received: prior="
                f"{prior!r}, and an encoder whose KL layer has the prior "
                f"{carried[0].prior!r}. Leave out `prior=`, or the KL layer."
            )
        return prior
    if len(carried) != 1:
        raise ValueError(
            "`VAE` expects a prior, or an encoder with one KL layer, which has it. "
            f"Received: prior=None and {len(carried)} KLs in the encoder. Give "
            "`prior=tv.StandardNormal(latent_size)`."
        )
    _check_options(carried[0])
    return carried[0].prior


def _check_options(kl: KLDivergenceRegularizer) -> None:
    config = {
        "weight": kl.weight,
        "use_exact_kl": kl.use_exact_kl,
        "num_samples": kl.num_samples,
        "test_points_fn": kl.test_points_fn,
        "test_points_reduce_axis": kl.test_points_reduce_axis,
        "free_bits": kl.target.free_bits,
        "capacity": kl.target.capacity,
    }
    given = {name: value for name, value in config.items() if value is not None}
    if given:
        raise ValueError(
            "`VAE` expects a KL layer without options, since its objective has them. "
            f"Received: {given}. Give them to the objective: "
            "`VAE(..., objective=tv.ELBO(beta=..., free_bits=..., capacity=...))`. For "
            "a weight that grows use `tv.KLWarmup`."
        )
