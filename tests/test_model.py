"""`tv.Model` and `tv.Sequential` do what `keras.Model` and `keras.Sequential` do."""

import copy
import csv
import json
import pickle
import types
import zipfile

import keras
import numpy as np
import pytest
import slow
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_vae as tv

tfd = tfp.distributions

RNG = np.random.default_rng(3)
X = RNG.normal(size=(50, 4)).astype("float32")
Y = (X @ RNG.normal(size=(4, 2)) + 0.1 * RNG.normal(size=(50, 2))).astype("float32")
CLASSES = (X[:, 0] > 0).astype("int32") + (X[:, 1] > 0)
WEIGHTS = RNG.uniform(0.1, 2.0, size=50).astype("float32")
BATCH = 8  # 50 rows: six batches, and a short one

KERAS = types.SimpleNamespace(Model=keras.Model, Sequential=keras.Sequential)


@keras.saving.register_keras_serializable("test_model")
class Plain(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(6, activation="tanh")
        self.out = keras.layers.Dense(2)

    def call(self, x):
        return self.out(self.hidden(x))


@keras.saving.register_keras_serializable("test_model")
class Fast(tv.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(6, activation="tanh")
        self.out = keras.layers.Dense(2)

    def call(self, x):
        return self.out(self.hidden(x))


def functional(lib):
    x = keras.Input((4,))
    h = keras.layers.Dense(6, activation="tanh")(x)
    return lib.Model(x, keras.layers.Dense(2)(h))


def built(lib):
    return lib.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.Dense(2),
        ]
    )


def deferred(lib):
    return lib.Sequential(
        [keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(2)]
    )


def subclassed(lib):
    return Plain() if lib is KERAS else Fast()


def nested(lib):
    inner = built(lib)
    x = keras.Input((4,))
    return lib.Model(x, keras.layers.Dense(2)(keras.layers.ReLU()(inner(x))))


def normalised(lib):
    """With weights that training moves and that no gradient does."""
    x = keras.Input((4,))
    h = keras.layers.BatchNormalization()(keras.layers.Dense(6)(x))
    return lib.Model(x, keras.layers.Dense(2)(h))


KINDS = {
    make.__name__: make
    for make in (functional, built, deferred, subclassed, nested, normalised)
}


def with_both(make, use, **options):
    """What `use` returns for a model of Keras and for one of ours, and both models."""
    options = {"optimizer": "adam", "loss": "mse", **options}
    found = []
    for lib in (KERAS, tv):
        keras.utils.set_random_seed(5)
        model = make(lib)
        made = {
            name: value() if isinstance(value, types.FunctionType) else value
            for name, value in options.items()
        }
        model.compile(**made)
        found.append((use(model), model))
    return found


def close(ours, theirs):
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5),
        ours,
        theirs,
    )


def trained(*data, **options):
    options = {"batch_size": BATCH, "epochs": 3, "shuffle": False, **options}
    return lambda model: model.fit(*data, verbose=0, **options).history


def trains_alike(make, use, **options):
    """Trains a model of Keras and one of ours, and compares all they leave."""
    (theirs, plain), (ours, fast) = with_both(make, use, **options)
    assert set(ours) == set(theirs)
    close({k: ours[k] for k in theirs}, theirs)
    close(fast.get_weights(), plain.get_weights())
    assert int(fast.optimizer.iterations) == int(plain.optimizer.iterations)
    return ours


# The models


@pytest.mark.parametrize(
    "kind", slow.except_for(("functional", "subclassed", "nested", "normalised"), KINDS)
)
def test_every_kind_of_model_trains_as_with_keras(kind):
    trains_alike(KINDS[kind], trained(X, Y), metrics=["mae"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_predicts_as_with_keras(kind):
    (theirs, _), (ours, _) = with_both(
        KINDS[kind], lambda m: m.predict(X, batch_size=BATCH, verbose=0)
    )
    close(ours, theirs)


def small_vae():
    q = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4), tv.IndependentNormal(2)]
    )
    p = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(8), tv.IndependentNormal(4)]
    )
    return tv.VAE(q, p, tv.StandardNormal(2))


MAKES = {
    "functional": lambda: functional(tv),
    "subclassed": lambda: subclassed(tv),
    "vae": small_vae,
    "built": lambda: built(tv),
}
ORDERS = [
    ("functional", "subclassed", "vae", "built"),
    pytest.param(
        ("vae", "functional", "subclassed", "functional", "vae"), marks=pytest.mark.slow
    ),
    pytest.param(("built", "functional", "vae", "subclassed"), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("order", ORDERS)
def test_models_of_every_kind_are_made_in_any_order(order):
    for kind in order:
        model = MAKES[kind]()
        model.compile("adam", None if kind == "vae" else "mse")
        model.fit(X, None if kind == "vae" else Y, verbose=0)


def test_a_class_can_be_made_after_a_functional_model():
    functional(tv)

    class Later(tv.Model):
        def __init__(self):
            super().__init__()
            self.out = keras.layers.Dense(2)

        def call(self, x):
            return self.out(x)

    class LaterVAE(tv.VAE):
        pass

    assert Later()(X).shape == (50, 2)
    vae = small_vae()
    assert LaterVAE(vae.encoder, vae.decoder, vae.prior)(X).event_shape == (4,)


def test_classes_of_the_library_keep_their_bases():
    bases = [cls.__bases__ for cls in (tv.Model, tv.Sequential, tv.VAE)]
    for kind in MAKES:
        MAKES[kind]()
    assert bases == [cls.__bases__ for cls in (tv.Model, tv.Sequential, tv.VAE)]
    assert not hasattr(subclassed(tv), "_functional")


def own_init(lib):
    class Own(lib.Model):
        def __init__(self, units=6, **kwargs):
            x = keras.Input((4,))
            h = keras.layers.Dense(units, activation="tanh")(x)
            super().__init__(x, keras.layers.Dense(2)(h), **kwargs)

    return Own()


def own_init_by_keyword(lib):
    class Middle(lib.Model):
        pass

    class Own(Middle):
        def __init__(self):
            x = keras.Input((4,))
            super().__init__(inputs=x, outputs=keras.layers.Dense(2)(x), name="own")

    return Own()


@pytest.mark.parametrize("make", [own_init, own_init_by_keyword])
def test_a_model_is_functional_inside_its_own_init(make):
    trains_alike(make, trained(X, Y))
    model = make(tv)
    assert isinstance(model, tv.Model)
    assert model.inputs[0].shape == (None, 4)
    assert make(tv).count_params() == make(KERAS).count_params()


def test_a_functional_subclass_leaves_others_as_they_are():
    own_init(tv)
    assert subclassed(tv)(X).shape == (50, 2)
    assert not isinstance(subclassed(tv), type(functional(tv)))
    assert isinstance(functional(tv), tv.Model)


def test_layers_can_be_taken_from_and_added_to_a_sequential():
    def use(model):
        model.pop()
        model.add(keras.layers.Dense(3))
        model.add(keras.layers.Dense(2))
        model.compile("adam", "mse")
        return trained(X, Y)(model)

    trains_alike(built, use)


def test_a_frozen_layer_stays_as_it_is():
    def use(model):
        model.layers[-1].trainable = False
        model.compile("sgd", "mse")
        return trained(X, Y)(model)

    trains_alike(functional, use)


# Inputs, outputs, losses, metrics


def branching(lib):
    a, b = keras.Input((4,), name="a"), keras.Input((1,), name="b")
    h = keras.layers.Dense(6, activation="tanh")(keras.layers.concatenate([a, b]))
    outputs = {
        "value": keras.layers.Dense(2, name="value")(h),
        "chance": keras.layers.Dense(3, activation="softmax", name="chance")(h),
    }
    return lib.Model({"a": a, "b": b}, outputs)


NAMED = {"a": X, "b": WEIGHTS[:, None]}
TARGETS = {"value": Y, "chance": CLASSES}
LOSSES = {"value": "mse", "chance": "sparse_categorical_crossentropy"}


def test_dictionaries_of_inputs_and_outputs():
    history = trains_alike(branching, trained(NAMED, TARGETS), loss=LOSSES)
    assert {"value_loss", "chance_loss"} <= set(history)


def test_weights_of_losses_and_metrics_of_outputs():
    trains_alike(
        branching,
        trained(NAMED, TARGETS, validation_split=0.2),
        loss=LOSSES,
        loss_weights={"value": 0.3, "chance": 2.0},
        metrics={"value": ["mae"], "chance": ["accuracy"]},
        weighted_metrics={"value": ["mse"], "chance": ["accuracy"]},
    )


def test_sample_weights_of_outputs():
    weights = {"value": WEIGHTS, "chance": WEIGHTS[::-1].copy()}
    trains_alike(
        branching,
        trained(NAMED, TARGETS, sample_weight=weights),
        loss=LOSSES,
        weighted_metrics={"value": ["mae"], "chance": ["accuracy"]},
    )


def two_heads(lib):
    x = keras.Input((4,))
    return lib.Model(
        x, [keras.layers.Dense(2, name="a")(x), keras.layers.Dense(1, name="b")(x)]
    )


def test_lists_of_outputs_losses_and_metrics():
    trains_alike(
        two_heads,
        trained(X, [Y, WEIGHTS], validation_data=(X, [Y, WEIGHTS])),
        loss=["mse", "mae"],
        loss_weights=[1.0, 0.5],
        metrics=[["mae"], ["mse"]],
    )


def two_inputs(lib):
    a, b = keras.Input((4,)), keras.Input((2,))
    return lib.Model([a, b], keras.layers.Dense(2)(keras.layers.concatenate([a, b])))


@pytest.mark.parametrize("pair", [list, tuple])
def test_lists_of_inputs(pair):
    trains_alike(two_inputs, trained(pair([X, Y]), Y))


def test_metrics_that_see_weights_and_metrics_that_do_not():
    trains_alike(
        functional,
        trained(X, Y, sample_weight=WEIGHTS, validation_data=(X, Y, WEIGHTS)),
        metrics=["mae"],
        weighted_metrics=lambda: [keras.metrics.MeanAbsoluteError(name="weighed")],
    )


def classifier(lib):
    x = keras.Input((4,))
    return lib.Model(x, keras.layers.Dense(3, activation="softmax")(x))


CROSS_ENTROPY = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}


@pytest.mark.parametrize("weights", [{0: 1.0, 1: 5.0, 2: 0.5}, {2: 3.0}])
def test_weights_of_classes(weights):
    trains_alike(classifier, trained(X, CLASSES, class_weight=weights), **CROSS_ENTROPY)


def test_weights_of_one_hot_classes():
    y = np.eye(3, dtype="float32")[CLASSES]
    how = trained(X, y, class_weight={0: 1.0, 1: 5.0, 2: 0.5})
    trains_alike(classifier, how, loss="categorical_crossentropy")


def test_weights_of_classes_do_not_weigh_validation():
    how = trained(X, CLASSES, class_weight={1: 9.0}, validation_split=0.3)
    trains_alike(classifier, how, **CROSS_ENTROPY)


@pytest.mark.parametrize("kind", ["eager", "large"])
def test_weights_of_classes_do_not_weigh_validation_in_the_loop_of_keras(
    kind, monkeypatch
):
    if kind == "large":
        monkeypatch.setattr(tv.engine.data, "is_streamed", lambda given: True)
    how = trained(X, CLASSES, class_weight={1: 9.0}, validation_split=0.3)
    trains_alike(classifier, how, **CROSS_ENTROPY, run_eagerly=True)


def test_weights_of_smoothed_classes():
    y = np.where(CLASSES == 1, 0.9, 0.1).astype("float32")[:, None]

    def binary(module):
        return module.Sequential([keras.Input(X.shape[1:]), keras.layers.Dense(1)])

    how = trained(X, y, class_weight={0: 1.0, 1: 9.0})
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    trains_alike(binary, how, loss=loss)


def test_weights_of_classes_beside_validation_data():
    how = trained(X, CLASSES, class_weight={1: 9.0}, validation_data=(X, CLASSES))
    trains_alike(classifier, how, **CROSS_ENTROPY)


def test_weights_of_classes_of_a_pipeline():
    def use(model):
        weights = {0: 1.0, 1: 9.0, 2: 0.5}
        data = pipeline(X, CLASSES)
        return trained(data, class_weight=weights, batch_size=None)(model)

    trains_alike(classifier, use, **CROSS_ENTROPY)


def test_weights_of_samples():
    trains_alike(functional, trained(X, Y, sample_weight=WEIGHTS))


def test_weights_of_samples_are_split_like_the_samples():
    trains_alike(functional, trained(X, Y, sample_weight=WEIGHTS, validation_split=0.3))


TOKENS = RNG.integers(0, 6, size=(50, 7)).astype("int32")


def tagger(lib):
    return lib.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            keras.layers.Embedding(6, 3, mask_zero=True),
            keras.layers.LSTM(4, return_sequences=True),
            keras.layers.Dense(1),
        ]
    )


def test_masks_reach_layers_losses_and_metrics():
    y = TOKENS[..., None].astype("float32")
    trains_alike(tagger, trained(TOKENS, y), weighted_metrics=["mae"])


def test_masks_and_weights_multiply():
    y = TOKENS[..., None].astype("float32")
    weights = RNG.uniform(size=TOKENS.shape).astype("float32")
    trains_alike(tagger, trained(TOKENS, y, sample_weight=weights))


def with_own_losses(lib):
    class Penalty(keras.layers.Layer):
        def call(self, x):
            self.add_loss(0.1 * keras.ops.mean(x**2))
            return x

    x = keras.Input((4,))
    h = keras.layers.Dense(6, kernel_regularizer="l2")(x)
    return lib.Model(x, keras.layers.Dense(2)(Penalty()(h)))


def test_losses_of_layers_and_regularizers_count():
    trains_alike(with_own_losses, trained(X, Y))


def test_losses_of_layers_alone_train():
    def make(lib):
        class Penalty(keras.layers.Layer):
            def call(self, x):
                self.add_loss(keras.ops.mean((x - 1.0) ** 2))
                return x

        x = keras.Input((4,))
        return lib.Model(x, Penalty()(keras.layers.Dense(2)(x)))

    trains_alike(make, trained(X), loss=None)


# Data


def pipeline(*parts, batch=BATCH, repeat=False):
    found = tf.data.Dataset.from_tensor_slices(parts).batch(batch)
    return found.repeat() if repeat else found


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return -(-len(self.x) // BATCH)

    def __getitem__(self, i):
        rows = slice(i * BATCH, (i + 1) * BATCH)
        return self.x[rows], self.y[rows]


def generator(x, y, passes=1):
    for _ in range(passes):
        for start in range(0, len(x), BATCH):
            yield x[start : start + BATCH], y[start : start + BATCH]


SOURCES = {
    "tf.data": lambda: ((pipeline(X, Y),), {}),
    "repeated tf.data": lambda: (
        (pipeline(X, Y, repeat=True),),
        {"steps_per_epoch": 5},
    ),
    "weighted tf.data": lambda: ((pipeline(X, Y, WEIGHTS),), {}),
    "PyDataset": lambda: ((Batches(X, Y),), {}),
    "generator": lambda: (
        (generator(X, Y, passes=99),),
        {"steps_per_epoch": 7},
    ),
    "steps of arrays": lambda: ((X, Y), {"steps_per_epoch": 4, "batch_size": BATCH}),
    "steps and no batch size": lambda: ((X, Y), {"steps_per_epoch": 4}),
}


@pytest.mark.filterwarnings("ignore:.*ran out of data")
@pytest.mark.parametrize(
    "source",
    slow.except_for(
        ("weighted tf.data", "PyDataset", "generator", "steps and no batch size"),
        SOURCES,
    ),
)
def test_every_source_of_data_trains_as_with_keras(source):
    def use(model):
        data, options = SOURCES[source]()
        return trained(*data, **{"batch_size": None, **options})(model)

    trains_alike(functional, use, metrics=["mae"])


def test_pipelines_of_unknown_length_train_as_others():
    found = []
    for data in (pipeline(X, Y), pipeline(X, Y).filter(lambda x, y: True)):
        keras.utils.set_random_seed(5)
        model = functional(tv)
        model.compile("adam", "mse")
        found.append((trained(data, batch_size=None)(model), model.get_weights()))
        assert int(model.optimizer.iterations) == 3 * 7  # Keras makes a step too many.
    close(*found)


def test_a_generator_that_ends_ends_training():
    model = functional(tv)
    model.compile("adam", "mse")
    with pytest.warns(UserWarning, match="has no more data"):
        history = model.fit(generator(X, Y), epochs=3, verbose=0).history
    assert len(history["loss"]) == 1
    assert int(model.optimizer.iterations) == 7


@pytest.mark.parametrize("source", ["tf.data", "weighted tf.data", "PyDataset"])
def test_every_source_of_data_evaluates_as_with_keras(source):
    (theirs, _), (ours, _) = with_both(
        functional,
        lambda model: model.evaluate(*SOURCES[source]()[0], verbose=0),
        metrics=["mae"],
        weighted_metrics=["mse"],
    )
    close(ours, theirs)


@pytest.mark.parametrize("source", ["tf.data", "weighted tf.data", "PyDataset"])
def test_every_source_of_data_predicts_as_with_keras(source):
    (theirs, _), (ours, _) = with_both(
        functional, lambda model: model.predict(SOURCES[source]()[0][0], verbose=0)
    )
    close(ours, theirs)


VALIDATION = {
    "share": lambda: {"validation_split": 0.3},
    "pair": lambda: {"validation_data": (X[:20], Y[:20])},
    "list": lambda: {"validation_data": [X[:20], Y[:20]]},
    "weights": lambda: {"validation_data": (X[:20], Y[:20], WEIGHTS[:20])},
    "batch size": lambda: {
        "validation_data": (X[:20], Y[:20]),
        "validation_batch_size": 3,
    },
    "steps of arrays": lambda: {
        "validation_data": (X, Y),
        "validation_steps": 2,
    },
    "pipeline": lambda: {"validation_data": pipeline(X[:20], Y[:20], batch=6)},
    "steps of a pipeline": lambda: {
        "validation_data": pipeline(X[:20], Y[:20], batch=6),
        "validation_steps": 2,
    },
    "repeated": lambda: {
        "validation_data": pipeline(X[:20], Y[:20], batch=6, repeat=True),
        "validation_steps": 3,
    },
    "PyDataset": lambda: {"validation_data": Batches(X[:20], Y[:20])},
    "every second epoch": lambda: {"validation_split": 0.3, "validation_freq": 2},
    "chosen epochs": lambda: {"validation_split": 0.3, "validation_freq": [1, 3]},
}


@pytest.mark.parametrize(
    "kind",
    slow.except_for(
        ("share", "weights", "batch size", "steps of a pipeline"), VALIDATION
    ),
)
def test_validation_is_that_of_keras(kind):
    def use(model):
        return trained(X, Y, epochs=4, **VALIDATION[kind]())(model)

    trains_alike(functional, use, metrics=["mae"])


def test_training_can_begin_later():
    epochs = {}

    def use(model):
        history = model.fit(X, Y, epochs=5, initial_epoch=2, verbose=0, shuffle=False)
        epochs[type(model).__name__] = history.epoch
        return history.history

    trains_alike(functional, use)
    assert list(epochs.values()) == [[2, 3, 4], [2, 3, 4]]


def test_fit_can_be_called_again():
    def use(model):
        first = trained(X, Y)(model)
        return {"first": first["loss"], **trained(X[:30], Y[:30])(model)}

    trains_alike(functional, use)


def test_shuffled_epochs_see_each_row_once():
    seen = []

    class Rows(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(logs["mean"])

    x = np.arange(24, dtype="float32")[:, None]
    inputs = keras.Input((1,))
    model = tv.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(
        keras.optimizers.SGD(0.0),
        "mse",
        metrics=[keras.metrics.MeanMetricWrapper(lambda y, p: y, name="mean")],
    )
    history = model.fit(x, x, batch_size=8, epochs=2, verbose=0, callbacks=[Rows()])
    assert history.history["mean"] == pytest.approx([11.5, 11.5])
    assert seen[0] != seen[3]


# Steps


class OwnStep:
    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.abs(self(x, training=True) - y))
        grads = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(grads, self.trainable_weights, strict=True))
        return {"mine": loss, "twice": 2 * loss}

    def test_step(self, batch):
        x, y = batch
        return {"mine": tf.reduce_mean(tf.abs(self(x, training=False) - y))}


def own_steps(lib):
    class Own(OwnStep, lib.Model):
        pass

    x = keras.Input((4,))
    return Own(x, keras.layers.Dense(2)(x))


def test_own_steps_are_run_and_logged():
    history = trains_alike(own_steps, trained(X, Y, validation_split=0.2))
    assert set(history) == {"mine", "twice", "val_mine"}


def tracked_steps(lib):
    class Own(lib.Model):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.tracker = keras.metrics.Mean(name="mine")

        @property
        def metrics(self):
            return [self.tracker]

        def train_step(self, batch):
            logs = OwnStep.train_step(self, batch)
            self.tracker.update_state(logs["mine"])
            return {"mine": self.tracker.result()}

    x = keras.Input((4,))
    return Own(x, keras.layers.Dense(2)(x))


def test_own_metrics_of_own_steps_are_reset_at_each_epoch():
    trains_alike(tracked_steps, trained(X, Y), loss=None)


def test_own_compute_loss_and_metrics():
    def make(lib):
        class Own(lib.Model):
            def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
                return 2.0 * super().compute_loss(x, y, y_pred, sample_weight)

            def compute_metrics(self, x, y, y_pred, sample_weight=None):
                logs = super().compute_metrics(x, y, y_pred, sample_weight)
                return {**logs, "own": tf.reduce_mean(y_pred)}

        x = keras.Input((4,))
        return Own(x, keras.layers.Dense(2)(x))

    assert "own" in trains_alike(make, trained(X, Y), metrics=["mae"])


@pytest.mark.parametrize("steps", slow.except_for((3, 100), (1, 3, 7, 100)))
def test_steps_per_execution_do_not_change_the_numbers(steps):
    trains_alike(functional, trained(X, Y), steps_per_execution=steps)


def test_eager_training_is_that_of_keras():
    trains_alike(functional, trained(X, Y, validation_split=0.2), run_eagerly=True)


def test_eager_training_sees_numbers_in_its_steps():
    seen = []

    class Own(tv.Model):
        def train_step(self, batch):
            seen.append(batch[0].numpy().shape)
            return super().train_step(batch)

    x = keras.Input((4,))
    model = Own(x, keras.layers.Dense(2)(x))
    model.compile("adam", "mse", run_eagerly=True)
    model.fit(X, Y, batch_size=25, verbose=0)
    assert seen == [(25, 4), (25, 4)]


def test_xla_gives_the_numbers_of_keras():
    trains_alike(functional, trained(X, Y, validation_split=0.2), jit_compile=True)


def test_train_on_batch():
    def use(model):
        logs = [
            model.train_on_batch(X, Y, return_dict=True, sample_weight=WEIGHTS)
            for _ in range(3)
        ]
        return {name: [log[name] for log in logs] for name in logs[0]}

    trains_alike(functional, use, metrics=["mae"])


def test_test_on_batch():
    (theirs, _), (ours, _) = with_both(
        functional, lambda model: model.test_on_batch(X, Y), metrics=["mae"]
    )
    close(ours, theirs)


def test_predict_on_batch():
    (theirs, _), (ours, _) = with_both(
        functional, lambda model: model.predict_on_batch(X)
    )
    close(ours, theirs)


def test_train_on_batch_after_fit():
    def use(model):
        history = trained(X, Y)(model)
        model.reset_metrics()
        return {**history, "after": [model.train_on_batch(X, Y)]}

    trains_alike(functional, use)


def test_gradients_can_be_accumulated():
    trains_alike(
        functional,
        trained(X, Y),
        optimizer=lambda: keras.optimizers.Adam(gradient_accumulation_steps=3),
    )


def test_weights_can_be_averaged():
    trains_alike(
        functional,
        trained(X, Y),
        optimizer=lambda: keras.optimizers.Adam(use_ema=True, ema_momentum=0.9),
    )


def test_learning_rates_can_follow_a_schedule():
    trains_alike(
        functional,
        trained(X, Y),
        optimizer=lambda: keras.optimizers.SGD(
            keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
        ),
    )


# What evaluate returns

ASKED = {
    "loss": (functional, Y, {"loss": "mse"}),
    "metrics": (functional, Y, {"loss": "mse", "metrics": ["mae", "mape"]}),
    "both kinds of metrics": (
        functional,
        Y,
        {"loss": "mse", "weighted_metrics": ["mae"], "metrics": ["mape"]},
    ),
    "outputs": (two_heads, [Y, WEIGHTS], {"loss": ["mse", "mae"]}),
    "metrics of outputs": (
        two_heads,
        [Y, WEIGHTS],
        {"loss": ["mse", "mae"], "metrics": [["mae"], ["mse", "mape"]]},
    ),
}


@pytest.mark.parametrize("return_dict", [False, True])
@pytest.mark.parametrize("asked", ASKED)
def test_evaluate_returns_what_keras_returns(asked, return_dict):
    make, y, options = ASKED[asked]
    (theirs, _), (ours, _) = with_both(
        make,
        lambda m: m.evaluate(X, y, verbose=0, batch_size=8, return_dict=return_dict),
        **options,
    )
    assert type(ours) is type(theirs)
    close(ours, theirs)


def test_evaluate_returns_what_keras_returns_for_dictionaries():
    (theirs, _), (ours, _) = with_both(
        branching,
        lambda m: m.evaluate(NAMED, TARGETS, verbose=0),
        loss=LOSSES,
        metrics={"value": ["mae"], "chance": ["accuracy"]},
    )
    close(ours, theirs)


def test_evaluate_returns_what_keras_returns_for_own_logs():
    (theirs, _), (ours, _) = with_both(own_steps, lambda m: m.evaluate(X, Y, verbose=0))
    close(ours, theirs)


def test_evaluate_weighs_and_counts_steps():
    (theirs, _), (ours, _) = with_both(
        functional,
        lambda m: m.evaluate(X, Y, sample_weight=WEIGHTS, steps=3, verbose=0),
        weighted_metrics=["mae"],
    )
    close(ours, theirs)


def test_evaluate_calls_callbacks_as_keras_does():
    (theirs, _), (ours, _) = with_both(
        functional, lambda m: calls_of(m.evaluate, steps_per_execution=1)
    )
    assert ours == theirs


# Callbacks


class Calls(keras.callbacks.Callback):
    """Writes down when it is called, and for what."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __getattribute__(self, name):
        if not name.startswith("on_"):
            return super().__getattribute__(name)

        def noted(*args, **kwargs):
            args = [a for a in (*args, *kwargs.values()) if a is not None]
            self.calls.append(
                (name, *[sorted(a) if isinstance(a, dict) else int(a) for a in args])
            )

        return noted


def calls_of(method, **options):
    callback = Calls()
    options.pop("steps_per_execution", None)
    method(X, Y, verbose=0, callbacks=[callback], batch_size=BATCH, **options)
    return callback.calls


def test_callbacks_are_called_as_by_keras():
    (theirs, _), (ours, _) = with_both(
        functional,
        lambda m: calls_of(m.fit, epochs=2, validation_split=0.3),
        metrics=["mae"],
    )
    assert ours == theirs


def test_callbacks_are_told_the_sizes():
    def use(model):
        callback = keras.callbacks.Callback()
        model.fit(X, Y, epochs=2, verbose=0, batch_size=BATCH, callbacks=[callback])
        return callback.params

    (theirs, _), (ours, _) = with_both(functional, use)
    assert ours == theirs


def test_early_stopping():
    def use(model):
        stop = keras.callbacks.EarlyStopping(
            "loss", min_delta=0.2, patience=1, restore_best_weights=True
        )
        return trained(X, Y, epochs=30, callbacks=[stop])(model)

    assert len(trains_alike(functional, use)["loss"]) < 30


def test_a_learning_rate_falls_on_a_plateau():
    def use(model):
        fall = keras.callbacks.ReduceLROnPlateau(
            "loss", factor=0.5, min_delta=0.1, patience=1
        )
        return trained(X, Y, epochs=8, callbacks=[fall])(model)

    rates = trains_alike(functional, use)["learning_rate"]
    assert rates[-1] < rates[0]


def test_a_learning_rate_scheduler():
    def use(model):
        slow = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1 / (1 + epoch))
        return trained(X, Y, callbacks=[slow])(model)

    trains_alike(functional, use, optimizer="sgd")


def test_a_lambda_callback_is_called_at_every_step():
    def use(model):
        seen = []
        callback = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: seen.append((batch, logs["loss"]))
        )
        history = trained(X, Y, epochs=1, callbacks=[callback])(model)
        return {"batch": [s[0] for s in seen], "at": [s[1] for s in seen], **history}

    history = trains_alike(functional, use)
    assert history["batch"] == list(range(7))


def test_a_callback_of_another_is_called_at_every_step():
    seen = []

    class Mine(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)

    model = functional(tv)
    model.compile("adam", "mse")
    model.fit(X, Y, batch_size=BATCH, verbose=0, callbacks=[Mine()])
    assert seen == list(range(7))


def test_a_csv_log(tmp_path):
    def use(model):
        path = tmp_path / f"{type(model).__module__}.csv"
        log = keras.callbacks.CSVLogger(path)
        trained(X, Y, validation_split=0.2, callbacks=[log])(model)
        with path.open() as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) for row in rows] for name in rows[0]}

    trains_alike(functional, use, metrics=["mae"])


def test_checkpoints_of_the_best_model(tmp_path):
    model = functional(tv)
    model.compile("adam", "mse")
    path = tmp_path / "best.keras"
    save = keras.callbacks.ModelCheckpoint(path, "loss", save_best_only=True)
    history = model.fit(X, Y, epochs=4, verbose=0, callbacks=[save])
    assert history.history["loss"][-1] == min(history.history["loss"])
    close(keras.models.load_model(path).get_weights(), model.get_weights())


def test_checkpoints_of_weights_between_batches(tmp_path):
    def use(model):
        path = tmp_path / f"{type(model).__module__}.weights.h5"
        save = keras.callbacks.ModelCheckpoint(
            path, save_weights_only=True, save_freq=3
        )
        history = trained(X, Y, epochs=1, callbacks=[save])(model)
        model.load_weights(path)
        return history

    trains_alike(functional, use)


@pytest.mark.parametrize("save_freq", [1, 2, 5])
def test_as_many_checkpoints_of_weights_as_in_keras(save_freq, tmp_path):
    counts = []
    for module in (keras, tv):
        path = tmp_path / module.__name__
        path.mkdir()
        save = keras.callbacks.ModelCheckpoint(
            path / "{epoch}-{batch}.weights.h5",
            save_weights_only=True,
            save_freq=save_freq,
        )
        model = functional(module)
        model.compile("sgd", "mse")
        model.fit(X, Y, batch_size=len(X) // 10, verbose=0, callbacks=[save])
        counts.append(len(list(path.iterdir())))
    assert counts[0] == counts[1] > 1


def test_a_single_checkpoint_saves_as_often_as_one_in_a_list(tmp_path):
    saves = []

    class Counting(tv.Checkpoint):
        def _save(self, *given):
            saves[-1] += 1
            super()._save(*given)

    for several in (True, False):
        saves.append(0)
        callback = Counting(tmp_path / f"{several}.weights.h5", save_freq=2)
        model = functional(tv)
        model.compile("sgd", "mse")
        callbacks = [callback] if several else callback
        model.fit(X, Y, batch_size=len(X) // 10, verbose=0, callbacks=callbacks)
    assert saves[0] == saves[1] > 3


def test_a_generator_that_validates_once_warns_of_it():
    def batches():
        yield X, Y

    model = functional(tv)
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match="evaluation has no results: its pipeline"):
        history = model.fit(X, Y, epochs=2, validation_data=batches(), verbose=0)
    assert len(history.history["val_loss"]) == 1


def test_training_stops_in_the_middle_of_an_epoch():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 2

    def use(model):
        return trained(X, Y, callbacks=[Stop()])(model)

    trains_alike(functional, use)


def test_a_killed_training_is_resumed(tmp_path):
    class Kill(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def use(model):
        backup = keras.callbacks.BackupAndRestore(tmp_path / type(model).__module__)
        model.compile("adam", "mse")
        with pytest.raises(KeyboardInterrupt):
            trained(X, Y, epochs=6, callbacks=[backup, Kill()])(model)
        return trained(X, Y, epochs=6, callbacks=[backup])(model)

    assert len(trains_alike(functional, use)["loss"]) == 3


def test_a_training_that_was_resumed_was_that_of_one_go(tmp_path):
    class Kill(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    def made():
        keras.utils.set_random_seed(9)
        model = functional(tv)
        model.compile("adam", "mse")
        return model

    whole = made().fit(X, Y, epochs=6, verbose=0).history["loss"]
    model = made()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        model.fit(X, Y, epochs=6, verbose=0, callbacks=[backup, Kill()])
    model = made()
    rest = model.fit(X, Y, epochs=6, verbose=0, callbacks=[backup]).history["loss"]
    assert rest == whole[-len(rest) :]


def test_models_answer_inside_callbacks():
    answers = []

    class Ask(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            answers.append(self.model.predict(X, verbose=0).shape)

        def on_epoch_end(self, epoch, logs=None):
            answers.append(self.model.evaluate(X, Y, verbose=0))

    def use(model):
        return trained(X, Y, callbacks=[Ask()])(model)

    trains_alike(functional, use)


def test_a_tensorboard_is_written(tmp_path):
    model = functional(tv)
    model.compile("adam", "mse")
    board = keras.callbacks.TensorBoard(tmp_path, update_freq="epoch")
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[board], validation_split=0.2)
    assert list((tmp_path / "train").iterdir())


# Switches after compile


def test_xla_can_be_switched_off_after_compile():
    model = functional(tv)
    model.compile("adam", "mse", jit_compile=True)
    model.fit(X, Y, verbose=0)
    model.jit_compile = False
    assert model.jit_compile is False
    assert model.get_compile_config()["jit_compile"] is False
    model.fit(X, Y, verbose=0)
    assert not model._functions.compiler.jit_compile


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("before", [False, True, "auto"])
def test_what_is_asked_of_xla_after_compile_holds(before, value):
    model = functional(tv)
    model.compile("adam", "mse", jit_compile=before)
    model.jit_compile = value
    assert model.get_compile_config()["jit_compile"] is value


@pytest.mark.parametrize("value", [1, 2, "auto"])
@pytest.mark.parametrize("before", [1, 2, "auto"])
def test_steps_that_are_asked_for_after_compile_hold(before, value):
    model = functional(tv)
    model.compile("adam", "mse", steps_per_execution=before)
    model.steps_per_execution = value
    assert model.get_compile_config().get("steps_per_execution", "auto") == value


@pytest.mark.parametrize("make", [functional, lambda tv: small_vae()])
def test_one_step_per_execution_can_be_asked_for_after_compile(make):
    seen = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(batch)
    )
    callback.steps_per_execution = None
    model = make(tv)
    is_vae = isinstance(model, tv.VAE)
    model.compile("adam", None if is_vae else "mse")
    given = (X,) if is_vae else (X, Y)
    model.fit(*given, batch_size=BATCH, verbose=0, callbacks=[callback])
    assert seen == [5, 6]
    model.steps_per_execution = 1
    assert model.steps_per_execution == 1
    model.fit(*given, batch_size=BATCH, verbose=0, callbacks=[callback])
    assert seen[2:] == list(range(7))


def test_another_compile_starts_anew():
    def use(model):
        first = trained(X, Y)(model)
        model.compile("sgd", "mae", metrics=["mse"])
        return {**trained(X, Y)(model), "first": first["loss"]}

    trains_alike(functional, use)


# Saving


SAVED = {name: KINDS[name] for name in ("functional", "built", "subclassed", "nested")}


def fitted(make):
    model = make(tv)
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(X, Y, verbose=0)
    return model


@pytest.mark.parametrize("kind", SAVED)
def test_a_saved_model_is_loaded_in_safe_mode(kind, tmp_path):
    model = fitted(SAVED[kind])
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert type(again) is type(model)
    close(again.predict(X, verbose=0), model.predict(X, verbose=0))
    assert again.evaluate(X, Y, verbose=0) == pytest.approx(
        model.evaluate(X, Y, verbose=0)
    )


@pytest.mark.parametrize("kind", slow.except_for(("nested", "subclassed"), SAVED))
def test_a_loaded_model_goes_on_training_where_it_was(kind, tmp_path):
    model = fitted(SAVED[kind])
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert int(again.optimizer.iterations) == int(model.optimizer.iterations)
    close(trained(X, Y)(again), trained(X, Y)(model))


def config_in(path):
    with zipfile.ZipFile(path) as file:
        return json.loads(file.read("config.json"))


def test_the_config_of_a_functional_model_stays_functional(tmp_path):
    fitted(functional).save(tmp_path / "ours.keras")
    plain = functional(KERAS)
    plain.compile("adam", "mse", metrics=["mae"])
    plain.save(tmp_path / "theirs.keras")
    ours = config_in(tmp_path / "ours.keras")["config"]
    assert set(ours) == set(config_in(tmp_path / "theirs.keras")["config"])
    assert len(ours["layers"]) == 3


@pytest.mark.parametrize("kind", ["functional", "built"])
def test_what_compile_chose_by_itself_stays_open(kind, tmp_path):
    fitted(SAVED[kind]).save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    config = again.get_compile_config()
    assert config["jit_compile"] == "auto"
    assert "steps_per_execution" not in config


@pytest.mark.parametrize("kind", ["functional", "built"])
def test_settings_of_compile_come_back(kind, tmp_path):
    model = SAVED[kind](tv)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.MeanSquaredError(reduction="sum"),
        metrics=["mae"],
        weighted_metrics=["mse"],
        jit_compile=False,
        steps_per_execution=3,
    )
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    config = again.get_compile_config()
    assert (config["jit_compile"], config["steps_per_execution"]) == (False, 3)
    assert again.steps_per_execution == 3
    assert again.loss.reduction == "sum"
    assert float(again.optimizer.momentum) == 0.9
    close(trained(X, Y)(again), trained(X, Y)(model))


@pytest.mark.parametrize(
    "kind",
    slow.except_for(("subclassed",), ["functional", "built", "nested", "subclassed"]),
)
def test_models_are_copied_deeply(kind):
    model = fitted(SAVED[kind])
    again = copy.deepcopy(model)
    close(again.get_weights(), model.get_weights())
    close(trained(X, Y)(again), trained(X, Y)(model))


@pytest.mark.parametrize(
    "kind",
    slow.except_for(("nested",), ["functional", "built", "nested", "subclassed"]),
)
def test_models_are_pickled(kind):
    model = fitted(SAVED[kind])
    again = pickle.loads(pickle.dumps(model))
    assert type(again) is type(model)
    close(trained(X, Y)(again), trained(X, Y)(model))


@pytest.mark.parametrize("kind", ["functional", "nested"])
def test_models_are_cloned(kind):
    model = fitted(SAVED[kind])
    again = keras.models.clone_model(model)
    assert isinstance(again, tv.Model)
    again.set_weights(model.get_weights())
    close(again.predict(X, verbose=0), model.predict(X, verbose=0))
    assert "steps_per_execution" not in again.get_compile_config()
    assert np.isfinite(trained(X, Y)(again)["loss"]).all()


def test_the_clone_of_a_sequential_trains():
    model = fitted(built)
    again = keras.models.clone_model(model)  # Keras makes one of its own.
    again.set_weights(model.get_weights())
    close(again.predict(X, verbose=0), model.predict(X, verbose=0))
    assert np.isfinite(trained(X, Y)(again)["loss"]).all()


TEXTS = np.array(["a", "b"] * 25)


def test_texts_train_as_with_keras():
    texts = tf.constant(TEXTS)

    def make(lib):
        x = keras.Input((), dtype="string")
        words = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")
        return lib.Model(x, keras.layers.Dense(2)(words(x)))

    trains_alike(make, trained(texts, Y))


FED = {
    "x": lambda: (X,),
    "x and y": lambda: (X, Y),
    "x, y and weights": lambda: (X, Y, WEIGHTS),
    "pipeline of x": lambda: (pipeline(X),),
    "pipeline of x and y": lambda: (pipeline(X, Y),),
    "pipeline of x, y and weights": lambda: (pipeline(X, Y, WEIGHTS),),
}


@pytest.mark.parametrize("fed", FED)
def test_the_batch_of_a_step_is_that_of_keras(fed):
    def make(lib):
        class Own(lib.Model):
            def train_step(self, batch):
                kinds = keras.tree.map_structure(tf.is_tensor, batch)
                seen.append(str(kinds))
                return {"loss": tf.constant(0.0)}

            test_step = train_step

        x = keras.Input((4,))
        return Own(x, keras.layers.Dense(2)(x))

    found = []
    for lib in (KERAS, tv):
        seen = []
        model = make(lib)
        model.compile("sgd")
        x, y, weights = (*FED[fed](), None, None)[:3]
        model.fit(x, y, sample_weight=weights, verbose=0, shuffle=False)
        model.evaluate(x, y, sample_weight=weights, verbose=0)
        found.append(set(seen))
    assert found[1] == found[0]


@pytest.mark.parametrize("kind", ["functional", "built", "nested", "subclassed"])
def test_models_are_made_from_their_config(kind):
    model = SAVED[kind](tv)
    again = type(model).from_config(model.get_config())
    assert type(again) is type(model)
    assert again(X).shape == (50, 2)


def test_a_model_is_made_from_the_config_of_a_functional_one():
    again = tv.Model.from_config(functional(tv).get_config())
    assert isinstance(again, tv.Model)
    assert again(X).shape == (50, 2)


@pytest.mark.parametrize("kind", ["functional", "built", "nested"])
def test_models_are_written_as_json(kind):
    model = SAVED[kind](tv)
    again = keras.models.model_from_json(model.to_json())
    assert type(again) is type(model)
    again.set_weights(model.get_weights())
    close(again(X), model(X))


@pytest.mark.parametrize("kind", ["functional", "built", "nested", "subclassed"])
def test_models_are_exported(kind, tmp_path):
    model = fitted(SAVED[kind])
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(tmp_path / "served")
    close(served.serve(X), model(X))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["to ours", "to Keras"])
def test_files_of_weights_pass_between_keras_and_ours(kind, way, tmp_path):
    libs = (KERAS, tv) if way == "to ours" else (tv, KERAS)
    source, target = (KINDS[kind](lib) for lib in libs)
    source(X), target(X)
    source.save_weights(tmp_path / "w.weights.h5")
    target.load_weights(tmp_path / "w.weights.h5")
    close(target.get_weights(), source.get_weights())


def test_files_of_weights_carry_the_optimizer_between_keras_and_ours(tmp_path):
    (_, plain), (_, fast) = with_both(functional, lambda model: None)
    plain.fit(X, Y, verbose=0)
    plain.save_weights(tmp_path / "w.weights.h5")
    fast.fit(X, Y, verbose=0)
    fast.load_weights(tmp_path / "w.weights.h5")
    close(trained(X, Y)(fast), trained(X, Y)(plain))


def test_a_model_that_was_not_trained_loads_the_optimizer(tmp_path):
    trained_one, new = functional(tv), functional(tv)
    for model in (trained_one, new):
        model.compile("adam", "mse")
    trained_one.fit(X, Y, verbose=0)
    trained_one.save_weights(tmp_path / "w.weights.h5")
    new.load_weights(tmp_path / "w.weights.h5")  # Keras would warn, and skip it.
    close(
        [v.numpy() for v in new.optimizer.variables],
        [v.numpy() for v in trained_one.optimizer.variables],
    )


def test_the_file_of_a_model_that_was_not_trained_builds_no_optimizer(tmp_path):
    source, new = functional(tv), functional(tv)
    for model in (source, new):
        model.compile("adam", "mse")
    source.save_weights(tmp_path / "w.weights.h5")
    new.load_weights(tmp_path / "w.weights.h5")
    assert not new.optimizer.built
    close(new.get_weights(), source.get_weights())


@pytest.mark.filterwarnings("ignore:Skipping variable loading")  # Keras' own
def test_the_file_of_a_model_without_an_optimizer_builds_none(tmp_path):
    source, new = functional(tv), functional(tv)
    new.compile("adam", "mse")
    source.save_weights(tmp_path / "w.weights.h5")
    new.load_weights(tmp_path / "w.weights.h5")
    assert not new.optimizer.built


def saved_by_adam(tmp_path):
    model = functional(tv)
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    model.save_weights(tmp_path / "w.weights.h5")
    return tmp_path / "w.weights.h5"


def test_loaded_weights_leave_the_learning_rate_of_compile(tmp_path):
    new = functional(tv)
    new.compile(keras.optimizers.Adam(1e-5), "mse")
    new.load_weights(saved_by_adam(tmp_path))
    assert int(new.optimizer.iterations) > 0
    assert float(new.optimizer.learning_rate) == pytest.approx(1e-5)


@pytest.mark.filterwarnings("ignore:Skipping variable loading")  # Keras' own
def test_variables_of_other_shapes_leave_the_optimizer_new(tmp_path):
    new = functional(tv)
    new.compile(keras.optimizers.Adam(amsgrad=True), "mse")
    new.load_weights(saved_by_adam(tmp_path))
    assert not new.optimizer.built


@pytest.mark.filterwarnings("ignore:Skipping variable loading")  # Keras' own
@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "loss scale"])
def test_an_optimizer_with_variables_of_the_same_shapes_is_another(tmp_path, wrapped):
    def compiled(optimizer):
        model = functional(tv)
        scaled = (
            keras.optimizers.LossScaleOptimizer(optimizer) if wrapped else optimizer
        )
        model.compile(scaled, "mse")
        return model

    old = compiled(keras.optimizers.SGD(0.1, momentum=0.9))
    old.fit(X, Y, verbose=0)
    old.save_weights(tmp_path / "w.weights.h5")
    new = compiled(keras.optimizers.RMSprop())
    with pytest.warns(UserWarning, match="but not the optimizer: the file has .*SGD"):
        new.load_weights(tmp_path / "w.weights.h5")
    assert not new.optimizer.built
    assert np.isfinite(new.fit(X, Y, verbose=0).history["loss"]).all()
    # One that is built keeps what it has.
    before = [v.numpy() for v in new.optimizer.variables]
    with pytest.warns(UserWarning, match="but not the optimizer: the file has .*SGD"):
        new.load_weights(tmp_path / "w.weights.h5")
    close(new.get_weights(), old.get_weights())
    close([v.numpy() for v in new.optimizer.variables], before)
    same = compiled(keras.optimizers.SGD(0.1, momentum=0.9))
    same.load_weights(tmp_path / "w.weights.h5")
    close(
        [v.numpy() for v in same.optimizer.variables][2:],
        [v.numpy() for v in old.optimizer.variables][2:],
    )


class Falling(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule without a config, as in many tutorials."""

    def __call__(self, step):
        return 0.1 / (1 + keras.ops.cast(step, "float32"))


@pytest.mark.filterwarnings("ignore:Skipping variable loading")  # Keras' own
@pytest.mark.parametrize("rate", [Falling(), lambda: 1e-3], ids=["class", "lambda"])
def test_weights_load_beside_an_optimizer_without_a_config(tmp_path, rate):
    models = [functional(tv), functional(tv)]
    for model in models:
        model.compile(keras.optimizers.Adam(rate), "mse")
    models[0].fit(X, Y, verbose=0)
    models[0].save_weights(tmp_path / "w.weights.h5")
    models[1].load_weights(tmp_path / "w.weights.h5")
    close(models[1].get_weights(), models[0].get_weights())
    models[1].fit(X, Y, verbose=0)


class Scaled(tv.Model):
    """A layer that is built in the first call, and a weight that `build` makes."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return self.scale * self.dense(x)


class WithTemperature(Scaled):
    """A step that also trains a variable that Keras does not track."""

    def __init__(self):
        super().__init__()
        self.temperature = tf.Variable(1.0)

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((self(x) * self.temperature - y) ** 2)
        variables = [*self.trainable_variables, self.temperature]
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"error": loss}


@pytest.mark.parametrize("callback", [None, tv.NaNGuard, tv.Checkpoint])
@pytest.mark.parametrize("kind", [Scaled, WithTemperature])
def test_the_first_step_builds_an_optimizer_of_more_variables(kind, callback, tmp_path):
    given = {
        tv.NaNGuard: tv.NaNGuard,
        tv.Checkpoint: lambda: callback(tmp_path / "c.weights.h5"),
    }
    callbacks = [given[callback]()] if callback else []
    model = kind()
    model.build((None, 4))
    if kind is WithTemperature:
        model(X)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    found = model.fit(X, Y, epochs=9, callbacks=callbacks, verbose=0).history
    assert model.optimizer.built
    losses = found["error" if kind is WithTemperature else "loss"]
    assert losses[-1] < losses[0]
    if kind is WithTemperature:
        assert float(model.temperature) != 1


class CallsSuper(Scaled):
    """A step that trains what Keras tracks."""

    def train_step(self, batch):
        return super().train_step(batch)


@pytest.mark.parametrize("kind", [CallsSuper, WithTemperature])
def test_a_checkpoint_resumes_a_step_of_the_user_or_says_why_not(kind, tmp_path):
    def trained(epochs):
        model = kind()
        model.build((None, 4))
        model(X)
        model.compile("adam", "mse")
        kept = tv.Checkpoint(tmp_path / "c.weights.h5", delete_checkpoint=False)
        model.fit(X, Y, epochs=epochs, callbacks=[kept], verbose=0)
        return model

    first = trained(2)
    if kind is WithTemperature:
        with pytest.raises(ValueError, match="does not know what it will train"):
            trained(3)
    else:
        steps = int(first.optimizer.iterations)
        assert int(trained(3).optimizer.iterations) == steps * 3 // 2


def test_a_checkpoint_of_another_optimizer_is_an_error(tmp_path):
    path = tmp_path / "c.weights.h5"
    for optimizer in (keras.optimizers.SGD(0.1, momentum=0.9), "rmsprop"):
        model = functional(tv)
        model.compile(optimizer, "mse")
        kept = tv.Checkpoint(path, delete_checkpoint=False)
        if optimizer == "rmsprop":
            with pytest.raises(ValueError, match="of the interrupted run. Received"):
                model.fit(X, Y, callbacks=[kept], verbose=0)
        else:
            model.fit(X, Y, callbacks=[kept], verbose=0)


def test_epochs_may_be_as_many_as_one_likes():
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    model = functional(tv)
    model.compile("sgd", "mse")
    how = {"validation_data": (X, Y), "validation_freq": 2, "callbacks": [Stop()]}
    found = model.fit(X, Y, epochs=10**12, verbose=0, **how).history
    assert (len(found["loss"]), len(found["val_loss"])) == (3, 1)
    with pytest.raises(ValueError, match="`validation_freq` to be a positive integer"):
        model.fit(X, Y, validation_freq=0, verbose=0)


@pytest.mark.filterwarnings("ignore:Skipping variable loading")  # Keras' own
def test_layers_that_were_frozen_while_weights_were_loaded_can_be_trained(tmp_path):
    new = functional(tv)
    new.compile("adam", "mse")
    path = saved_by_adam(tmp_path)
    layer = next(layer for layer in new.layers if layer.trainable_weights)
    layer.trainable = False
    new.load_weights(path)
    layer.trainable = True
    new.fit(X, Y, verbose=0)


@pytest.mark.filterwarnings("ignore:Skipping variable loading")  # Keras' own
def test_skipping_mismatches_leaves_the_optimizer_new(tmp_path):
    new = functional(tv)
    new.compile("adam", "mse")
    new.load_weights(saved_by_adam(tmp_path), skip_mismatch=True)
    assert not new.optimizer.built


def test_a_folder_has_the_random_states_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layers = [keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(2)]
    model = tv.Sequential(layers)
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    model.save("folder", zipped=False)
    assert (tmp_path / "folder" / "assets" / "random_states.json").exists()
    loaded = keras.saving.load_model("folder")
    close(loaded(X, training=True), model(X, training=True))


def test_weights_pass_as_arrays():
    fast, plain = nested(tv), nested(KERAS)
    fast.set_weights(plain.get_weights())
    close(fast(X), plain(X))
    plain.set_weights(fast.get_weights())


def test_a_summary_shows_the_layers(capsys):
    built(tv).summary()
    ours = capsys.readouterr().out
    assert "Dense" in ours
    assert "44" in ours


def test_a_whole_model_in_h5_is_refused(tmp_path):
    model = fitted(functional)
    with pytest.raises(ValueError, match=r"expects.*Received.*h5.*\.keras"):
        model.save(tmp_path / "m.h5")
    model.save_weights(tmp_path / "m.weights.h5")


def test_a_part_of_a_model_is_a_model():
    model = fitted(functional)
    part = tv.Model(model.inputs, model.layers[1].output)
    close(part.predict(X, verbose=0), model.layers[1](X))


def test_models_of_both_libraries_nest():
    x = keras.Input((4,))
    model = tv.Model(x, keras.layers.Dense(2)(built(KERAS)(x)))
    model.compile("adam", "mse")
    model.fit(X, Y, verbose=0)
    x = keras.Input((4,))
    outer = keras.Model(x, keras.layers.Dense(2)(model(x)))
    outer.compile("adam", "mse")
    outer.fit(X, Y, verbose=0)
    assert outer.predict(X, verbose=0).shape == (50, 2)


# Plain functions as losses of distributions


def nll(y, p):
    return -p.log_prob(y)


def law(make, units, dtype=None, events=(4,)):
    x = keras.Input(events, dtype=dtype)
    h = keras.layers.Dense(units, dtype=dtype)(x)
    return tv.Model(x, tv.DistributionLambda(make, dtype=dtype)(h))


def series():
    x = keras.Input((7, 4))
    return tv.Model(x, tv.IndependentNormal(1)(keras.layers.Dense(2)(x)))


def one(x):
    return x[..., 0]


STEPS = RNG.normal(size=(50, 7, 4)).astype("float32")
LAWS = {
    "categorical": (
        lambda: law(lambda h: tfd.Categorical(logits=h), 3),
        X,
        CLASSES,
        lambda y: y,
    ),
    "categorical column": (
        lambda: law(lambda h: tfd.Categorical(logits=h), 3),
        X,
        CLASSES[:, None],
        one,
    ),
    "bernoulli": (
        lambda: law(lambda h: tfd.Bernoulli(logits=h[:, 0]), 1),
        X,
        CLASSES % 2,
        lambda y: y,
    ),
    "bernoulli of floats": (
        lambda: law(lambda h: tfd.Bernoulli(logits=h[:, 0]), 1),
        X,
        (CLASSES % 2).astype("float32")[:, None],
        one,
    ),
    "independent bernoulli": (
        lambda: law(lambda h: tfd.Independent(tfd.Bernoulli(logits=h), 1), 2),
        X,
        (Y > 0).astype("int32"),
        lambda y: y,
    ),
    "one-hot categorical": (
        lambda: law(lambda h: tfd.OneHotCategorical(logits=h), 3),
        X,
        np.eye(3, dtype="float32")[CLASSES],
        lambda y: y,
    ),
    "float64": (
        lambda: law(
            lambda h: tfd.Independent(tfd.Normal(h[:, :2], tf.exp(h[:, 2:])), 1),
            4,
            "float64",
        ),
        X.astype("float64"),
        Y.astype("float64"),
        lambda y: tf.cast(y, "float64"),
    ),
    "float64 and targets of float32": (
        lambda: law(
            lambda h: tfd.Normal(h[:, 0], tf.exp(h[:, 1])),
            2,
            "float64",
        ),
        X,
        Y[:, 0],
        lambda y: tf.cast(y, "float64"),
    ),
    "scalar normal and a column": (
        lambda: law(lambda h: tfd.Normal(h[:, 0], tf.exp(h[:, 1])), 2),
        X,
        Y[:, :1],
        one,
    ),
    "vector normal of one": (
        lambda: law(
            lambda h: tfd.Independent(tfd.Normal(h[:, :1], tf.exp(h[:, 1:])), 1), 2
        ),
        X,
        Y[:, 0],
        lambda y: y[..., None],
    ),
    "per step": (series, STEPS, STEPS[..., 0], lambda y: y[..., None]),
    "per step, of rank three": (series, STEPS, STEPS[..., :1], lambda y: y),
}


def of_bare(model, x, y, fitting):
    """log_prob of the bare distribution, of the values in its own shape."""
    p = model(x).tensor_distribution
    return p.log_prob(tf.cast(fitting(y), p.dtype)).numpy()


@pytest.mark.parametrize("kind", LAWS)
def test_a_plain_loss_keeps_its_distribution(kind):
    make, x, y, fitting = LAWS[kind]
    model = make()
    model.compile("adam", loss=lambda y, p: -p.log_prob(y))
    expected = -of_bare(model, x, y, fitting).mean()
    assert model.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-5)
    history = model.fit(x, y, verbose=0, epochs=2, batch_size=BATCH)
    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize("kind", LAWS)
def test_a_plain_loss_is_weighed(kind):
    make, x, y, fitting = LAWS[kind]
    model = make()
    model.compile("adam", loss=nll)
    values = of_bare(model, x, y, fitting)
    weights = WEIGHTS.reshape(-1, *[1] * (values.ndim - 1))
    expected = -(values * weights).sum() / values.size
    found = model.evaluate(x, y, sample_weight=WEIGHTS, verbose=0)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["categorical", "float64", "per step"])
def test_a_plain_loss_trains_eagerly_as_in_a_program(kind):
    make, x, y, _ = LAWS[kind]
    found = []
    for eager in (False, True):
        keras.utils.set_random_seed(2)
        model = make()
        model.compile("sgd", loss=nll, run_eagerly=eager)
        found.append(model.fit(x, y, verbose=0, shuffle=False).history["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("kind", ["categorical", "per step"])
def test_a_plain_loss_lowers_in_training(kind):
    make, x, y, _ = LAWS[kind]
    model = make()
    model.compile(keras.optimizers.Adam(0.05), loss=nll)
    losses = model.fit(x, y, verbose=0, epochs=20).history["loss"]
    assert losses[-1] < losses[0]


def test_a_plain_loss_of_tensors_is_that_of_keras():
    trains_alike(
        functional,
        trained(X, Y, sample_weight=WEIGHTS),
        loss=lambda: lambda y, p: tf.reduce_mean(tf.abs(y - p), axis=-1),
    )


def test_a_plain_loss_of_classes_is_that_of_keras():
    trains_alike(
        classifier,
        trained(X, CLASSES),
        loss=lambda: lambda y, p: keras.losses.sparse_categorical_crossentropy(y, p),
    )


def test_a_plain_loss_of_squeezed_outputs_is_that_of_keras():
    def make(lib):
        x = keras.Input((4,))
        return lib.Model(x, keras.layers.Dense(1)(x))

    trains_alike(
        make, trained(X, WEIGHTS), loss=lambda: lambda y, p: keras.ops.square(y - p)
    )


def test_a_plain_loss_of_masked_outputs_is_that_of_keras():
    y = TOKENS[..., None].astype("float32")
    trains_alike(
        tagger,
        trained(TOKENS, y),
        loss=lambda: lambda y, p: tf.reduce_mean((y - p) ** 2, axis=-1),
    )


def test_plain_losses_of_several_outputs():
    x = keras.Input((4,))
    h = keras.layers.Dense(3)(x)
    model = tv.Model(
        x,
        {
            "class": tv.DistributionLambda(
                lambda h: tfd.Categorical(logits=h), name="class"
            )(h),
            "value": tv.IndependentNormal(1, name="value")(keras.layers.Dense(2)(h)),
        },
    )
    model.compile("adam", loss={"class": nll, "value": nll})
    p = model(X)
    expected = -sum(
        np.mean(p[name].log_prob(y))
        for name, y in {"class": CLASSES, "value": Y[:, :1]}.items()
    )
    logs = model.evaluate(
        X, {"class": CLASSES, "value": Y[:, 0]}, verbose=0, return_dict=True
    )
    assert logs["loss"] == pytest.approx(expected, rel=1e-5)
    model.fit(X, {"class": CLASSES, "value": Y[:, 0]}, verbose=0)


def test_a_registered_loss_function_is_saved(tmp_path):
    @keras.saving.register_keras_serializable("test_model")
    def registered_nll(y, p):
        return -p.log_prob(y)

    x = keras.Input((4,))
    model = tv.Model(x, tv.IndependentNormal(2)(keras.layers.Dense(4)(x)))
    model.compile("adam", loss=registered_nll)
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.evaluate(X, Y, verbose=0) == pytest.approx(
        model.evaluate(X, Y, verbose=0)
    )


def test_kl_layers_show_the_kl_beside_a_plain_loss():
    q = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4),
            tv.IndependentNormal(2),
            tv.KLDivergenceAddLoss(tv.StandardNormal(2)),
        ]
    )
    p = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(8), tv.IndependentNormal(4)]
    )
    model = tv.Model(q.inputs[0], p(q.outputs[0]))
    model.compile("adam", loss=nll)
    history = model.fit(X, X, verbose=0, validation_split=0.2).history
    assert set(history) == {"loss", "kl", "val_loss", "val_kl"}


@pytest.mark.parametrize("shapes", [((50,), (50, 1)), ((50, 1), (50,))])
def test_a_function_as_loss_sees_the_axes_that_keras_gives_it(shapes, rng):
    y, p = (tf.constant(rng.normal(size=shape), tf.float32) for shape in shapes)
    weights = rng.uniform(size=50).astype("float32")

    def loss(y, p):
        return keras.ops.mean(keras.ops.square(y - p), axis=-1)

    found = []
    for lib in (keras, tv):
        model = lib.Sequential([keras.Input(shapes[1][1:]), keras.layers.Identity()])
        model.compile("sgd", loss=loss)
        found.append(model.evaluate(p, y, sample_weight=weights, verbose=0))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_batches_of_a_pydataset_come_in_another_order():
    class Numbered(keras.utils.PyDataset):
        def __len__(self):
            return 20

        def __getitem__(self, i):
            seen.append(i)
            return X[:2], Y[:2]

    seen, model = [], functional(tv)
    model.compile("sgd", "mse")
    model.fit(Numbered(), verbose=0)
    assert set(seen) == set(range(20))
    assert seen[-20:] != list(range(20))


def test_a_share_of_a_pipeline_cannot_be_held_out():
    model = functional(tv)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="expects arrays.*Give `validation_data`"):
        model.fit(pipeline(X, Y), validation_split=0.2, verbose=0)


def test_xla_is_decided_by_the_epochs_that_are_left():
    model = functional(tv)
    model.compile("sgd", "mse")
    for epoch in range(6):
        model.fit(X, Y, initial_epoch=epoch, epochs=epoch + 1, verbose=0)
    (asked,) = model._functions._steps.values()
    assert asked == 6 * 2


def test_xla_that_is_asked_for_with_a_recurrent_layer(recwarn):
    model = tv.Sequential(
        [keras.Input((5, 1)), keras.layers.LSTM(3), keras.layers.Dense(1)]
    )
    model.compile("adam", "mse", jit_compile=True)
    history = model.fit(np.ones((8, 5, 1)), np.zeros((8, 1)), epochs=9, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    assert any("without XLA" in str(warning.message) for warning in recwarn)
