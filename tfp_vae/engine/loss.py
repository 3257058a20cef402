"""Losses from plain functions, which receive a model's output unconverted."""

from typing import Any

import keras
import tensorflow as tf

from tfp_vae.checks import check_rows_in_batch, checked_config, checked_function
from tfp_vae.engine.num_examples import report_terms
from tfp_vae.keras_internals import is_symbolic_placeholder, mask_of, set_mask


@keras.saving.register_keras_serializable("tfp_vae")
class FunctionLoss(keras.losses.Loss):
    """A Keras loss from a function of targets and any kind of output.

    Keras converts every output to a tensor of the default dtype and of the targets'
    rank. Here this happens to plain tensors only. With another output, such as a
    distribution, the targets get its rank, and its dtype if that is a floating-point
    type. Weights, masks and the reduction are Keras' own; weights and masks of rows are
    refused for an output whose `batch_shape` says that it is one law for all rows.

    Args:
        fn: Function of targets and output that returns the loss of each example.
        **kwargs: Passed to `keras.losses.Loss`.

    Example:
        >>> loss = FunctionLoss(lambda y, p: -p.log_prob(y))
        >>> layer = tv.DistributionLambda(lambda t: tfd.Bernoulli(logits=t[..., 0]))
        >>> round(float(loss([[1], [0]], layer(tf.zeros([2, 1])))), 4)
        0.6931
    """

    def __init__(self, fn: Any, **kwargs: Any) -> None:
        name = getattr(fn, "__name__", "")
        name = name if name.isidentifier() else "loss"  # not `<lambda>`
        super().__init__(**{"name": name, **kwargs})
        self.fn = fn

    def __call__(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> tf.Tensor:
        """Calls the function, then weights and reduces the losses."""
        weighted = sample_weight is not None or mask_of(y_pred) is not None
        if weighted and hasattr(y_pred, "batch_shape"):
            check_rows_in_batch(y_pred, f"`{self.name}` with weights or a mask")
        if is_symbolic_placeholder(y_pred):  # The function needs the real output.
            values = tf.zeros(tf.shape(y_pred)[:1])
        else:
            values = tf.convert_to_tensor(self.fn(*self._fitted(y_true, y_pred)))
            values = set_mask(tf.identity(values), mask_of(y_pred))
            is_joint = getattr(y_pred, "batch_shape", None) == []
            report_terms(values, mask_of(y_pred), is_joint)
        if sample_weight is not None:
            sample_weight = tf.convert_to_tensor(sample_weight)
            if sample_weight.shape.rank is not None:
                axes = (values.shape.rank or 0) - sample_weight.shape.rank
                for _ in range(axes):
                    sample_weight = sample_weight[..., None]
        return super().__call__(values, values, sample_weight)

    def call(self, y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
        """The loss of each example, which `__call__` has computed."""
        return y_pred

    def _fitted(self, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
        """Targets and output of equal rank, if they differ by an axis of length 1."""
        y_true = tf.convert_to_tensor(y_true)
        if isinstance(y_pred, tf.Tensor):
            y_true = tf.cast(y_true, self.dtype)
            return _of_one_rank(y_true, tf.cast(y_pred, self.dtype))
        if tf.as_dtype(y_pred.dtype).is_floating:
            y_true = tf.cast(y_true, y_pred.dtype)
        return _of_rank(y_true, tf.TensorShape(y_pred.shape)), y_pred

    def get_config(self) -> dict[str, Any]:
        """Arguments of `__init__`."""
        fn = keras.saving.serialize_keras_object(self.fn)
        return {**super().get_config(), "fn": fn}

    @classmethod
    @checked_config
    def from_config(cls, config: dict[str, Any]) -> "FunctionLoss":
        """Restores the function."""
        fn = keras.saving.deserialize_keras_object(config["fn"])
        return cls(**{**config, "fn": checked_function(fn, "loss")})


def with_output_kept(loss: Any) -> Any:
    """Replaces plain functions in the losses of `compile` by `FunctionLoss`.

    Args:
        loss: What `compile` was given: a loss, a function, a name, or a structure.

    Returns:
        The same, with a `FunctionLoss` for each plain function.

    Example:
        >>> with_output_kept("mse"), type(with_output_kept(lambda y, p: y)).__name__
        ('mse', 'FunctionLoss')
    """
    if isinstance(loss, dict):
        return {name: with_output_kept(part) for name, part in loss.items()}
    if isinstance(loss, list | tuple):
        return type(loss)([with_output_kept(part) for part in loss])
    plain = callable(loss) and not isinstance(loss, keras.losses.Loss | type)
    of_keras = str(getattr(loss, "__module__", "")).split(".")[0] == "keras"
    return FunctionLoss(loss) if plain and not of_keras else loss


def _of_one_rank(y_true: tf.Tensor, y_pred: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Both with equal rank, as in Keras: expands rank 1, squeezes higher ranks."""
    ranks = y_true.shape.rank, y_pred.shape.rank
    if 1 in ranks:
        return _of_rank(y_true, y_pred.shape, False), _of_rank(
            y_pred, y_true.shape, False
        )
    if None in ranks or ranks[0] > ranks[1]:
        return _of_rank(y_true, y_pred.shape), y_pred
    squeezed = _of_rank(y_pred, y_true.shape)
    return y_true, squeezed


def _of_rank(
    values: tf.Tensor, like: tf.TensorShape, may_squeeze: bool = True
) -> tf.Tensor:
    """Adds or removes a last axis of length 1, if the ranks differ by one."""
    if values.shape.rank is None or like.rank is None:
        return values
    if values.shape.rank == like.rank + 1 and values.shape[-1] == 1 and may_squeeze:
        return tf.squeeze(values, axis=-1)
    if values.shape.rank == like.rank - 1 and like[-1] == 1:
        return tf.expand_dims(values, axis=-1)
    return values
