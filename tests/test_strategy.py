"""Two replicas on two logical CPU devices."""

import keras
import models
import numpy as np
import pytest
import tensorflow as tf
import vaes

import tfp_vae as tv

X = models.digits(65)


@pytest.fixture
def strategy():
    # TF's collective ops mix up several strategies in one process.
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], reduction)


def test_two_replicas_give_the_numbers_of_one(strategy):
    """Exact KL and no noise; 65 examples leave one replica an empty last batch."""
    w = np.random.default_rng(0).uniform(size=(65, 8, 8, 1)).astype("float32")
    logs = []
    for scope in (strategy.scope(), tf.distribute.get_strategy().scope()):
        keras.utils.set_random_seed(3)
        with scope:
            model = models.vae(compiled=False, conversion="mean")
            model.compile(
                "adam",
                loss=tv.NegativeLogLikelihood(),
                metrics=[tv.LogLikelihood(negative=True), "mae"],
                weighted_metrics=[tv.LogLikelihood()],
            )
        logs.append(
            model.evaluate(
                X, X, sample_weight=w, batch_size=64, verbose=0, return_dict=True
            )
        )
    assert set(logs[0]) == {"loss", "nll", "kl", "mae", "log_likelihood"}
    for name in ("nll", "kl", "mae", "log_likelihood"):
        assert logs[0][name] == pytest.approx(logs[1][name], rel=1e-5)
    # Keras averages the losses of replicas that had unlike numbers of examples.
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], rel=0.05)


def test_batches_need_not_divide_by_the_replicas(strategy):
    """The first batch of five is cut into three and two."""
    with strategy.scope():
        model = vaes.vae()
    x = np.ones((12, *vaes.PIXELS), "float32")
    history = model.fit(x, batch_size=5, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def test_two_replicas_take_the_gradient_steps_of_one(strategy):
    weights = []
    for scope in (strategy.scope(), tf.distribute.get_strategy().scope()):
        keras.utils.set_random_seed(3)
        with scope:
            model = models.vae(compiled=False, conversion="mean")
            model.compile(keras.optimizers.SGD(0.01), loss=tv.NegativeLogLikelihood())
        model.fit(X[:64], X[:64], batch_size=32, epochs=2, shuffle=False, verbose=0)
        weights.append(model.get_weights())
    for left, right in zip(*weights, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [tv.IndependentNormal, tv.MultivariateNormalDiag, tv.MultivariateNormalTriL],
)
def test_training_with_an_empty_replica_stays_finite(layer, strategy):
    with strategy.scope():
        model = models.vae(posterior=layer, prior=models.learned_prior())
    history = model.fit(X, X, batch_size=64, epochs=2, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())
    assert model.predict(X, verbose=0).shape == X.shape


def test_replicas_draw_different_noise(strategy):
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), tv.IndependentNormal(1)])
    draws = model.predict(np.zeros((8, 2)), batch_size=8, verbose=0).ravel()
    assert len(set(draws.tolist())) == 8


def test_a_model_without_distribution_is_still_an_error(strategy):
    """Keras' symbolic build shows the loss a placeholder, a real step the output."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        model.compile("sgd", loss=tv.NegativeLogLikelihood())
    with pytest.raises(ValueError, match="output to be a distribution"):
        model.fit(np.zeros((8, 2)), np.zeros((8, 2)), verbose=0)


def test_the_symbolic_build_reaches_the_loss(strategy, monkeypatch):
    """If Keras renames its scratch graph, this placeholder is no longer recognised."""
    seen = []
    from tfp_vae import losses

    original = losses.distribution_of

    def spy(y_pred, caller):
        found = original(y_pred, caller)
        seen.append(found is None)
        return found

    monkeypatch.setattr(losses, "distribution_of", spy)
    with strategy.scope():
        model = models.vae()
    model.fit(X, X, verbose=0)
    assert seen[0]
    assert not all(seen)


def test_several_steps_of_replicas_in_a_program_are_those_of_one_after_the_other(
    strategy,
):
    histories = []
    for steps in (None, 4):  # 9 batches, of validation 3
        keras.utils.set_random_seed(3)
        with strategy.scope():
            model = vaes.vae(compiled=False)
            model.compile(keras.optimizers.Adam(0.01), steps_per_execution=steps)
        how = {"batch_size": 8, "shuffle": False, "validation_data": (X[:20],)}
        histories.append(model.fit(X, epochs=2, verbose=0, **how).history)
        assert float(tf.convert_to_tensor(model.optimizer.iterations)) == 18
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-5, err_msg=name)


def test_an_optimizer_that_accumulates_gradients_evaluates_on_replicas(strategy):
    with strategy.scope():
        model = models.vae(compiled=False, conversion="mean")
        optimizer = keras.optimizers.Adam(gradient_accumulation_steps=2)
        model.compile(optimizer, loss=tv.NegativeLogLikelihood())
    assert np.isfinite(model.evaluate(X, X, verbose=0, return_dict=True)["loss"])
