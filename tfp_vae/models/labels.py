"""Labels, some of them unknown: reads and checks them; q(y | x) and p(y)."""

import math
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfp_vae.checks import positive_number, real_number
from tfp_vae.distribution_tensor import unwrap
from tfp_vae.layers.one_hot_categorical import OneHotCategorical
from tfp_vae.layers.variable_layer import VariableLayer
from tfp_vae.models.network_checks import last_distribution_layer

tfd = tfp.distributions

UNKNOWN = -1
LEARNED = "learned"


class LabelBatch(NamedTuple):
    """The labels of a batch.

    Args:
        one_hot: Known labels as one-hot vectors, of shape `(batch, classes)`; zeros for
            unknown ones, NaN for numbers that are no class.
        is_known: Booleans of shape `(batch,)`.
    """

    one_hot: tf.Tensor
    is_known: tf.Tensor


class Labels:
    """The classes of a VAE with a classifier: q(y | x) and p(y).

    Args:
        classifier: Keras model or layer from x to a `tfd.OneHotCategorical` or
            `tfd.Categorical` of batch shape `(batch,)`.
        label_prior: `None` for equal probabilities, `"learned"`, or a probability for
            each class.
        alpha: Factor of -log q(y | x) in the loss of a labelled row; `None` for 1.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> classifier = keras.Sequential([
        ...     keras.Input((8,)), keras.layers.Dense(4), tv.OneHotCategorical(4)])
        >>> labels = Labels(classifier, None, None)
        >>> labels.num_classes, labels.read(tf.constant([2, -1])).one_hot.numpy()
        (4, array([[0., 0., 1., 0.],
                   [0., 0., 0., 0.]], dtype=float32))
    """

    def __init__(self, classifier: Any, label_prior: Any, alpha: Any) -> None:
        if not isinstance(classifier, keras.layers.Layer):
            raise ValueError(
                "`VAE` expects `classifier` to be None, or a Keras model or layer from "
                f"x to q(y | x). Received: classifier={classifier!r}. Give a network "
                "that ends in `tv.OneHotCategorical(number of classes)`."
            )
        self.classifier = classifier
        self.num_classes = _num_classes(classifier)
        self.alpha = (
            1.0 if alpha is None else positive_number(alpha, "alpha", "VAE", zero=True)
        )
        self.prior = _checked_prior(label_prior, self.num_classes)
        learned = isinstance(self.prior, str)
        self.logits = VariableLayer(self.num_classes) if learned else None

    def log_prior(self, dtype: Any = "float32") -> tf.Tensor:
        """Log p(y), of shape `(classes,)`.

        Args:
            dtype: Dtype of the result.

        Returns:
            A tensor, in nats.
        """
        if self.logits is not None:
            return tf.cast(tf.nn.log_softmax(self.logits()), dtype)
        equal = [1 / self.num_classes] * self.num_classes
        probs = np.asarray(equal if self.prior is None else self.prior, "float64")
        return tf.constant(np.log(probs / probs.sum()), dtype)

    def log_posterior(self, x: Any, training: bool | None = False) -> tf.Tensor:
        """Log q(y | x), of shape `(batch, classes)`.

        Args:
            x: Inputs, without labels.
            training: Passed to the classifier.

        Returns:
            A tensor, in nats.

        Raises:
            ValueError: If the classifier does not return q(y | x).
        """
        q = _checked_posterior(self.classifier(x, training=training))
        return tf.nn.log_softmax(q.logits_parameter(), axis=-1)

    def read(self, y: Any, dtype: Any = "float32") -> LabelBatch:
        """Reads the labels of a batch, in a graph too.

        Args:
            y: Numbers of classes, of shape `(batch,)` or `(batch, 1)`; -1 and NaN for
                unknown ones.
            dtype: Dtype of the one-hot vectors.

        Returns:
            One-hot vectors and which are known. Compiled steps cannot raise errors:
            what is no class becomes NaN, and so the loss.
        """
        y = tf.reshape(tf.convert_to_tensor(y), [-1])
        if y.dtype.is_floating:
            y = tf.where(tf.math.is_nan(y), tf.constant(UNKNOWN, y.dtype), y)
        else:
            y = tf.cast(y, tf.int64)
        is_known = tf.not_equal(y, tf.constant(UNKNOWN, y.dtype))
        classes = tf.range(self.num_classes)
        one_hot = tf.equal(y[:, None], tf.cast(classes, y.dtype))
        is_class = tf.reduce_any(one_hot, axis=-1)
        bad = tf.constant(math.nan, dtype)
        good = tf.cast(one_hot, dtype)
        return LabelBatch(
            tf.where((is_class | ~is_known)[:, None], good, bad), is_known
        )

    def checked(self, y: Any, rows: int, caller: str, known: bool = False) -> Any:
        """Checks labels on the host.

        Args:
            y: What the user gave; `None` if no label is known.
            rows: The number of examples.
            caller: Name of the caller, for messages.
            known: Whether all have to be known.

        Returns:
            An int32 array of shape `(rows,)`, with -1 for unknown labels.

        Raises:
            ValueError: If they are not integers of classes, -1 or NaN, or not as many
                as the examples.
        """
        expected = (
            f"`{caller}` expects the label of each example as an integer from 0 to "
            f"{self.num_classes - 1}"
        )
        expected += "." if known else ", or -1 or NaN if it is not known."
        if y is None:
            if known:
                raise ValueError(
                    f"{expected} Received: y=None. Give `y=`, such as "
                    "`np.full(n, 3)` for class 3."
                )
            return np.full(rows, UNKNOWN, "int32")
        try:
            y = np.asarray(y)
        except ValueError:  # lists of unequal lengths
            y = np.asarray(None)
        if y.dtype.kind not in "iuf":
            found = f"y of dtype {y.dtype}" if y.shape else f"y={y!r:.60}"
            raise ValueError(f"{expected} Received: {found}. Count classes from 0.")
        if y.ndim == 2 and y.shape[1] == self.num_classes:
            raise ValueError(
                f"{expected} Received: y of shape {y.shape}, one number for each "
                "class. Give `np.argmax(y, axis=1)`, and -1 where no class is known."
            )
        if y.shape not in ((rows,), (rows, 1)):
            raise ValueError(
                f"{expected} Received: y of shape {y.shape} for {rows} examples. Give "
                f"an array of shape ({rows},)."
            )
        y = y.reshape(-1)
        lost = np.isnan(y) if y.dtype.kind == "f" else np.zeros(rows, bool)
        y = np.where(lost, UNKNOWN, y)
        classes = (y >= 0) & (y < self.num_classes) & (np.floor(y) == y)
        bad = y[~(classes if known else classes | (y == UNKNOWN))]
        if bad.size:
            raise ValueError(
                f"{expected} Received: {bad.size} of {rows} labels that are none of "
                f"these, such as {bad[0]}. Count classes from 0, or give the "
                "classifier more classes."
            )
        return y.astype("int32")

    def shapes(self, inputs_shape: Any) -> tuple[Any, Any]:
        """The shapes of x and of one-hot labels, from that of a model's inputs.

        Args:
            inputs_shape: Shape of x, or the pair of those of x and labels.

        Returns:
            A pair.
        """
        pair = isinstance(inputs_shape, list | tuple) and len(inputs_shape) == 2
        several = pair and isinstance(inputs_shape[1], list | tuple)
        x = inputs_shape[0] if several else inputs_shape
        return x, (None, self.num_classes)

    def get_config(self) -> dict[str, Any]:
        """The arguments of `VAE` about labels, without the classifier."""
        prior = list(self.prior) if isinstance(self.prior, tuple) else self.prior
        return {"label_prior": prior, "alpha": self.alpha}


@keras.saving.register_keras_serializable("tfp_vae")
class MeanOfLabelled(keras.metrics.Mean):
    """A mean over labelled rows; NaN while there are none.

    Args:
        name: Name in the history.
        dtype: Dtype of the state.

    Example:
        >>> float(MeanOfLabelled("accuracy").result())
        nan
    """

    def __init__(self, name: str = "mean_of_labelled", dtype: Any = None) -> None:
        super().__init__(name=name, dtype=dtype)

    def result(self) -> tf.Tensor:
        """The mean so far."""
        some = tf.cast(self.count.value, tf.bool)
        return tf.where(some, super().result(), tf.constant(math.nan, self.dtype))


def check_given_with_classifier(label_prior: Any, alpha: Any) -> None:
    """Checks that a VAE without a classifier has no arguments about labels.

    Args:
        label_prior: Must be `None`.
        alpha: Must be `None`.

    Raises:
        ValueError: If one is given.

    Example:
        >>> check_given_with_classifier(None, None)
    """
    for name, value in {"label_prior": label_prior, "alpha": alpha}.items():
        if value is not None:
            advice = {
                "label_prior": "Give `classifier=`, a network from x to q(y | x).",
                "alpha": "Give `classifier=`; the order of a Renyi bound belongs to "
                "its objective, `objective=tv.RenyiBound(alpha=0.5)`.",
            }[name]
            raise ValueError(
                f"`VAE` expects `{name}` only with a classifier. Received: {name}="
                f"{value!r} and classifier=None. {advice}"
            )


def check_takes_labels(network: Any, name: str, num_classes: int) -> None:
    """Compares a network's second input with the number of classes, if it is known.

    Args:
        network: The encoder or the decoder.
        name: Which of them, for the message.
        num_classes: The number of classes of the classifier.

    Raises:
        ValueError: If it has one input, or a second one of another width.

    Example:
        >>> x, y = keras.Input((8,)), keras.Input((4,))
        >>> check_takes_labels(keras.Model([x, y], y), "encoder", 4)
    """
    known = [tuple(tensor.shape) for tensor in getattr(network, "inputs", None) or []]
    if not known or len(known) > 2:
        return
    if len(known) == 1 or known[1] != (None, num_classes):
        pair = "[x, y]" if name == "encoder" else "[z, y]"
        raise ValueError(
            f"`VAE(classifier=...)` expects the inputs {pair} of its {name}, where y "
            f"are one-hot vectors of shape (n, {num_classes}). Received: inputs of "
            f"shapes {known}. Make it `keras.Model({pair}, ...)` with "
            f"`y = keras.Input(({num_classes},))`."
        )


def _num_classes(classifier: Any) -> int:
    """The number of classes, from the last layer or from a call on zeros."""
    last = last_distribution_layer(classifier)
    if isinstance(last, OneHotCategorical):
        number = last.event_size
    else:
        inputs = getattr(classifier, "inputs", None)
        if not inputs:
            raise ValueError(
                "`VAE` expects a classifier whose number of classes is known. "
                f"Received: {classifier!r} without `keras.Input`. Let it end in "
                "`tv.OneHotCategorical(number of classes)`, or begin with "
                "`keras.Input`."
            )
        zeros = keras.tree.map_structure(
            lambda t: tf.zeros([1, *(side or 1 for side in t.shape[1:])], t.dtype),
            inputs[0] if isinstance(classifier, keras.Sequential) else classifier.input,
        )
        q = _checked_posterior(classifier(zeros))
        number = int(q.logits_parameter().shape[-1])
    if number < 2:
        raise ValueError(
            "`VAE` expects a classifier of at least 2 classes. Received: one of "
            f"{number}. Leave it out if there are no classes."
        )
    return number


def _checked_posterior(output: Any) -> Any:
    q = unwrap(output)
    if isinstance(q, tfd.OneHotCategorical | tfd.Categorical):
        if q.batch_shape.rank == 1:
            return q
        found = f"one of batch shape {tuple(q.batch_shape)}"
    else:
        found = f"a {type(output).__name__} of shape {getattr(output, 'shape', None)}"
    raise ValueError(
        "`VAE` expects its classifier to return q(y | x), a categorical distribution "
        f"for each example. Received: {found}. Let it end in "
        "`tv.OneHotCategorical(number of classes)`, whose inputs are logits."
    )


def _checked_prior(value: Any, num_classes: int) -> Any:
    """`None`, `"learned"` or a tuple of probabilities."""
    if value is None or (isinstance(value, str) and value == LEARNED):
        return value
    numbers: list[float] = []
    if isinstance(value, list | tuple | np.ndarray) or tf.is_tensor(value):
        numbers = [real_number(number) for number in value] if np.ndim(value) else []
    total = sum(numbers)
    valid = len(numbers) == num_classes and min(numbers) > 0
    if not valid or not abs(total - 1) <= 1e-4:
        raise ValueError(
            f"`VAE` expects `label_prior` to be None, 'learned', or {num_classes} "
            f"positive probabilities whose sum is 1. Received: label_prior={value!r}. "
            "Leave it out for equal probabilities, or give relative frequencies, "
            "`counts / counts.sum()`."
        )
    return tuple(numbers)
