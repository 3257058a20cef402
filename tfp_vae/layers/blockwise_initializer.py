"""An initializer for each block of the last axis."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_vae.checks import boolean, checked_config, integers, keras_object


@keras.saving.register_keras_serializable("tfp_vae")
class BlockwiseInitializer(keras.initializers.Initializer):
    r"""Concatenates the values of several initializers along the last axis.

    .. math::

        w = [\mathrm{init}_1(\ldots, \mathrm{sizes}_1),
        \mathrm{init}_2(\ldots, \mathrm{sizes}_2), \ldots]

    For a layer whose outputs are different parameters, such as a loc and a raw scale.
    Each initializer gets the shape of its own block. One random initializer of Keras
    gives equal numbers at each call: make one for each block.

    Reference:
        `tfp.layers.BlockwiseInitializer`.

    Args:
        initializers: Keras initializers, or their names.
        sizes: Length of each block.
        validate_args: As in `tfp.layers`. The shape is checked whatever its value.

    Call arguments:
        shape: Shape of the tensor, whose last axis has length `sum(sizes)`.
        dtype: Its dtype; by default `keras.config.floatx()`.

    Returns:
        A tensor.

    Raises:
        ValueError: If Keras does not know an initializer, there are more or fewer sizes
            than initializers, or they do not add up to the last axis.

    Example:
        >>> init = BlockwiseInitializer(["zeros", "ones"], sizes=[1, 2])
        >>> init([2, 3]).numpy()
        array([[0., 1., 1.],
               [0., 1., 1.]], dtype=float32)
    """

    def __init__(
        self, initializers: Any, sizes: Any, validate_args: bool = False
    ) -> None:
        caller = type(self).__name__
        found = integers(sizes)
        several = isinstance(initializers, list | tuple) and initializers
        fits = several and found and len(found) == len(initializers)
        if not fits or min(found or (0,)) < 1:
            raise ValueError(
                f"`{caller}` expects a list of initializers, and a list with a size of "
                f"at least 1 for each. Received: initializers={initializers!r}, "
                f"sizes={sizes!r}. Give "
                'both, as in `BlockwiseInitializer(["zeros", "ones"], [2, 3])`.'
            )
        self.initializers = [
            keras_object(
                keras.initializers.get, init, "initializers", caller, default=False
            )
            for init in initializers
        ]
        self.sizes = list(found or ())
        self.validate_args = boolean(validate_args, "validate_args", caller)

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> tf.Tensor:
        """The values of all blocks."""
        sizes = integers(shape)
        if not sizes or sizes[-1] != sum(self.sizes):
            raise ValueError(
                f"`{type(self).__name__}` expects a shape whose last axis has length "
                f"{sum(self.sizes)}, the sum of sizes={self.sizes}. Received: "
                f"shape={shape}. Give blocks that add up to the last axis."
            )
        dtype = dtype or keras.config.floatx()
        blocks = [
            tf.convert_to_tensor(init((*sizes[:-1], size), dtype=dtype))
            for init, size in zip(self.initializers, self.sizes, strict=True)
        ]
        return tf.concat(blocks, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        return {
            "initializers": [
                keras.initializers.serialize(init) for init in self.initializers
            ],
            "sizes": self.sizes,
            "validate_args": self.validate_args,
        }

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "BlockwiseInitializer":
        """Restores the initializers."""
        found = [keras.initializers.get(init) for init in config["initializers"]]
        return cls(**{**config, "initializers": found})
