"""Many threads on one model: each answer is the one it would be alone."""

import functools
import threading

import keras
import numpy as np
import pytest
import slow
import tensorflow as tf
from models import renewing
from seeding import seed_python

import tfp_vae as tv
from tfp_vae.prediction.output_draws import OutputDraws
from tfp_vae.seeds import Seeds

RNG = np.random.default_rng(4)
X = (RNG.uniform(size=(96, 8)) > 0.5).astype("float32")
Y = X[:, :2].copy()
BATCH = 16


def networks(kl=False):
    after = [tv.KLDivergenceAddLoss(tv.StandardNormal(2))] if kl else []
    q = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.Dense(4),
            tv.IndependentNormal(2, "mean"),
            *after,
        ]
    )
    p = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(8), tv.IndependentBernoulli(8, "mean")]
    )
    return q, p


def vae(rate=0.0):
    model = tv.VAE(*networks(), tv.StandardNormal(2))
    model.compile(keras.optimizers.SGD(rate), jit_compile=False)
    return model


def plain(rate=0.0):
    x = keras.Input((8,))
    h = keras.layers.Dense(6, activation="tanh")(x)
    model = tv.Model(x, keras.layers.Dense(2)(h))
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model


def with_kl(rate=0.0):
    """The layers' way."""
    q, p = networks(kl=True)
    model = tv.Model(q.inputs[0], p(q.outputs[0]))
    model.compile(keras.optimizers.SGD(rate), loss=tv.NegativeLogLikelihood())
    return model


MODELS = {"vae": (vae, (X,)), "model": (plain, (X, Y)), "layers": (with_kl, (X, X))}

ANSWERS = {
    "predict": lambda m: m.predict(X, batch_size=BATCH, verbose=0),
    "predict stddev": lambda m: m.predict(X, verbose=0, statistics="stddev"),
    "predict both": lambda m: m.predict(X, verbose=0, statistics=["mean", "mode"]),
    "reconstruct": lambda m: m.reconstruct(X, batch_size=BATCH),
    "encode": lambda m: m.encode(X).mean().numpy(),
    "decode": lambda m: m.decode(X[:, :2]).mean().numpy(),
    "call": lambda m: m(X).mean().numpy(),
    "log_prob": lambda m: m.log_prob(X, num_samples=4, seed=3, verbose=0),
    "elbo": lambda m: m.elbo(X, num_samples=2, seed=3, verbose=0),
    "generate": lambda m: m.generate(20, seed=5),
    "interpolate": lambda m: m.interpolate(X[:3], X[3:6], 4),
    "traverse": lambda m: m.traverse(X[:2]),
}
OF_MODELS = {
    "predict": lambda m: m.predict(X, batch_size=BATCH, verbose=0),
    "predict on batch": lambda m: m.predict_on_batch(X),
}


def together(*tasks):
    """Runs functions in threads that begin at one time; returns what each returned."""
    ready = threading.Barrier(len(tasks))
    found, errors = [None] * len(tasks), []

    def run(i, task):
        try:
            ready.wait(timeout=60)
            found[i] = task()
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=pair, daemon=True)
        for pair in enumerate(tasks)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]
    return found


def repeated(answer, model, times=6):
    return lambda: [answer(model) for _ in range(times)]


def equal(found, expected):
    for each in found:
        keras.tree.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            each,
            expected,
        )


def answers_of(model):
    return ANSWERS if isinstance(model, tv.VAE) else OF_MODELS


@pytest.fixture(scope="module")
def trained():
    """A VAE, and the answers that it gives alone."""
    keras.utils.set_random_seed(2)
    model = vae()
    model.fit(X, batch_size=BATCH, verbose=0)
    return model, {name: answer(model) for name, answer in ANSWERS.items()}


def test_all_answers_at_once_are_those_alone(trained):
    model, alone = trained
    names = [*ANSWERS, *ANSWERS]
    found = together(*[repeated(ANSWERS[name], model, 3) for name in names])
    for name, answers in zip(names, found, strict=True):
        equal(answers, alone[name])


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_beside_itself_is_the_one_alone(trained, name):
    model, alone = trained
    for answers in together(*[repeated(ANSWERS[name], model)] * 4):
        equal(answers, alone[name])


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_beside_evaluation_is_the_one_alone(trained, name):
    model, alone = trained
    answers, _ = together(
        repeated(ANSWERS[name], model),
        lambda: [model.evaluate(X, batch_size=BATCH, verbose=0) for _ in range(6)],
    )
    equal(answers, alone[name])


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_beside_training_is_the_one_alone(trained, name):
    model, alone = trained
    before = int(model.optimizer.iterations)
    answers, history = together(
        repeated(ANSWERS[name], model),
        lambda: model.fit(X, epochs=8, batch_size=BATCH, verbose=0),
    )
    equal(answers, alone[name])
    assert int(model.optimizer.iterations) - before == 8 * 6
    assert len(history.history["loss"]) == 8


def test_no_two_threads_get_the_same_seed():
    seeds, found = Seeds(3), []

    def take():
        for _ in range(200):
            found.append(tuple(seeds.next().numpy()))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == len(found) == 1600


def test_statistics_beside_others_are_not_mixed_up(trained):
    model, alone = trained
    means, stddevs = together(
        repeated(lambda m: m.predict(X, verbose=0, statistics="mean"), model, 20),
        repeated(ANSWERS["predict stddev"], model, 20),
    )
    equal(means, alone["predict"])
    equal(stddevs, alone["predict stddev"])


def test_predictions_beside_evaluation_have_all_rows(trained):
    model, _ = trained
    found, _ = together(
        lambda: [model.predict(X, verbose=0).shape for _ in range(15)],
        lambda: [model.evaluate(X[:32], verbose=0) for _ in range(15)],
    )
    assert set(found) == {(96, 8)}


@pytest.mark.parametrize("kind", MODELS)
def test_training_beside_answers_makes_all_its_steps(kind):
    make, given = MODELS[kind]
    model = make(rate=0.01)
    done = threading.Event()

    def train():
        try:
            return model.fit(*given, epochs=20, batch_size=BATCH, verbose=0)
        finally:
            done.set()

    def ask():
        for _ in range(300):
            for answer in answers_of(model).values():
                answer(model)
                if done.is_set():
                    return

    history, *_ = together(train, ask, ask)
    assert int(model.optimizer.iterations) == 20 * 6
    assert history.epoch == list(range(20))


@pytest.mark.parametrize("kind", MODELS)
def test_training_beside_answers_gives_the_weights_of_training_alone(kind):
    make, given = MODELS[kind]
    found = []
    for others in (0, 2):
        keras.utils.set_random_seed(6)
        model = make(rate=0.05)
        model(X)

        def train(model=model):
            model.fit(*given, epochs=10, batch_size=BATCH, verbose=0, shuffle=False)

        def ask(model=model):
            for _ in range(5):
                for answer in answers_of(model).values():
                    answer(model)

        together(train, *[ask] * others)
        found.append(model.get_weights())
    for ours, alone in zip(*found, strict=True):
        np.testing.assert_allclose(ours, alone, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_training_beside_evaluation_makes_all_its_steps(kind):
    make, given = MODELS[kind]
    model = make(rate=0.01)

    def evaluate():
        for _ in range(30):
            model.evaluate(*given, batch_size=BATCH, verbose=0)

    together(
        lambda: model.fit(*given, epochs=20, batch_size=BATCH, verbose=0), evaluate
    )
    assert int(model.optimizer.iterations) == 20 * 6


def test_two_models_train_at_once():
    models = [vae(0.01), vae(0.01), plain(0.01), with_kl(0.01)]
    data = [(X,), (X,), (X, Y), (X, X)]
    together(
        *[
            lambda m=m, d=d: m.fit(*d, epochs=5, batch_size=BATCH, verbose=0)
            for m, d in zip(models, data, strict=True)
        ]
    )
    assert {int(model.optimizer.iterations) for model in models} == {5 * 6}


def test_two_models_at_once_are_those_one_by_one():
    found = []
    for at_once in (False, True):
        keras.utils.set_random_seed(8)
        models = [with_kl(0.1), with_kl(0.1)]
        tasks = [
            lambda m=m: m.fit(X, X, epochs=3, shuffle=False, verbose=0) for m in models
        ]
        histories = together(*tasks) if at_once else [task() for task in tasks]
        found.append([history.history["loss"] for history in histories])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


# The first calls, which trace


def test_first_calls_of_one_kind_in_many_threads():
    for name, answer in ANSWERS.items():
        keras.utils.set_random_seed(3)
        model = vae()
        found = together(*[lambda a=answer, m=model: a(m)] * 3)
        equal(found, ANSWERS[name](model))


def test_first_calls_of_every_kind_at_once():
    model = vae()
    found = together(*[lambda a=a: a(model) for a in ANSWERS.values()])
    for name, answer in zip(ANSWERS, found, strict=True):
        equal([answer], ANSWERS[name](model))


@pytest.mark.parametrize("kind", MODELS)
def test_first_calls_of_training_and_answers_at_once(kind):
    make, given = MODELS[kind]
    model = make()
    answers = answers_of(model)
    history, logs, *found = together(
        lambda: model.fit(*given, batch_size=BATCH, verbose=0),
        lambda: model.evaluate(*given, verbose=0, return_dict=True),
        *[lambda a=a: a(model) for a in answers.values()],
    )
    assert int(model.optimizer.iterations) == 6
    assert set(history.history) == set(logs)
    for name, answer in zip(answers, found, strict=True):
        equal([answer], answers[name](model))


def test_first_calls_of_evaluation_in_many_threads():
    model = plain()
    found = together(*[lambda: model.evaluate(X, Y, verbose=0)] * 3)
    assert np.isfinite(found).all()
    alone = model.evaluate(X, Y, verbose=0)
    assert alone == pytest.approx(np.mean((model.predict(X, verbose=0) - Y) ** 2))


class Meeting(keras.layers.Layer):
    """Waits in a training call, the first time, until another thread has answered."""

    def __init__(self):
        super().__init__()
        self.inside, self.answered = threading.Event(), threading.Event()

    def call(self, x, training=None):
        if training and not self.inside.is_set():
            self.inside.set()
            assert self.answered.wait(timeout=20)
        return x


def of_two_parts(meeting, kl, regularizer=None, **options):
    q = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(4, activity_regularizer=regularizer),
            tv.IndependentNormal(2, convert_to_tensor_fn="mean"),
            *([tv.KLDivergenceAddLoss(tv.StandardNormal(2))] if kl else []),
        ]
    )
    z = keras.Input((2,))
    p = keras.Model(z, tv.IndependentBernoulli(8)(keras.layers.Dense(8)(meeting(z))))
    if kl:
        model = tv.Model(q.inputs[0], p(q.outputs[0]))
        loss = tv.NegativeLogLikelihood()
        model.compile(keras.optimizers.SGD(0.5), loss=loss, **options)
    else:
        model = tv.VAE(q, p, tv.StandardNormal(2))
        model.compile(keras.optimizers.SGD(0.5), **options)
    return model


MEANWHILE = {
    "call": lambda m: m(X),
    "predict": lambda m: m.predict(X, verbose=0),
    "test_on_batch": lambda m: m.test_on_batch(X, X),
    "evaluate": lambda m: m.evaluate(X, X, verbose=0),
}


def weights_of_training(meanwhile, kl, **options):
    """The weights of training: alone, or beside an answer in its first step."""
    keras.utils.set_random_seed(13)
    meeting = Meeting()
    model = of_two_parts(meeting, kl, **options)

    def answer():
        assert meeting.inside.wait(timeout=20)
        thread = threading.Thread(target=meanwhile, args=(model,), daemon=True)
        thread.start()
        thread.join(timeout=1.0)  # It may have to wait for the step.
        meeting.answered.set()
        thread.join(timeout=60)

    if meanwhile is None:
        meeting.inside.set()
    others = [answer] if meanwhile else []
    together(lambda: model.fit(X, X, epochs=3, batch_size=96, verbose=0), *others)
    return model.get_weights()


@functools.cache
def weights_of_training_alone(kl, penalty=0.0, **options):
    return weights_of_training(None, kl, regularizer=l2(penalty), **options)


def l2(penalty):
    return keras.regularizers.L2(penalty) if penalty else None


WITH_XLA = [(name, {"jit_compile": True}) for name in MEANWHILE]


@pytest.mark.parametrize(
    ("meanwhile", "options"),
    [(name, {}) for name in MEANWHILE] + slow.except_for(WITH_XLA[:1], WITH_XLA),
    ids=str,
)
@pytest.mark.parametrize("kl", [False, True])
def test_an_answer_in_the_middle_of_a_first_step_leaves_it_whole(
    kl, meanwhile, options
):
    alone = weights_of_training_alone(kl, **options)
    beside = weights_of_training(MEANWHILE[meanwhile], kl, **options)
    for ours, expected in zip(beside, alone, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["encode", "decode", "elbo", "predictive"])
def test_what_a_layer_adds_to_the_loss_is_not_that_of_an_answer(name):
    ask = {
        "encode": lambda m: m.encode(X[:8]),
        "decode": lambda m: m.decode(X[:8, :2]),
        "elbo": lambda m: m.elbo(X[:8], verbose=0),
        "predictive": lambda m: OutputDraws(m, False).output(X[:8], [1, 2], 0, 0),
    }[name]
    alone = weights_of_training_alone(False, penalty=1.0)
    beside = weights_of_training(ask, False, regularizer=l2(1.0))
    for ours, expected in zip(beside, alone, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


# Callbacks


class Asks(keras.callbacks.Callback):
    def __init__(self, ask):
        super().__init__()
        self.ask, self.answers = ask, []

    def on_train_batch_end(self, batch, logs=None):
        self.answers.append(self.ask(self.model))


ASKED = {
    **ANSWERS,
    "test_on_batch": lambda m: m.test_on_batch(X),
    "evaluate": lambda m: m.evaluate(X, verbose=0),
}


def asked_between_steps(model, ask):
    """Trains; returns the weights."""
    seed_python(11)
    before = int(model.optimizer.iterations)
    callback = Asks(ask)
    model.fit(X, epochs=2, batch_size=32, verbose=0, callbacks=[callback])
    assert len(callback.answers) == 6
    assert int(model.optimizer.iterations) - before == 6
    return model.get_weights()


@pytest.fixture(scope="module")
def training():
    """A function that renews a model, and the weights of its training alone."""
    renewed = renewing(vae(rate=0.1))
    return renewed, asked_between_steps(renewed(), lambda model: None)


@pytest.mark.parametrize("name", ASKED)
def test_training_that_is_asked_between_steps_is_that_without(name, training):
    renewed, alone = training
    asked = asked_between_steps(renewed(), ASKED[name])
    for ours, expected in zip(asked, alone, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", MODELS)
def test_batches_can_be_tested_in_a_callback(kind):
    make, given = MODELS[kind]
    model = make(rate=0.01)
    callback = Asks(lambda m: m.test_on_batch(*given))
    model.fit(*given, epochs=2, batch_size=BATCH, verbose=0, callbacks=[callback])
    assert int(model.optimizer.iterations) == 2 * 6
    assert len(callback.answers) == 2 * 6


def test_evaluation_in_a_callback_gives_the_numbers_alone():
    model = plain(rate=0.1)
    callback = Asks(
        lambda m: (
            m.evaluate(X, Y, verbose=0),
            np.mean((m.predict(X, verbose=0) - Y) ** 2),
        )
    )
    model.fit(X, Y, batch_size=BATCH, verbose=0, callbacks=[callback])
    for evaluated, predicted in callback.answers:
        assert evaluated == pytest.approx(predicted, rel=1e-4)


def test_another_model_trains_inside_a_callback():
    inner, outer = vae(0.1), vae(0.1)
    callback = Asks(lambda _: inner.fit(X, batch_size=48, verbose=0))
    outer.fit(X, batch_size=BATCH, verbose=0, callbacks=[callback])
    assert int(outer.optimizer.iterations) == 6
    assert int(inner.optimizer.iterations) == 12


# Networks inside networks


def outer_of(inner, cls=tv.Model, training=None):
    class Outer(cls):
        def __init__(self):
            super().__init__()
            self.inner, self.seen = inner, []
            self.scale = self.add_weight(shape=(), initializer="ones")

        def call(self, x, training=None):
            seen = tf.convert_to_tensor(self.inner(x, **self.options))
            return self.scale * seen

        def train_step(self, batch):
            x, *_ = keras.utils.unpack_x_y_sample_weight(batch)
            logs = super().train_step(batch)
            return {**logs, "seen": tf.reduce_mean(self(x, training=True))}

    model = Outer()
    model.options = {} if training is None else {"training": training}
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


@pytest.mark.parametrize("cls", [keras.Model, tv.Model])
def test_a_vae_inside_another_step_gives_its_mean_where_that_is_asked(cls):
    inner = vae()
    inner.trainable = False
    model = outer_of(inner, cls, training=False)
    loss = model.fit(X, X, verbose=0, batch_size=96).history["loss"][0]
    mean = inner.predict(X, verbose=0)
    assert loss == pytest.approx(np.mean((mean - X) ** 2), rel=1e-5)


@pytest.mark.parametrize("cls", [keras.Model, tv.Model])
def test_a_vae_inside_another_network_is_its_mean_in_evaluation(cls):
    inner = vae()
    model = outer_of(inner, cls)
    mean = inner.predict(X, verbose=0)
    assert model.evaluate(X, X, verbose=0) == pytest.approx(
        np.mean((mean - X) ** 2), rel=1e-5
    )
    np.testing.assert_allclose(model.predict(X, verbose=0), mean, rtol=1e-5)


def test_a_vae_inside_a_step_of_a_vae_gives_its_mean():
    inner, seen = vae(), []

    class Distilled(tv.VAE):
        def train_step(self, batch):
            x, *_ = keras.utils.unpack_x_y_sample_weight(batch)
            seen.append(tf.reduce_mean(tf.convert_to_tensor(inner(x, training=False))))
            return {**super().train_step(batch), "seen": seen[-1]}

    model = Distilled(*networks(), tv.StandardNormal(2))
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    history = model.fit(X, batch_size=96, verbose=0).history
    assert history["seen"][0] == pytest.approx(
        inner.predict(X, verbose=0).mean(), rel=1e-5
    )


def test_models_nest_and_answer_from_many_threads():
    inner = plain()
    x = keras.Input((8,))
    outer = tv.Model(x, keras.layers.Dense(1)(inner(x)))
    outer.compile(keras.optimizers.SGD(0.0), "mse")
    alone = outer.predict(X, verbose=0), inner.predict(X, verbose=0)
    whole, part, *_ = together(
        repeated(lambda m: m.predict(X, verbose=0), outer),
        repeated(lambda m: m.predict(X, verbose=0), inner),
        lambda: outer.fit(X, Y[:, :1], epochs=5, verbose=0),
        lambda: inner.fit(X, Y, epochs=5, verbose=0),
    )
    equal(whole, alone[0])
    equal(part, alone[1])
