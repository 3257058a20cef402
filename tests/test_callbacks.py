"""Callbacks find what is really there, and leave training as it is."""

import contextlib
import math
import pathlib
import sys
import threading

import keras
import models
import numpy as np
import pytest
import slow
import tensorflow as tf
import tensorflow_probability as tfp
import vaes
from google.protobuf import text_format
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins import projector

import tfp_vae as tv
from tfp_vae.callbacks.collapse_alarm import CollapseAlarm
from tfp_vae.callbacks.nan_guard import NaNGuard
from tfp_vae.callbacks.nan_guard import _first_bad_output as first_bad_output
from tfp_vae.callbacks.vae_tensorboard import VAETensorBoard
from tfp_vae.plots import image_grid, observed, reconstruction_grid

tfd = tfp.distributions


class Record(keras.callbacks.Callback):
    """Copies the weights after each batch and at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.batches, self.epochs = [], []

    def on_train_batch_end(self, batch, logs=None):
        self.batches.append(self.model.get_weights())

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(self.model.get_weights())


class Poison(keras.callbacks.Callback):
    """Puts a NaN into some weights at the end of an epoch."""

    def __init__(self, *weights):
        super().__init__()
        self.weights = weights

    def on_epoch_end(self, epoch, logs=None):
        for weight in self.weights:
            value = weight.numpy()
            value.flat[-1] = np.nan
            weight.assign(value)


class Logarithm(keras.layers.Layer):
    """NaN of what is negative."""

    def call(self, inputs):
        return tf.math.log(inputs)


def at_epochs(callback, model, epochs=1):
    """Shows a callback the ends of epochs, without the training between them."""
    callback.set_model(model)
    callback.on_train_begin()
    for epoch in range(epochs):
        callback.on_epoch_end(epoch, {"loss": 1.0})
    callback.on_train_end()


def assert_same(weights, others):
    for left, right in zip(weights, others, strict=True):
        np.testing.assert_array_equal(left, right)


def all_finite(weights):
    return all(np.isfinite(weight).all() for weight in weights)


def linear(optimizer, jit_compile=False):
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(3, name="first"),
            keras.layers.Dense(1, name="second"),
        ]
    )
    model.compile(optimizer, "mse", jit_compile=jit_compile)
    return model


def stream(bad, n=8, epochs=10, steps=4, shape=(2,), targets=True):
    """Batches of noise, of which one is NaN."""
    rng = np.random.default_rng(3)
    for i in range(epochs * steps):
        x = rng.normal(size=(n, *shape)).astype("float32")
        x = np.full_like(x, np.nan) if i == bad else x
        yield (x, x[:, :1]) if targets else x


@pytest.mark.parametrize(
    "kind", slow.except_for(("conditional",), ("plain", "conditional", "vamp"))
)
def test_training_is_the_same_when_watched(kind, tmp_path):
    x, y = vaes.inputs(kind)

    def fitted(*callbacks):
        keras.utils.set_random_seed(5)
        vae = vaes.KINDS[kind]()
        held = {} if y is None else {"y": y}
        history = vae.fit(
            x,
            **held,
            validation_data=(x,) if y is None else (x, y),
            batch_size=16,
            epochs=2,
            callbacks=list(callbacks),
            verbose=0,
        )
        return (
            history.history,
            vae.get_weights(),
            vae.generate(2, y=y if y is None else y[:2]),
        )

    alone, weights, samples = fitted()
    watched, same_weights, same_samples = fitted(
        VAETensorBoard(tmp_path, x, y, labels=np.arange(64)),
        CollapseAlarm(x, y, threshold=1e-9),
        NaNGuard(x if y is None else (x, y), every=1),
    )
    assert alone == watched
    assert_same(weights, same_weights)
    np.testing.assert_array_equal(samples, same_samples)


# NaNGuard


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_learning_rate_too_high_stops_training_and_gives_weights_back(jit_compile):
    model = linear(keras.optimizers.SGD(1e30), jit_compile)
    before = model.get_weights()
    guard, record = NaNGuard(), Record()
    with pytest.warns(
        RuntimeWarning, match=r"(?s)of epoch 0: .*loss=.*of the beginning"
    ):
        model.fit(
            *next(stream(None, n=64)),
            batch_size=8,
            epochs=5,
            callbacks=[guard, record],
            verbose=0,
        )
    assert guard.epoch == 0
    assert len(record.batches) < 8
    assert len(record.epochs) == 1
    assert_same(model.get_weights(), before)
    assert model.optimizer.iterations == 0


class EachError(keras.metrics.Metric):
    """The error of each output, which is not finite once the weights are not."""

    def __init__(self):
        super().__init__(name="each")
        self.errors = self.add_variable((3,), "zeros")

    def update_state(self, y, p, sample_weight=None):
        self.errors.assign(tf.reduce_sum(p, axis=0))

    def result(self):
        return self.errors + 0.0


def test_a_metric_of_several_numbers_is_in_the_message(rng):
    model = tv.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(keras.optimizers.SGD(1e30), "mse", metrics=[EachError()])
    x, y = rng.normal(size=(32, 4)), np.eye(3)[rng.integers(0, 3, 32)]
    with pytest.warns(RuntimeWarning, match=r"each=\[.*(nan|inf)"):
        model.fit(x, y, batch_size=4, callbacks=[NaNGuard()], verbose=0)


def test_a_bad_batch_gives_back_the_weights_of_the_last_good_epoch():
    vae = vaes.vae(p=normal_decoder())
    guard, record = NaNGuard(), Record()
    with pytest.warns(RuntimeWarning) as caught:
        vae.fit(
            stream(9, shape=vaes.PIXELS, targets=False),
            epochs=10,
            steps_per_epoch=4,
            callbacks=[guard, record],
            verbose=0,
        )
    assert len(caught) == 1
    message = str(caught[0].message)
    assert (
        "by batch 1 of epoch 2: elbo=nan, kl=nan, loss=nan, nll=nan, weights" in message
    )
    assert "the weights of the end of epoch 1" in message
    assert (guard.epoch, guard.layer_name) == (2, vae.encoder.layers[1].name)
    assert f"dense/kernel of layer '{guard.layer_name}'" in message.replace(
        guard.layer_name + "/", "dense/"
    )
    assert_same(vae.get_weights(), record.epochs[1])
    assert vae.optimizer.iterations == 8
    assert all_finite([v.numpy() for v in vae.optimizer.variables])
    history = vae.fit(
        next(stream(None, n=32, shape=vaes.PIXELS, targets=False)),
        epochs=2,
        callbacks=[guard],
        verbose=0,
    ).history
    assert np.isfinite(history["loss"]).all()
    assert guard.epoch is None
    assert guard.layer_name is None


def normal_decoder():
    return keras.Sequential(
        [
            keras.Input((vaes.LATENT,)),
            keras.layers.Dense(2 * 64),
            tv.IndependentNormal(vaes.PIXELS),
        ]
    )


def test_training_goes_on_from_restored_weights_as_if_nothing_had_been():
    """Momenta and the number of steps are restored with the weights."""
    good = next(stream(None, n=16))

    def fitted(bad):
        keras.utils.set_random_seed(2)
        model = linear(keras.optimizers.Adam(0.1))
        batches = stream(bad, epochs=3)
        how = {"steps_per_epoch": 4, "shuffle": False, "verbose": 0}
        model.fit(batches, epochs=2, **how)
        if bad is not None:
            with pytest.warns(RuntimeWarning, match="of the beginning of training"):
                model.fit(batches, callbacks=[NaNGuard()], **how)
        model.fit(*good, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()

    assert_same(fitted(10), fitted(None))


def test_weights_are_kept_every_so_many_batches():
    model = linear("adam")
    guard, record = NaNGuard(every=2), Record()
    with pytest.warns(
        RuntimeWarning, match="by batch 5 of .*weights of batch 3 of epo"
    ):
        model.fit(
            stream(5, steps=8),
            steps_per_epoch=8,
            shuffle=False,
            callbacks=[guard, record],
            verbose=0,
        )
    assert_same(model.get_weights(), record.batches[3])


def test_weights_are_kept_where_many_steps_are_one_execution():
    model = linear("adam")
    model.compile("adam", "mse", steps_per_execution=3, jit_compile=False)
    record = Record()
    with pytest.warns(
        RuntimeWarning, match="by batch 8 of .*weights of batch 5 of epo"
    ):
        model.fit(
            stream(7, steps=9),
            steps_per_epoch=9,
            shuffle=False,
            callbacks=[NaNGuard(every=2), record],
            verbose=0,
        )
    assert_same(model.get_weights(), record.batches[1])


def test_the_first_layer_in_the_order_of_computation_is_named():
    prior = tv.LearnedNormal(vaes.LATENT, name="learned")
    vae = vaes.vae(prior=prior)
    vae.build((None, *vaes.PIXELS))
    last = vae.decoder.layers[-2]
    x = models.digits(16)
    second = vae.encoder.layers[2]
    for poison, name in (
        (Poison(last.bias), last.name),
        (Poison(last.bias, prior.weights[0]), "learned"),
        (Poison(prior.weights[0], second.kernel), second.name),
    ):
        guard = NaNGuard()
        with pytest.warns(RuntimeWarning, match=f"by the end of epoch 0: .*{name!r}"):
            vae.fit(x, epochs=3, callbacks=[poison, guard], verbose=0)
        assert (guard.layer_name, guard.epoch) == (name, 0)
        assert all_finite(vae.get_weights())


def test_a_layer_of_finite_weights_is_found_by_its_output():
    """Loss scaling leaves out steps that are not finite, so that weights stay good."""
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(3, kernel_initializer="ones", name="first"),
            keras.Sequential([Logarithm(name="logarithm")]),
            keras.layers.Dense(1, name="last"),
        ]
    )
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()),
        "mse",
        jit_compile=False,
    )
    x = -np.ones([8, 2], "float32")
    calls = [layer.call for layer in model.layers]
    guard = NaNGuard(x)
    with pytest.warns(RuntimeWarning, match="weights finite, but not .* 'logarithm'"):
        model.fit(x, x[:, :1], callbacks=[guard], verbose=0)
    assert guard.layer_name == "logarithm"
    assert [layer.call for layer in model.layers] == calls
    with pytest.warns(RuntimeWarning, match=r"`NaNGuard\(x\)` tests the layers"):
        model.fit(x, x[:, :1], callbacks=[NaNGuard()], verbose=0)
    with pytest.warns(RuntimeWarning, match="all weights and all outputs on x finite"):
        model.fit(x, x[:, :1], callbacks=[NaNGuard(-x)], verbose=0)


def test_a_distribution_layer_that_overflows_is_found():
    vae = vaes.vae(p=normal_decoder())
    vae.encoder.layers[-1].make_distribution = lambda p: tfd.MultivariateNormalDiag(
        p[:, : vaes.LATENT] / 0.0
    )
    guard = NaNGuard(models.digits(4))
    vae.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()), jit_compile=False
    )
    with pytest.warns(RuntimeWarning, match="all weights finite, but not the output"):
        vae.fit(models.digits(16), callbacks=[guard], verbose=0)
    assert guard.layer_name == vae.encoder.layers[-1].name


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # of Keras
@pytest.mark.parametrize("lib", [keras, tv])
def test_weights_that_a_callback_loads_are_those_given_back(lib, tmp_path):
    x, y = next(stream(None, n=16))

    def fitted(x, *callbacks):
        model = lib.Sequential([keras.Input((x.shape[1],)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        with contextlib.suppress(KeyboardInterrupt):
            model.fit(x, y, epochs=4, callbacks=[*callbacks, backup], verbose=0)
        return model

    killed = fitted(x, RaiseAfter(1))
    with pytest.warns(RuntimeWarning, match="of the beginning of training"):
        again = fitted(x * np.nan, NaNGuard())
    assert_same(again.get_weights(), killed.get_weights())
    assert all_finite([v.numpy() for v in again.optimizer.variables])


def test_a_model_that_only_says_it_is_built_trains():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def build(self, input_shape):
            self.built = True

        def call(self, inputs):
            return self.dense(inputs)

    model = Own()
    model.build((None, 2))
    model.compile("adam", "mse")
    history = model.fit(*next(stream(None)), callbacks=[NaNGuard()], verbose=0).history
    assert np.isfinite(history["loss"]).all()


class RaiseAfter(keras.callbacks.Callback):
    """Interrupts training at the beginning of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.last = epoch

    def on_epoch_begin(self, epoch, logs=None):
        if epoch > self.last:
            raise KeyboardInterrupt


@pytest.mark.parametrize("lib", [keras, tv])
def test_variables_made_in_the_first_step_are_given_back_or_named(lib):
    x, y = next(stream(None, n=16))
    x[8] = np.nan

    def warned(*layers, **options):
        model = lib.Sequential([*layers, keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(0.1), "mse", **options)
        with pytest.warns(RuntimeWarning) as caught:
            model.fit(
                x, y, batch_size=4, shuffle=False, callbacks=[NaNGuard()], verbose=0
            )
        found = [*model.weights, *model.optimizer.variables]
        return str(caught[-1].message), all_finite([v.numpy() for v in found])

    assert warned(keras.Input((x.shape[1],)))[1]
    message, finite = warned(steps_per_execution=1)
    assert finite
    assert "weights of batch 0 of epoch 0;" in message
    x[0] = np.nan
    message, finite = warned(steps_per_execution=1)
    assert not finite
    assert "but for " in message
    assert "`keras.Input` lets them be made before" in message


def test_weights_that_are_bad_from_the_start_are_an_error():
    model = linear("adam")
    model.layers[1].bias.assign([np.inf])
    with pytest.raises(ValueError, match=r"NaN or infinity in \S*second/bias. Load"):
        model.fit(*next(stream(None)), callbacks=[NaNGuard()], verbose=0)


# CollapseAlarm


def constant_encoder(loc):
    """A posterior that is the same for each x, at a distance from the prior."""
    network = vaes.encoder()
    last = network.layers[-2]
    last.kernel.assign(tf.zeros_like(last.kernel))
    last.bias.assign([loc] * vaes.LATENT + [0.54] * vaes.LATENT)
    network.trainable = False
    return network


def test_a_real_collapse_rings_once():
    x = models.digits(160)
    vae = vaes.vae(objective=tv.ELBO(beta=1000.0))
    alarm = CollapseAlarm(x, patience=3)
    with pytest.warns(UserWarning, match="r has collapsed.*for 3 epochs") as log:
        vae.fit(x, epochs=40, batch_size=16, callbacks=[alarm], verbose=0)
    assert len(log) == 1
    assert 2 <= alarm.epoch < 39
    assert alarm.information < 0.05


def test_a_vae_that_learns_does_not_ring():
    x = models.digits(160)
    alarm = CollapseAlarm(x, patience=1)
    vae = vaes.vae()
    vae.compile(keras.optimizers.Adam(0.01), jit_compile=False)
    vae.fit(x, epochs=20, batch_size=16, callbacks=[alarm], verbose=0)
    assert alarm.epoch is None
    assert 0.5 < alarm.information < math.log(160)


@pytest.mark.parametrize(("loc", "kl"), [(0.0, r"\S+e-0[67]"), (3.0, r"13\.5")])
def test_a_posterior_that_does_not_see_x_rings_whatever_its_kl(loc, kl):
    x = models.digits(32)
    alarm = CollapseAlarm(x, patience=2)
    vae = vaes.vae(q=constant_encoder(loc))
    with pytest.warns(UserWarning, match=rf"the KL is {kl} nats.*ELBO\(free_bits="):
        at_epochs(alarm, vae, 3)
    assert alarm.epoch == 1


def test_a_conditional_posterior_that_is_the_prior_rings():
    """Its latents tell of y, which the decoder knows already."""
    prior = keras.Sequential(
        [
            keras.Input((vaes.CLASSES,)),
            keras.layers.Dense(2 * vaes.LATENT, kernel_initializer="normal"),
            tv.IndependentNormal(vaes.LATENT),
        ]
    )
    prior.layers[0].kernel.assign(20 * np.eye(vaes.CLASSES, 2 * vaes.LATENT))
    x, y = vaes.inputs("conditional", 32)
    inputs = [keras.Input(vaes.PIXELS), keras.Input((vaes.CLASSES,))]
    like = vaes.conditional()
    vae = tv.VAE(
        keras.Model(inputs, prior(inputs[1])), like.decoder, prior, conditional=True
    )
    alarm = CollapseAlarm(x, y, patience=1)
    with pytest.warns(UserWarning, match="the KL is 0 nats"):
        at_epochs(alarm, vae)
    assert alarm.information == 0


@pytest.mark.parametrize("distance", [0.05, 2.0, 20.0])
def test_the_information_is_that_of_two_clusters(distance):
    """I(x; z) of an even mixture of N(-d, 1) and N(d, 1), by quadrature."""
    grid = np.linspace(-40.0, 40.0, 200_001)
    mixture = np.logaddexp(
        -((grid - distance) ** 2) / 2, -((grid + distance) ** 2) / 2
    ) - np.log(2 * np.sqrt(2 * np.pi))
    entropy = -np.sum(np.exp(mixture) * mixture) * (grid[1] - grid[0])
    expected = entropy - 0.5 * np.log(2 * np.pi * np.e)

    x = np.tile([[-distance], [distance]], (500, 1)).astype("float32")
    q = tv.DistributionLambda(lambda t: tfd.MultivariateNormalDiag(t, tf.ones_like(t)))
    p = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(2), tv.IndependentNormal(1)]
    )
    vae = tv.VAE(keras.Sequential([keras.Input((1,)), q]), p, tv.StandardNormal(1))
    alarm = CollapseAlarm(x, patience=5)
    at_epochs(alarm, vae)
    # One draw for each of 1000 examples.
    tolerance = 5 * math.sqrt(2 * expected / 1000) + 1e-3
    assert alarm.information == pytest.approx(expected, abs=tolerance)


def test_a_few_epochs_below_are_no_collapse():
    x = models.digits(32)
    vae = vaes.vae(q=constant_encoder(0.0))
    alarm = CollapseAlarm(x, patience=3)
    at_epochs(alarm, vae, 2)
    at_epochs(alarm, vae, 2)
    assert alarm.epoch is None
    assert alarm.information < 1e-6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": [[0.0, 1.0]]}, "expects x to be arrays of at least 2 .*Received: list"),
        ({"x": np.zeros([1, 8])}, "of at least 2 examples. Received: 1 examples"),
        ({"x": np.zeros([8, 8]), "threshold": 2.1}, "threshold below log n.*n=8"),
        ({"x": np.zeros([8, 8]), "threshold": 0.0}, "`threshold` to be a finite numb"),
        ({"x": np.zeros([8, 8]), "patience": 0}, "`patience` to be an integer of at"),
    ],
)
def test_an_alarm_that_cannot_work_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        CollapseAlarm(**arguments)


@pytest.mark.parametrize("callback", ["CollapseAlarm", "VAETensorBoard"])
def test_other_models_are_an_error(callback, tmp_path):
    x = np.zeros([8, 2], "float32")
    made = (
        CollapseAlarm(x) if callback == "CollapseAlarm" else VAETensorBoard(tmp_path, x)
    )
    with pytest.raises(ValueError, match=f"{callback}` expects to train .* Sequential"):
        linear("sgd").fit(x, x[:, :1], callbacks=[made], verbose=0)


# VAETensorBoard


def events(directory):
    accumulator = EventAccumulator(str(directory), size_guidance={"tensors": 0})
    accumulator.Reload()
    return accumulator


def series(accumulator, tag):
    """Steps and values of a tag."""
    found = accumulator.Tensors(tag)
    return [e.step for e in found], [tf.make_ndarray(e.tensor_proto) for e in found]


def picture(accumulator, tag):
    """The last image of a tag: the size that it says, and its pixels from 0 to 1."""
    width, height, png = series(accumulator, tag)[1][-1]
    pixels = tf.io.decode_png(png).numpy()
    assert pixels.shape[:2] == (int(height), int(width))
    return pixels / 255


def description(accumulator, tag):
    """What TensorBoard shows beside the name of a tag."""
    return accumulator.SummaryMetadata(tag).summary_description


def config_of(directory):
    text = (directory / "projector_config.pbtxt").read_text()
    return text_format.Parse(text, projector.ProjectorConfig()).embeddings[0]


def test_losses_are_written_at_each_epoch_and_images_now_and_then(tmp_path):
    x, vae = models.digits(32), vaes.vae()
    board = VAETensorBoard(tmp_path, x, every=2)
    history = vae.fit(
        x, validation_data=x, epochs=5, callbacks=[board], verbose=0
    ).history
    found = events(tmp_path)
    for name, values in history.items():
        steps, written = series(found, name)
        assert steps == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(written, values, rtol=1e-6)
    for tag in ("reconstructions", "samples", "traversals", "kl_per_dimension/2"):
        assert series(found, tag)[0] == [1, 3]


@pytest.mark.parametrize("kind", ["plain", "conditional", "dictionary", "missing"])
def test_images_are_those_of_the_model(kind, tmp_path):
    (x, y), vae = vaes.inputs(kind, 20), vaes.KINDS[kind]()
    at_epochs(VAETensorBoard(tmp_path, x, y, num_images=10), vae)
    found = events(tmp_path)
    few = tf.nest.map_structure(lambda array: array[:10], x)
    y = None if y is None else y[:10]
    one = tf.nest.map_structure(lambda array: array[:1], x)
    moved = vae.traverse(one, y=None if y is None else y[:1])
    expected = {
        "reconstructions": reconstruction_grid(
            observed(vae, few), vae.reconstruct(few, y), 8
        ),
        "samples": image_grid(vae.generate(10, y=y, seed=0)),
        "traversals": image_grid(moved.reshape(21, 8, 8), 7),
    }
    for tag, grid in expected.items():
        np.testing.assert_allclose(picture(found, tag), grid, atol=1 / 255)


def test_the_kl_per_dimension_is_in_nats(tmp_path):
    x, vae = models.digits(32), vaes.vae()
    at_epochs(VAETensorBoard(tmp_path, x), vae)
    found = events(tmp_path)
    q = vae.encode(x)
    mean, stddev = q.mean().numpy(), q.stddev().numpy()
    kl = np.mean((mean**2 + stddev**2 - 1) / 2 - np.log(stddev), axis=0)
    written = [series(found, f"kl_per_dimension/{i}")[1][-1] for i in range(3)]
    np.testing.assert_allclose(written, kl, rtol=1e-4)
    assert description(found, "kl_per_dimension/2") == "nats per example, of z[2]"
    buckets = series(found, "kl_per_dimension")[1][-1]
    assert buckets[0, 0] == pytest.approx(kl.min(), rel=1e-4)
    assert buckets[:, 2].sum() == 3


@pytest.mark.parametrize("kind", ["vamp", "spherical", "flow posterior and prior"])
def test_a_kl_that_does_not_factorise_is_left_out(kind, tmp_path):
    (x, _), vae = vaes.inputs(kind, 20), vaes.KINDS[kind]()
    at_epochs(VAETensorBoard(tmp_path, x), vae)
    tags = events(tmp_path).Tags()["tensors"]
    assert "samples" in tags
    assert not [tag for tag in tags if tag.startswith("kl_per_dimension")]


def test_numbers_have_no_images_but_a_projection(tmp_path, rng):
    x = rng.normal(size=(9, 5)).astype("float32")
    q = [keras.Input((5,)), keras.layers.Dense(4), tv.IndependentNormal(2)]
    p = [keras.Input((2,)), keras.layers.Dense(10), tv.IndependentNormal(5)]
    vae = tv.VAE(keras.Sequential(q), keras.Sequential(p), tv.StandardNormal(2))
    at_epochs(VAETensorBoard(tmp_path, x), vae)
    assert set(events(tmp_path).Tags()["tensors"]) == {
        *("loss", "kl_per_dimension", "kl_per_dimension/0", "kl_per_dimension/1")
    }
    assert not (tmp_path / "sprite.png").exists()
    assert not config_of(tmp_path).sprite.image_path
    assert np.loadtxt(tmp_path / "embeddings.tsv").shape == (9, 3)


def test_latents_that_are_no_vectors_have_no_traversals(tmp_path):
    q = [keras.Input(vaes.PIXELS), keras.layers.Flatten(), keras.layers.Dense(8)]
    p = [keras.Input((2, 2)), keras.layers.Flatten(), keras.layers.Dense(64)]
    vae = tv.VAE(
        keras.Sequential([*q, tv.IndependentNormal((2, 2))]),
        keras.Sequential([*p, tv.IndependentBernoulli(vaes.PIXELS)]),
        tv.StandardNormal((2, 2)),
    )
    x = models.digits(9)
    at_epochs(VAETensorBoard(tmp_path, x), vae)
    tags = events(tmp_path).Tags()["tensors"]
    assert {"samples", "kl_per_dimension/3"} <= set(tags)
    assert "traversals" not in tags
    z = np.loadtxt(tmp_path / "embeddings.tsv")
    np.testing.assert_allclose(
        z, np.reshape(vae.encode(x).mean(), [9, 4]), rtol=1e-4, atol=1e-5
    )


def test_the_projector_finds_latents_labels_and_pictures(tmp_path):
    x, vae = models.digits(7), vaes.vae()
    labels = ["a", "b\tb", "c", 3, 4, 5, 6]
    at_epochs(VAETensorBoard(tmp_path, x, labels=labels), vae)
    config = config_of(tmp_path)
    z = np.loadtxt(tmp_path / config.tensor_path, delimiter="\t")
    np.testing.assert_allclose(z, vae.encode(x).mean(), rtol=1e-4, atol=1e-5)
    written = (tmp_path / config.metadata_path).read_text()
    assert written.splitlines() == ["a", "b b", "c", "3", "4", "5", "6"]
    assert list(config.sprite.single_image_dim) == [8, 8]
    sprite = tf.io.decode_png((tmp_path / config.sprite.image_path).read_bytes())
    assert sprite.shape == (24, 24, 1)
    for i in range(7):
        top, left = 8 * (i // 3), 8 * (i % 3)
        thumbnail = sprite[top : top + 8, left : left + 8].numpy() / 255
        np.testing.assert_array_equal(thumbnail, x[i])


def test_pictures_too_large_for_the_projector_are_thinned(tmp_path, rng):
    q = [keras.Input((4100, 2)), keras.layers.Flatten(), keras.layers.Dense(4)]
    p = [keras.Input((2,)), keras.layers.Dense(8200)]
    vae = tv.VAE(
        keras.Sequential([*q, tv.IndependentNormal(2)]),
        keras.Sequential([*p, tv.IndependentBernoulli((4100, 2))]),
        tv.StandardNormal(2),
    )
    x = (rng.uniform(size=(2, 4100, 2)) > 0.5).astype("float32")
    at_epochs(VAETensorBoard(tmp_path, x), vae)
    sprite = tf.io.decode_png((tmp_path / "sprite.png").read_bytes())
    # The projector stretches what is no square, so that there are margins.
    assert list(config_of(tmp_path).sprite.single_image_dim) == [2050, 2050]
    assert sprite.shape == (4100, 4100, 1)
    np.testing.assert_array_equal(sprite[:2050, 2050 + 1024, 0] / 255, x[1, ::2, 0])


def test_pictures_that_are_no_squares_are_not_stretched(tmp_path):
    q = [keras.Input((8, 5)), keras.layers.Flatten(), keras.layers.Dense(6)]
    p = [keras.Input((3,)), keras.layers.Dense(40)]
    vae = tv.VAE(
        keras.Sequential([*q, tv.IndependentNormal(3)]),
        keras.Sequential([*p, tv.IndependentBernoulli((8, 5))]),
        tv.StandardNormal(3),
    )
    x = models.digits(2).reshape(2, 8, 8)[:, :, 1:6]
    at_epochs(VAETensorBoard(tmp_path, x), vae)
    assert list(config_of(tmp_path).sprite.single_image_dim) == [8, 8]
    sprite = tf.io.decode_png((tmp_path / "sprite.png").read_bytes()).numpy()
    white = np.ones((2, 8, 8))
    white[:, :, 1:6] = x
    np.testing.assert_array_equal(sprite[:8, :, 0] / 255, np.hstack(white))


@pytest.mark.parametrize("size", [1, 2])
def test_the_projector_gets_the_three_coordinates_that_it_needs(size, tmp_path, rng):
    x = rng.normal(size=(9, 5)).astype("float32")
    q = [keras.Input((5,)), keras.layers.Dense(2 * size), tv.IndependentNormal(size)]
    p = [keras.Input((size,)), keras.layers.Dense(10), tv.IndependentNormal(5)]
    vae = tv.VAE(keras.Sequential(q), keras.Sequential(p), tv.StandardNormal(size))
    at_epochs(VAETensorBoard(tmp_path, x), vae)
    z = np.loadtxt(tmp_path / "embeddings.tsv")
    np.testing.assert_allclose(z[:, :size], vae.encode(x).mean(), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(z[:, size:], np.zeros([9, 3 - size]))


def test_labels_without_a_text_are_no_empty_lines(tmp_path):
    x, vae = models.digits(3), vaes.vae()
    at_epochs(VAETensorBoard(tmp_path, x, labels=["a", "", " "]), vae)
    written = (tmp_path / "metadata.tsv").read_text()
    assert written.splitlines() == ["a", "(empty)", "(empty)"]


def test_units_and_rows_are_described(tmp_path):
    x, vae = models.digits(8), vaes.vae()
    board = VAETensorBoard(tmp_path, x)
    board.set_model(vae)
    board.on_train_begin()
    board.on_epoch_end(0, {"elbo": -1.0, "val_elbo": -1.0, "kl_weight": 1.0})
    board.on_train_end()
    found = events(tmp_path)
    assert description(found, "elbo") == "nats per example"
    assert description(found, "val_elbo") == "nats per example"
    assert description(found, "kl_weight") == ""
    assert description(found, "reconstructions").startswith("Below each row of x")
    assert description(found, "samples").startswith("Means of p(x|z)")
    assert description(found, "traversals").endswith("z[i] from -3 to 3")


def test_a_second_fit_is_written_behind_the_first(tmp_path):
    x, vae = models.digits(8), vaes.vae()
    board = VAETensorBoard(tmp_path, x)
    at_epochs(board, vae, 1)
    at_epochs(board, vae, 2)
    assert len(list(pathlib.Path(tmp_path).glob("events*"))) == 2
    found = [series(events(path), "loss")[0] for path in tmp_path.glob("events*")]
    assert sorted(found) == [[0], [0, 1]]


def test_one_label_for_each_example_is_needed(tmp_path):
    with pytest.raises(ValueError, match=r"labels of shape \(8,\), .*of shape \(7,\)"):
        VAETensorBoard(tmp_path, np.zeros([8, 2]), labels=np.zeros(7))


def test_pipelines_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="x to be arrays .* Received: .*RangeDataset"):
        VAETensorBoard(tmp_path, tf.data.Dataset.range(3))


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.plugins", None)
    with pytest.raises(ImportError, match=r'cts tensorboard.*"tfp-vae\[examples\]"'):
        VAETensorBoard(tmp_path, np.zeros([8, 2]))


def test_layers_that_another_thread_calls_are_not_the_guilty_ones():
    class Beside(keras.layers.Layer):
        """Calls another layer of the model in a thread, with NaN, in a graph."""

        def call(self, x):
            def ask():
                answers.append(tf.function(other)(tf.fill([1, 2], np.nan)))

            if asked:
                thread = threading.Thread(target=ask)
                thread.start()
                thread.join(timeout=60)
            return x

    asked, answers = [], []
    other = keras.layers.Dense(2, name="other")
    model = keras.Sequential(
        [
            keras.Input((2,)),
            Beside(),
            Logarithm(name="logarithm"),
            other,
        ]
    )
    model.compile("sgd", "mse", jit_compile=False)
    asked.append(True)
    found = first_bad_output(model, -np.ones([3, 2], "float32"))
    assert found.name == "logarithm"
    assert np.isnan(answers[0]).all()
