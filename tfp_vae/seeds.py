"""Seeds for TFP's stateless samplers, from Keras' generators and saved with a model."""

import threading
from typing import Any

import keras
import tensorflow as tf

from tfp_vae.draws import fold_in
from tfp_vae.keras_internals import in_training

_LOCK = threading.Lock()


class Seeds(keras.layers.Layer):
    """A `keras.random.SeedGenerator` that is saved, with other seeds on each replica.

    Keras tracks the state of a generator but does not save it, so that resumed training
    would repeat the noise of its first steps. It also mirrors the state over the
    replicas of a strategy, so that all would draw the same. Draws outside of a call
    with `training=True` use a second generator, so that validation does not change
    training.

    Args:
        seed: Integer, or `None` for one derived from `keras.utils.set_random_seed`.
        **kwargs: Passed to `keras.layers.Layer`.

    Example:
        >>> seeds = Seeds(7)
        >>> seeds.next().numpy(), seeds.next().shape
        (array([7, 0], dtype=int32), TensorShape([2]))
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(seed)
        self.outside_training = keras.random.SeedGenerator(seed)
        self.built = True

    def next(self) -> tf.Tensor:
        """The next seed: an int32 tensor of shape `(2,)`, different on each replica.

        Two threads do not get the same.
        """
        generator = self.generator if in_training() else self.outside_training
        if tf.distribute.has_strategy():  # Replicas wait for each other.
            seed = tf.cast(generator.next(), tf.int32)
        else:
            with _LOCK:  # It reads the state, then writes it.
                seed = tf.cast(generator.next(), tf.int32)
        replica = tf.distribute.get_replica_context()
        if replica is None or replica.num_replicas_in_sync == 1:
            return seed
        return fold_in(seed, replica.replica_id_in_sync_group)

    def save_own_variables(self, store: Any) -> None:
        """Writes the state."""
        store["0"] = self.generator.state.numpy()
        store["1"] = self.outside_training.state.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Reads the state, if there is one: older models have fewer seeds."""
        for name, generator in (
            ("0", self.generator),
            ("1", self.outside_training),
        ):
            if name in store.keys():  # noqa: SIM118, h5py's groups are no dictionaries
                generator.state.assign(store[name])
