"""A mixture of the encoder's posteriors at learned pseudo-inputs."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import Shape, canonical_event_shape, checked_config, integer
from tfp_vae.constraints import float_policy
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.kl.without_kl import without_kl
from tfp_vae.layers.variable_layer import VariableLayer

tfd = tfp.distributions


@keras.saving.register_keras_serializable("tfp_vae")
class VampPrior(keras.layers.Layer):
    r"""A prior that mixes the encoder's posteriors at learned pseudo-inputs u.

    .. math:: p(z) = \frac{1}{K} \sum_k q(z \mid u_k)

    The prior calls the model's encoder in inference mode. A KL layer inside the encoder
    adds no loss or metric for the pseudo-inputs. Make the encoder, then the prior, then
    call the KL layer of this prior on the encoder's output::

        encoder = keras.Sequential([..., tv.IndependentNormal(16)])
        prior = tv.VampPrior(encoder, num_components=500, activation="sigmoid")
        z = tv.KLDivergenceAddLoss(prior)(encoder(inputs))

    To start at data, call `prior.pseudo_inputs.constant.assign(x[:500])`, and set no
    activation.

    Reference:
        Tomczak and Welling, VAE with a VampPrior, 2018.
        https://arxiv.org/abs/1705.07120

    Args:
        encoder: A Keras model or layer from inputs to a distribution.
        num_components: The number K of pseudo-inputs.
        input_shape: Shape of one input without the batch axis; by default that of the
            encoder, if it is built.
        activation: Function that maps the pseudo-inputs to the range of the data, such
            as `"sigmoid"` for pixels between 0 and 1.
        initializer: Initial values before the activation.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        inputs: Ignored.

    Returns:
        A `tfd.MixtureSameFamily` with batch shape `()`.

    Raises:
        ValueError: If the encoder is not a Keras layer, its input shape is unknown, or
            it does not return one distribution per pseudo-input.

    Example:
        >>> encoder = keras.Sequential([
        ...     keras.Input((8,)), keras.layers.Dense(6), tv.IndependentNormal(3)])
        >>> p = VampPrior(encoder, num_components=50)()
        >>> p.event_shape, p.log_prob(tf.zeros([5, 3])).shape
        (TensorShape([3]), TensorShape([5]))
    """

    def __init__(
        self,
        encoder: keras.layers.Layer,
        *,
        num_components: int,
        input_shape: Shape | None = None,
        activation: Any = None,
        initializer: Any = "random_normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "dtype": float_policy(kwargs.get("dtype"))})
        if not isinstance(encoder, keras.layers.Layer):
            raise ValueError(
                "`VampPrior` expects `encoder` to be a Keras model or layer. Received: "
                f"encoder={encoder!r}. Give the model whose posteriors the prior mixes."
            )
        several = len(getattr(encoder, "inputs", None) or [])
        if several > 1:
            raise ValueError(
                "`VampPrior` expects an encoder of one input, the pseudo-input. "
                f"Received: {encoder.name!r} of {several} inputs. With a condition, or "
                "the mask of `missing_input`, use another prior, such as "
                "`tv.MixturePrior(latent_size, num_components=500)`."
            )
        self.encoder = encoder
        self.num_components = integer(num_components, "num_components", "VampPrior")
        self.input_shape_of_one = _input_shape(encoder, input_shape)
        self.pseudo_inputs = VariableLayer(
            (self.num_components, *self.input_shape_of_one),
            dtype=self.dtype_policy,
            activation=activation,
            initializer=initializer,
        )

    def build(self, inputs_shape: Any = None) -> None:
        """Builds the encoder, if it is not built yet."""
        layers = getattr(self.encoder, "layers", [])
        if any(getattr(layer, "prior", None) is self for layer in layers):
            raise ValueError(
                "`VampPrior` expects an encoder that ends in front of the KL layer of "
                f"this prior. Received: {self.encoder.name!r}, which contains it. Call "
                "the KL layer on the encoder's output, and put both in one model."
            )
        if not self.encoder.built:
            with without_kl():
                self.encoder(self.pseudo_inputs())
        self.built = True

    def call(self, inputs: Any = None) -> Any:
        """The mixture, whatever the inputs."""
        with without_kl():
            components = self.encoder(self.pseudo_inputs(), training=False)
        if not isinstance(components, tfd.Distribution) or components.batch_shape != (
            self.num_components,
        ):
            raise ValueError(
                "`VampPrior` expects an encoder that returns a distribution of batch "
                f"shape ({self.num_components},). Received: {components!r}. End it "
                "with a distribution layer such as `IndependentNormal`."
            )
        equal = tf.zeros([self.num_components], unwrap(components).dtype)
        return tfd.MixtureSameFamily(tfd.Categorical(logits=equal), unwrap(components))

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, the encoder serialized."""
        encoder = keras.saving.serialize_keras_object(self.encoder)
        # The encoder is also a layer of the model that contains the prior. With this
        # key Keras restores both as one object.
        encoder["shared_object_id"] = id(self.encoder)
        variable = self.pseudo_inputs.get_config()
        return {
            **super().get_config(),
            "encoder": encoder,
            "num_components": self.num_components,
            "input_shape": self.input_shape_of_one,
            "activation": variable["activation"],
            "initializer": variable["initializer"],
        }

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "VampPrior":
        """Restores the encoder, if necessary, before calling `__init__`."""
        encoder = config["encoder"]
        if not isinstance(encoder, keras.layers.Layer):
            encoder = keras.saving.deserialize_keras_object(encoder)
        return cls(**{**config, "encoder": encoder})


def _input_shape(encoder: Any, given: Shape | None) -> tuple[int, ...]:
    if given is not None:
        return canonical_event_shape(given, "VampPrior", "input_shape")
    try:
        return canonical_event_shape(tuple(encoder.input_shape)[1:], "VampPrior")
    except (AttributeError, ValueError) as error:
        raise ValueError(
            "`VampPrior` expects to know the shape of the encoder's input. Received: "
            f"{encoder.name!r}, which has none. Begin it with `keras.Input`, or give "
            "`input_shape`, the shape of one input without the batch axis."
        ) from error
