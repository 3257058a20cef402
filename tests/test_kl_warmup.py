"""The weight of the KL: its curve, in the graph, saved and resumed."""

import fractions

import keras
import labelled
import models
import numpy as np
import pytest
import tensorflow as tf
import vaes

import tfp_vae as tv
from tfp_vae.kl.schedule import KLSchedule


def curve(steps, **options):
    schedule = KLSchedule()
    schedule.set(steps=steps, **options)
    return [float(schedule.weight(step)) for step in range(steps + 3)]


def test_linear_and_sigmoid_rise_from_the_start_to_one():
    linear = curve(10, schedule="linear", start=0.2)
    np.testing.assert_allclose(linear[:11], 0.2 + 0.8 * np.arange(11) / 10, atol=1e-6)
    assert linear[10:] == [1.0] * 3
    sigmoid = curve(10, schedule="sigmoid")
    logistic = 1 / (1 + np.exp(-6 * (2 * np.arange(11) / 10 - 1)))
    stretched = (logistic - logistic[0]) / (logistic[-1] - logistic[0])
    np.testing.assert_allclose(sigmoid[:11], stretched, atol=1e-6)
    assert sigmoid[10:] == [1.0] * 3


def test_cycles_begin_anew_and_end_at_one():
    cyclical = curve(20, schedule="cyclical", cycles=2, ratio=0.5)
    rise = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0, 1.0]
    np.testing.assert_allclose(cyclical, rise * 2 + [1.0] * 3, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "cycles"), [(2, 6), (3, 9), (7, 3), (10, 4), (97, 12), (99, 11)]
)
def test_cycles_of_any_length_begin_at_the_start(steps, cycles):
    found = curve(steps, schedule="cyclical", cycles=cycles, ratio=0.5)[:steps]
    length = fractions.Fraction(steps, cycles)
    exact = [min(1, t % length / (length / 2)) for t in range(steps)]
    np.testing.assert_allclose(found, np.array(exact, float), atol=1e-6)


def weights(model, epochs, callback, x=None, **options):
    x = models.digits(40) if x is None else x
    options = {"batch_size": 10, "verbose": 0, "epochs": epochs, **options}
    return model.fit(x, callbacks=[callback] if callback else [], **options).history[
        "kl_weight"
    ]


@pytest.mark.parametrize(
    "options", [{}, {"jit_compile": True}, {"steps_per_execution": 3}]
)
def test_the_weight_changes_with_every_step_of_a_compiled_loop(options):
    model = vaes.vae(compiled=False)
    model.compile("adam", **options)
    found = weights(model, 4, tv.KLWarmup(epochs=2))
    # The mean over the steps 0-3 and 4-7 of 8, then 1.
    np.testing.assert_allclose(found, [1.5 / 8, 5.5 / 8, 1, 1], atol=1e-6)


def test_the_loss_has_the_weight_and_the_terms_do_not():
    model = vaes.vae()
    model.kl_schedule.set("linear", steps=100, start=0.25)
    seen = model.evaluate(models.digits(20), verbose=0, return_dict=True)
    assert seen["kl_weight"] == 0.25
    assert seen["loss"] == pytest.approx(seen["nll"] + 0.25 * seen["kl"], rel=1e-6)
    assert seen["elbo"] == pytest.approx(-seen["nll"] - seen["kl"], rel=1e-6)


def test_beta_is_multiplied():
    model = vaes.vae(objective=tv.ELBO(beta=4.0))
    found = weights(model, 2, tv.KLWarmup(steps=4))
    np.testing.assert_allclose(found, [4 * 1.5 / 4, 4.0], atol=1e-6)


def test_a_second_schedule_needs_no_new_trace():
    model = vaes.vae()
    weights(model, 1, tv.KLWarmup(steps=4))
    function = model.train_function
    found = weights(model, 2, tv.KLWarmup(steps=8))  # from step 4 on
    assert model.train_function is function
    np.testing.assert_allclose(found, [1.5 / 8, 5.5 / 8], atol=1e-6)


def test_a_resumed_training_goes_on_with_the_schedule(tmp_path):
    model = vaes.vae()
    with pytest.warns(UserWarning, match="never reaches 1"):
        weights(model, 1, tv.KLWarmup(epochs=4))
    model.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    found = weights(loaded, 5, None, initial_epoch=1)
    np.testing.assert_allclose(found, [5.5 / 16, 9.5 / 16, 13.5 / 16, 1], atol=1e-6)


def loaded_without_optimizer(model, path):
    model.save(path / "vae.keras")
    return keras.models.load_model(path / "vae.keras", compile=False)


def with_weights_file(model, path):
    model.save_weights(path / "w.weights.h5")
    new = vaes.vae(compiled=False)
    new.load_weights(path / "w.weights.h5")
    return new


def into_a_clone(model, path):
    new = keras.models.clone_model(model)
    new.set_weights(model.get_weights())
    return new


MOVES = [loaded_without_optimizer, with_weights_file, into_a_clone]


@pytest.mark.parametrize("move", MOVES)
def test_weights_bring_the_place_in_the_schedule(move, tmp_path):
    model, x = vaes.vae(), models.digits(40)
    with pytest.warns(UserWarning, match="never reaches 1"):
        weights(model, 1, tv.KLWarmup(epochs=4))
    new = move(model, tmp_path)
    if not new.compiled:
        new.compile("adam")
    found = new.evaluate(x, verbose=0, return_dict=True)["kl_weight"]
    assert found == pytest.approx(4 / 16)
    np.testing.assert_allclose(weights(new, 2, None), [5.5 / 16, 9.5 / 16], atol=1e-6)


def test_a_step_that_computes_the_loss_twice_counts_once():
    class Twice(tv.VAE):
        def compute_loss(self, *args, **kwargs):
            super().compute_loss(*args, **kwargs)
            return super().compute_loss(*args, **kwargs)

    model = Twice(vaes.encoder(), models.decoder(), tv.StandardNormal(vaes.LATENT))
    model.compile("adam")
    found = weights(model, 3, tv.KLWarmup(epochs=2))
    np.testing.assert_allclose(found, [1.5 / 8, 5.5 / 8, 1], atol=1e-6)


def test_a_new_optimizer_goes_on_with_the_schedule(tmp_path):
    model = vaes.vae()
    with pytest.warns(UserWarning, match="never reaches 1"):
        weights(model, 1, tv.KLWarmup(epochs=4))
    model.compile(keras.optimizers.Adam(1e-4))
    np.testing.assert_allclose(weights(model, 1, None), [5.5 / 16], atol=1e-6)
    model.save(tmp_path / "vae.keras")
    loaded = keras.models.load_model(tmp_path / "vae.keras")
    np.testing.assert_allclose(weights(loaded, 1, None), [9.5 / 16], atol=1e-6)
    loaded.compile(loaded.optimizer)  # the same one
    np.testing.assert_allclose(weights(loaded, 1, None), [13.5 / 16], atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5], ids=["all labels known", "half known"])
def test_a_new_optimizer_of_a_vae_with_a_classifier_goes_on(share):
    x, y = labelled.data(40)
    y = labelled.hidden(y, share)
    model = labelled.vae()
    with pytest.warns(UserWarning, match="never reaches 1"):
        weights(model, 1, tv.KLWarmup(epochs=4), x, y=y)
    model.compile(keras.optimizers.SGD(0.1))
    found = weights(model, 1, None, x, y=y)
    np.testing.assert_allclose(found, [5.5 / 16], atol=1e-6)


def test_a_schedule_begins_where_the_model_is():
    model = vaes.vae()
    assert weights(model, 1, None) == [1]
    model.compile("adam")
    found = weights(model, 2, tv.KLWarmup(epochs=2))
    np.testing.assert_allclose(found, [1.5 / 8, 5.5 / 8], atol=1e-6)


def test_replicas_warm_up_too():
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], cross_device_ops=tf.distribute.ReductionToOneDevice()
    )
    with strategy.scope():
        model = vaes.vae()
    found = weights(model, 2, tv.KLWarmup(epochs=1))
    np.testing.assert_allclose(found, [1.5 / 4, 1], atol=1e-6)
    with strategy.scope():
        model.compile("adam")
    assert weights(model, 1, None) == [1]


@pytest.mark.parametrize("scaled", [False, True])
def test_accumulated_gradients_count_as_one_step(scaled):
    model = vaes.vae(compiled=False)
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=2)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer)
    found = weights(model, 3, tv.KLWarmup(epochs=2))
    np.testing.assert_allclose(found[0], np.mean([0, 0, 1, 1]) / 4, atol=1e-6)
    assert found[2] == 1


def test_a_warm_up_longer_than_training_warns():
    with pytest.warns(UserWarning, match="takes 12 steps, but training ends after 8"):
        weights(vaes.vae(), 2, tv.KLWarmup(epochs=3))


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras' own
def test_data_of_unknown_length_need_steps():
    x = tf.data.Dataset.from_generator(
        lambda: iter([models.digits(10)] * 2),
        output_signature=tf.TensorSpec([None, *models.PIXELS]),
    )
    with pytest.raises(ValueError, match=r"how many steps an epoch.*steps_per_epoch"):
        vaes.vae().fit(x, verbose=0, callbacks=[tv.KLWarmup(epochs=2)])
    found = vaes.vae().fit(x, epochs=2, verbose=0, callbacks=[tv.KLWarmup(steps=2)])
    assert found.history["kl_weight"] == [0.25, 1.0]


def test_the_validation_loss_rises_while_the_elbo_does_not():
    """Why `val_loss` misleads, and `val_elbo` does not."""
    model, x = vaes.vae(), models.digits(40)
    seen = [
        model.evaluate(x, verbose=0, return_dict=True)
        for start in (0.0, 0.5)
        if model.kl_schedule.set("linear", 10, start) is None
    ]
    assert seen[1]["loss"] - seen[0]["loss"] == pytest.approx(
        0.5 * seen[0]["kl"], abs=1
    )
    assert seen[0]["elbo"] == pytest.approx(seen[1]["elbo"], abs=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "expects `epochs` or `steps`"),
        ({"epochs": 1, "steps": 1}, "expects `epochs` or `steps`"),
        ({"epochs": 0}, "`epochs`"),
        ({"steps": 1.5}, "`steps`"),
        ({"epochs": 1, "schedule": "cubic"}, r"`schedule` to be one of.*'cubic'"),
        ({"epochs": 1, "start": 1.0}, "`start`"),
        ({"epochs": 1, "schedule": "cyclical", "cycles": 0}, "`cycles`"),
        ({"epochs": 1, "schedule": "cyclical", "ratio": 0.0}, "`ratio`"),
    ],
)
def test_schedules_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        tv.KLWarmup(**options)


def test_other_models_are_refused():
    model = models.vae()
    with pytest.raises(ValueError, match=r"expects to train a `tv.VAE`.*weight="):
        model.fit(
            models.digits(8),
            models.digits(8),
            verbose=0,
            callbacks=[tv.KLWarmup(steps=1)],
        )


def test_the_numbers_of_an_older_file_load():
    old = {str(i): np.float32(i + 1) for i in range(7)}
    schedule = KLSchedule()
    schedule.load_own_variables(old)
    assert [float(v) for v in schedule.weights] == [1, 2, 3, 4, 5, 6, 7, 0]
