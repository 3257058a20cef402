"""One masked autoregressive flow with a given network."""

from typing import Any

import keras

from tfp_vae.layers.autoregressive_network import AutoregressiveNetwork
from tfp_vae.layers.flow_layer import FlowLayer, masked_autoregressive


@keras.saving.register_keras_serializable("tfp_vae")
class AutoregressiveTransform(FlowLayer):
    r"""A masked autoregressive flow applied to the distribution of the previous layer.

    .. math::

        x_i = u_i \exp(s_i(x_{<i})) + m_i(x_{<i}), \quad s = 5 \tanh(\mathrm{raw} / 5)

    The network `made` computes the shifts m and the raw log scales. For several flows
    in a row, and for other kinds, see `Flow`.

    Reference:
        `tfp.layers.AutoregressiveTransform`, without the bound on s; Papamakarios,
        Pavlakou, Murray, "Masked Autoregressive Flow for Density Estimation", 2017.

    Args:
        made: An `AutoregressiveNetwork` with `params=2`.
        **kwargs: Passed to `DistributionLayer`.

    Call arguments:
        inputs: The output of a distribution layer, with event shape `(d,)`.

    Returns:
        A `tfd.TransformedDistribution` with the batch shape of the input.

    Raises:
        ValueError: If `made` is not such a network, or the input is not a distribution
            of vectors.

    Example:
        >>> made = AutoregressiveNetwork(2, hidden_units=[10], activation="relu")
        >>> model = keras.Sequential([
        ...     keras.layers.Dense(4), tv.IndependentNormal(2),
        ...     AutoregressiveTransform(made)])
        >>> model(tf.zeros([5, 1])).log_prob(tf.zeros([5, 2])).shape
        TensorShape([5])
    """

    def __init__(self, made: AutoregressiveNetwork, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(made, AutoregressiveNetwork) or made.params != 2:
            raise ValueError(
                "`AutoregressiveTransform` expects `made` to be an "
                "`AutoregressiveNetwork` with params=2, a shift and a log scale for "
                f"each coordinate. Received: made={made!r} with params="
                f"{getattr(made, 'params', None)}. Make it with "
                "`AutoregressiveNetwork(2, hidden_units=(64,), activation='relu')`."
            )
        self.made = made

    def build_networks(self, size: int) -> None:
        """Makes the network's variables."""
        if not self.made.built:
            self.made.build((None, size))

    def make_bijector(self) -> Any:
        """The autoregressive flow of the network."""
        return masked_autoregressive(self.made)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`, the network serialized."""
        made = keras.saving.serialize_keras_object(self.made)
        return {**super().get_config(), "made": made}
