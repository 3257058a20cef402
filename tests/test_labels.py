"""`VAE(classifier=...)`: unknown labels are summed out, known ones conditioned on."""

import keras
import labelled
import linear_gaussian
import numpy as np
import pytest
import slow
import tensorflow as tf
import tensorflow_probability as tfp
from scipy import optimize, special, stats

import tfp_vae as tv
from tfp_vae.models.labels import MeanOfLabelled

tfd = tfp.distributions

K, N = labelled.K, 24
X, CLASSES = labelled.data(N)
PRIOR = [0.5, 0.3, 0.2]
SHARES = {"all known": 0.0, "none known": 1.0, "half known": 0.5}


def seen(model, x, *rest, **options):
    return model.evaluate(x, *rest, verbose=0, return_dict=True, **options)


def same_numbers(found, exact, names=None, atol=0.02):
    names = names or ("loss", "nll", "kl", "classification_loss", "accuracy")
    for name in names:
        np.testing.assert_allclose(found[name], exact[name], atol=atol, err_msg=name)


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
def test_the_bound_is_the_exhaustive_sum(share):
    labels = labelled.hidden(CLASSES, share)
    weights = np.linspace(0.5, 2.0, N)
    model = labelled.vae(
        objective=tv.ELBO(num_samples=400), label_prior=PRIOR, alpha=3.0
    )
    exact = labelled.bound(X, labels, PRIOR, 3.0, weights=weights)
    found = seen(model, X, labels, sample_weight=weights, batch_size=N)
    same_numbers(found, exact)
    assert found["elbo"] == pytest.approx(-found["nll"] - found["kl"], rel=1e-5)


@pytest.mark.parametrize(
    ("objective", "cost"),
    [
        (tv.ELBO(400, free_bits=7.0), lambda kl: np.maximum(kl, 7.0).sum()),
        (tv.ELBO(400, capacity=5.0), lambda kl: abs(kl.sum() - 5.0)),
        (tv.ELBO(400, beta=2.0), None),
    ],
    ids=["free bits", "capacity", "beta"],
)
def test_costs_of_the_kl_weigh_the_classes(objective, cost):
    labels = labelled.hidden(CLASSES)
    weights = np.linspace(0.5, 2.0, N)
    exact = labelled.bound(X, labels, cost=cost, weights=weights)
    if cost is None:  # beta weighs the KL of z alone
        kl = labelled.terms(X)[1]
        share = np.exp(labelled.log_q(X))
        share = np.where((labels >= 0)[:, None], np.eye(K)[labels], share)
        exact["loss"] += np.mean(weights * np.sum(share * kl.sum(-1), axis=-1))
    model = labelled.vae(objective=objective)
    found = seen(model, X, labels, sample_weight=weights, batch_size=N)
    same_numbers(found, exact)


@pytest.mark.parametrize("gradient", ["total", "stl", "dreg"])
def test_k_draws_are_inside_the_sum_over_classes(gradient):
    """With the exact posterior, L_k(x, y) = log p(x | y) whatever k."""
    objective = tv.ImportanceWeightedBound(3, gradient)
    model = labelled.vae(labelled.exact_encoder(), objective=objective)
    q = labelled.log_q(X)
    exact = -np.sum(np.exp(q) * (labelled.log_evidence(X) - np.log(K) - q), axis=-1)
    assert seen(model, X)["loss"] == pytest.approx(exact.mean(), abs=1e-4)


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
def test_the_gradient_of_the_classifier_is_that_of_the_sum(share):
    labels = labelled.hidden(CLASSES, share)
    model = labelled.vae(objective=tv.ELBO(400), alpha=2.0)
    before = [w.numpy() for w in model.classifier.trainable_weights]
    model.fit(X, labels, batch_size=N, verbose=0)
    after = [w.numpy() for w in model.classifier.trainable_weights]
    found = np.hstack([(b - a).ravel() for b, a in zip(before, after, strict=True)])

    def loss(flat):
        v, v0 = flat[: labelled.V.size].reshape(labelled.V.shape), flat[-K:]
        return labelled.bound(X, labels, alpha=2.0, v=v, v0=v0)["loss"]

    start = np.hstack([labelled.V.ravel(), labelled.V0])
    exact = optimize.approx_fprime(start, loss, 1e-6)
    assert np.abs(exact).max() > 0.05
    np.testing.assert_allclose(found, exact, atol=0.02)


def conditional(**options):
    return labelled.vae(classifier=None, conditional=True, **options)


def test_with_all_labels_known_it_is_the_conditional_vae():
    """The same draws, so the same numbers and steps, up to log p(y) and q(y | x)."""
    found = []
    for labels in (CLASSES, np.eye(K, dtype="float32")[CLASSES]):
        networks = labelled.rough_encoder(), labelled.decoder()
        mine = {"classifier": labelled.classifier(), "alpha": 2.0}
        options = mine if labels is CLASSES else {"conditional": True}
        keras.utils.set_random_seed(5)
        model = tv.VAE(*networks, tv.StandardNormal(labelled.D), **options)
        model.compile(keras.optimizers.SGD(0.01), jit_compile=False)
        found.append((seen(model, X, labels), model))
    (mine, model), (theirs, other) = found
    surprise = -labelled.log_q(X)[np.arange(N), CLASSES].mean()
    assert mine["nll"] == pytest.approx(theirs["nll"], rel=1e-5)
    assert mine["kl"] == pytest.approx(theirs["kl"] + np.log(K), rel=1e-5)
    added = np.log(K) + 2.0 * surprise
    assert mine["loss"] == pytest.approx(theirs["loss"] + added, rel=1e-5)
    model.fit(X, CLASSES, shuffle=False, verbose=0)
    other.fit(X, np.eye(K, dtype="float32")[CLASSES], shuffle=False, verbose=0)
    for name in ("encoder", "decoder"):
        pairs = zip(
            getattr(model, name).get_weights(),
            getattr(other, name).get_weights(),
            strict=True,
        )
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_log_prob_is_that_of_the_mixture():
    model = labelled.vae(labelled.exact_encoder(), label_prior=PRIOR)
    joint = labelled.log_evidence(X) + np.log(PRIOR)
    whole = special.logsumexp(joint, axis=-1)
    labels = labelled.hidden(CLASSES)
    exact = np.where(labels < 0, whole, joint[np.arange(N), CLASSES])
    np.testing.assert_allclose(model.log_prob(X, 3), whole, atol=5e-5)
    np.testing.assert_allclose(model.log_prob(X, 3, y=labels), exact, atol=5e-5)
    few = model.log_prob(X, 3, y=labels[:, None].astype("float64"), batch_size=5)
    np.testing.assert_allclose(few, exact, atol=5e-5)


def test_one_bar_shows_the_progress_of_all_classes(capsys):
    model = labelled.vae(labelled.exact_encoder())
    model.log_prob(X, 3, y=labelled.hidden(CLASSES), verbose=1)
    shown = capsys.readouterr().out
    assert f"{K + 1}/{K + 1}" in shown  # the known labels, and each class
    assert "1/1" not in shown


def test_elbo_is_the_bound_of_each_row():
    labels = labelled.hidden(CLASSES)
    model = labelled.vae(label_prior=PRIOR)
    exact = -labelled.bound(X, labels, PRIOR, alpha=0.0)["rows"]
    np.testing.assert_allclose(model.elbo(X, 200, y=labels), exact, atol=0.05)
    pairs = tf.data.Dataset.from_tensor_slices((X, labels)).batch(7)
    np.testing.assert_allclose(model.elbo(pairs, 200), exact, atol=0.05)


def test_classify_is_q_of_y():
    for last in (None, tv.DistributionLambda(lambda t: tfd.Categorical(logits=t))):
        model = labelled.vae(classifier=labelled.classifier(last))
        found = model.classify(X, batch_size=7)
        np.testing.assert_allclose(found, np.exp(labelled.log_q(X)), atol=1e-5)


def test_answers_about_x_alone_take_the_most_probable_class():
    model = labelled.vae()
    best = labelled.log_q(X).argmax(-1).astype("int32")
    labels = labelled.hidden(CLASSES)
    filled = np.where(labels < 0, best, labels)
    for given, exact in ((None, best), (labels, filled)):
        np.testing.assert_array_equal(
            model.encode(X, given).mean(), model.encode(X, exact).mean()
        )
        np.testing.assert_array_equal(
            model.reconstruct(X, given), model.reconstruct(X, exact)
        )
        np.testing.assert_array_equal(
            model.traverse(X, y=given), model.traverse(X, y=exact)
        )
        np.testing.assert_array_equal(
            model.interpolate(X, X[::-1], 3, y=given),
            model.interpolate(X, X[::-1], 3, y=exact),
        )
    np.testing.assert_allclose(model(X).mean(), model.reconstruct(X), atol=1e-5)
    z = model.encode(X).mean()
    one_hot = np.eye(K)[best]
    loc = z @ linear_gaussian.W.T + linear_gaussian.B + one_hot @ labelled.U
    np.testing.assert_allclose(model.decode(z, best).mean(), loc, atol=1e-4)
    assert model.predict(X, y=labels, statistics="stddev", verbose=0).shape == X.shape


def test_new_examples_have_classes_of_the_prior():
    model = labelled.vae(label_prior=PRIOR)
    mean = model.generate(4000, seed=3).mean(axis=0)
    exact = linear_gaussian.B + PRIOR @ labelled.U
    # Standard errors of up to 0.05.
    np.testing.assert_allclose(mean, exact, atol=0.2)
    np.testing.assert_array_equal(model.generate(9, seed=3), model.generate(9, seed=3))
    labels = np.array([0, -1] * 500)
    half = model.generate(1000, y=labels, seed=1)[::2].mean(axis=0)
    np.testing.assert_allclose(half, linear_gaussian.B + labelled.U[0], atol=0.4)


def test_a_learned_prior_learns_the_frequencies_of_the_classes():
    classes = np.repeat([0, 1, 2], [15, 6, 3])
    model = labelled.vae(label_prior="learned", compiled=False)
    for part in (model.encoder, model.decoder, model.classifier):
        part.trainable = False
    model.compile(keras.optimizers.SGD(2.0))
    np.testing.assert_allclose(model.log_prob(X, 2, seed=1, y=classes).shape, (N,))
    model.fit(X, classes, batch_size=N, epochs=100, verbose=0)
    found = np.exp(model._labels.log_prior().numpy())
    np.testing.assert_allclose(found, [15 / 24, 6 / 24, 3 / 24], atol=1e-3)


FORMS = {
    "-1": lambda labels: labels,
    "NaN": lambda labels: np.where(labels < 0, np.nan, labels),
    "a column": lambda labels: labels[:, None].astype("int64"),
}


@pytest.mark.parametrize("form", slow.except_for(("NaN",), FORMS))
def test_labels_come_in_every_form(form):
    labels = labelled.hidden(CLASSES)
    given = FORMS[form](labels)
    model = labelled.vae(objective=tv.ELBO(400))
    exact = labelled.bound(X, labels)
    same_numbers(seen(model, X, given), exact)
    data = tf.data.Dataset.from_tensor_slices((X, given)).batch(N)
    same_numbers(seen(model, data), exact)
    weights = np.linspace(0, 2, N).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((X, given, weights)).batch(N)
    exact = labelled.bound(X, labels, weights=weights)
    same_numbers(seen(model, data), exact)


def test_without_labels_all_are_unknown():
    model = labelled.vae(objective=tv.ELBO(400))
    exact = labelled.bound(X, np.full(N, -1))
    found = seen(model, X)
    same_numbers(found, exact)
    assert np.isnan(found["accuracy"])
    assert np.isnan(found["classification_loss"])
    weights = np.linspace(0, 2, N)
    exact = labelled.bound(X, np.full(N, -1), weights=weights)
    same_numbers(seen(model, X, sample_weight=weights), exact, ("loss",))
    history = model.fit(X, verbose=0, validation_data=(X, CLASSES)).history
    assert np.isnan(history["accuracy"][0])
    assert 0 <= history["val_accuracy"][0] <= 1


@pytest.mark.parametrize("share", slow.except_for(("half known",), SHARES))
def test_xla_computes_the_same(share):
    labels = labelled.hidden(CLASSES, SHARES[share])
    found = []
    for jit_compile in (True, False):
        keras.utils.set_random_seed(2)
        model = labelled.vae(compiled=False)
        model.compile(
            keras.optimizers.SGD(0.01), jit_compile=jit_compile, steps_per_execution=2
        )
        found.append(model.fit(X, labels, epochs=2, batch_size=6, verbose=0).history)
    for name in found[0]:
        np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-3, atol=1e-4)


def test_replicas_compute_the_same():
    strategy = tf.distribute.MirroredStrategy(
        ["CPU:0", "CPU:1"], tf.distribute.ReductionToOneDevice()
    )
    labels, found = labelled.hidden(CLASSES), []
    order = np.random.default_rng(0).permutation(N)
    for scope in (strategy.scope(), tf.distribute.get_strategy().scope()):
        with scope:
            model = labelled.vae(compiled=False, objective=tv.ELBO(400))
            model.compile(keras.optimizers.SGD(0.01), metrics=[tv.ActiveUnits()])
        model.fit(X[order], labels[order], batch_size=N, shuffle=False, verbose=0)
        shown = seen(model, X[order], labels[order], batch_size=N)
        found.append((shown, model.classifier.get_weights()))
    same_numbers(found[0][0], found[1][0])
    for a, b in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_a_saved_model_answers_as_before(tmp_path):
    labels = labelled.hidden(CLASSES)
    model = labelled.vae(label_prior="learned", alpha=0.5)
    model.compile("adam")
    model.fit(X, labels, verbose=0)
    model.save(tmp_path / "vae.keras")
    again = keras.models.load_model(tmp_path / "vae.keras")
    assert again.get_config() == {**again.get_config(), "alpha": 0.5}
    for a, b in (
        (model.classify(X), again.classify(X)),
        (
            model.log_prob(X, 5, y=labels, seed=1),
            again.log_prob(X, 5, y=labels, seed=1),
        ),
        (model.generate(5, seed=1), again.generate(5, seed=1)),
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    again.fit(X, labels, verbose=0)
    fixed = labelled.vae(label_prior=np.array(PRIOR))
    assert type(fixed).from_config(fixed.get_config())._labels.prior == tuple(PRIOR)


def test_an_export_takes_labels(tmp_path):
    model = labelled.vae(labelled.exact_encoder(), label_prior=PRIOR)
    model.export(tmp_path / "served", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "served"))
    labels = tf.constant(labelled.hidden(CLASSES))
    joint = labelled.log_evidence(X) + np.log(PRIOR)
    whole = special.logsumexp(joint, axis=-1)
    exact = np.where(labels < 0, whole, joint[np.arange(N), CLASSES])
    x = tf.constant(X)
    np.testing.assert_allclose(served.log_prob(x, 3, labels), exact, atol=5e-5)
    np.testing.assert_allclose(served.classify(x), model.classify(X), atol=1e-5)
    np.testing.assert_allclose(
        served.reconstruct(x, labels), model.reconstruct(X, labels), atol=1e-4
    )
    mean = served.encode(x, labels)["mean"]
    np.testing.assert_allclose(mean, model.encode(X, labels).mean(), atol=1e-5)
    found = served.decode(mean, tf.constant(CLASSES))
    np.testing.assert_allclose(found, model.decode(mean, CLASSES).mean(), atol=1e-4)
    new = served.generate(3, 1, tf.constant([0, -1, 2]))
    np.testing.assert_array_equal(new, served.generate(3, 1, tf.constant([0, -1, 2])))
    for bad in ([-2], [K]):
        with pytest.raises(tf.errors.InvalidArgumentError, match="y is"):
            served.encode(x[:1], tf.constant(bad))
    with pytest.raises(tf.errors.InvalidArgumentError, match="y is below 0"):
        served.decode(mean[:1], tf.constant([-1]))


def test_entries_of_x_may_be_missing_too():
    """Those that are missing in every row leave no trace in the numbers."""
    labels = labelled.hidden(CLASSES)
    holes = X.copy()
    holes[3:9, 1] = np.nan
    model = labelled.vae(missing="nan", objective=tv.ELBO(50))
    found = seen(model, holes, labels)
    entries = np.where(np.isnan(holes), 0.0, 1.0)
    other = seen(
        labelled.vae(objective=tv.ELBO(50)),
        np.nan_to_num(holes),
        labels,
        sample_weight=entries,
    )
    same_numbers(found, other, atol=0.05)
    np.testing.assert_allclose(
        model.classify(holes), np.exp(labelled.log_q(np.nan_to_num(holes))), atol=1e-5
    )
    assert np.isfinite(model.fit(holes, labels, verbose=0).history["loss"]).all()
    assert np.isfinite(model.log_prob(holes, 3, y=labels)).all()


def wide_encoder():
    """q(z | x, y) = N(0, 1), a proposal for every row, class and mask."""
    x, y = keras.Input((labelled.X,)), keras.Input((K,))
    h = keras.layers.Dense(2 * labelled.D)(keras.layers.concatenate([x, y]))
    network = keras.Model([x, y], tv.IndependentNormal(labelled.D)(h))
    bias = np.repeat([0.0, np.log(np.expm1(1.0))], labelled.D)
    kernel = np.zeros((labelled.X + K, 2 * labelled.D))
    network.set_weights([kernel, bias])
    return network


def of_the_mixture(row, gap, label):
    """Mean and variance of missing entries: a mixture of normals over the classes."""
    marginal = linear_gaussian.W @ linear_gaussian.W.T
    marginal += linear_gaussian.SCALE**2 * np.eye(labelled.X)
    gain = marginal[np.ix_(gap, ~gap)] @ np.linalg.inv(marginal[np.ix_(~gap, ~gap)])
    centers = linear_gaussian.B + labelled.U
    log_p = np.log(PRIOR) + [
        stats.multivariate_normal(c[~gap], marginal[np.ix_(~gap, ~gap)]).logpdf(
            row[~gap]
        )
        for c in centers
    ]
    shares = special.softmax(log_p) if label < 0 else np.eye(K)[label]
    means = centers[:, gap] + (row[~gap] - centers[:, ~gap]) @ gain.T
    inner = np.diag(marginal[np.ix_(gap, gap)] - gain @ marginal[np.ix_(~gap, gap)])
    mean = shares @ means
    return mean, shares @ means**2 - mean**2 + inner


def test_imputation_sums_over_unknown_labels(tmp_path):
    """Against the normal of a known class, and the mixture of all."""
    model = labelled.vae(wide_encoder(), label_prior=PRIOR, missing="nan")
    gaps = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 1]], bool)
    rows = np.where(gaps, np.float32(np.nan), X[:3])
    labels = np.array([-1, CLASSES[1], -1])
    found = model.impute(rows, 40_000, y=labels, seed=1)
    drawn = model.impute(rows, 40_000, draws=1000, y=labels, seed=2)
    model.export(tmp_path)
    served = tf.saved_model.load(tmp_path)
    y = tf.constant(labels, tf.int32)
    exported = served.impute(rows, tf.constant(20_000), y).numpy()
    for i, gap in enumerate(gaps):
        mean, variance = of_the_mixture(X[i].astype("float64"), gap, labels[i])
        spread = np.sqrt(variance)
        # Of wide proposals a few hundred draws count.
        assert (np.abs(found[i, gap] - mean) < 0.25 * spread).all()
        assert (np.abs(exported[i, gap] - mean) < 0.3 * spread).all()
        assert (np.abs(drawn[:, i, gap].mean(axis=0) - mean) < 0.3 * spread).all()
        assert (np.abs(drawn[:, i, gap].std(axis=0) / spread - 1) < 0.3).all()
        np.testing.assert_array_equal(found[i, ~gap], X[i, ~gap])


def test_entries_given_others_sum_over_unknown_labels():
    model = labelled.vae(wide_encoder(), label_prior=PRIOR, missing="nan")
    given = np.array([True, True, False, False])
    found = model.log_prob(X[:3], 40_000, given=given, seed=1)
    marginal = linear_gaussian.W @ linear_gaussian.W.T
    marginal += linear_gaussian.SCALE**2 * np.eye(labelled.X)
    part = [
        stats.multivariate_normal(c[:2], marginal[:2, :2]).logpdf(X[:3, :2])
        for c in linear_gaussian.B + labelled.U
    ]
    exact = special.logsumexp(labelled.log_evidence(X[:3]) + np.log(PRIOR), axis=-1)
    exact -= special.logsumexp(np.stack(part, axis=-1) + np.log(PRIOR), axis=-1)
    np.testing.assert_allclose(found, exact, atol=0.15)


def test_labels_with_a_mask_as_input_and_a_model_of_it():
    """Three inputs of the encoder; the classifier sees x without gaps."""
    x, observed = keras.Input((labelled.X,)), keras.Input((labelled.X,))
    y = keras.Input((K,))
    h = keras.layers.concatenate([x, observed, y])
    q = tv.IndependentNormal(labelled.D)(keras.layers.Dense(2 * labelled.D)(h))
    mask = keras.Sequential(
        [
            keras.Input((labelled.X,)),
            keras.layers.Dense(labelled.X),
            tv.IndependentBernoulli(labelled.X),
        ]
    )
    model = labelled.vae(
        keras.Model([x, observed, y], q),
        missing="nan",
        missing_fill="learned",
        missing_input=True,
        missing_model=mask,
    )
    holes = X.copy()
    holes[::3, 1] = np.nan
    labels = labelled.hidden(CLASSES)
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit(holes, labels, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert np.isfinite(model.impute(holes, 20, y=labels)).all()
    assert np.isfinite(model.classify(holes)).all()


def test_a_class_that_cannot_be_counts_nothing():
    """A likelihood of 0 under a class that a known label excludes."""
    z, y = keras.Input((2,)), keras.Input((2,))
    low = keras.layers.Dense(1)(keras.layers.concatenate([z, y]))
    between = tv.DistributionLambda(
        lambda t: tfd.Independent(tfd.Uniform(t, t + 1.0), 1)
    )
    p = keras.Model([z, y], between(low))
    p.set_weights([np.array([[0.0], [0.0], [0.0], [2.0]]), np.zeros(1)])
    x, y = keras.Input((1,)), keras.Input((2,))
    h = keras.layers.Dense(4)(keras.layers.concatenate([x, y]))
    q = keras.Model([x, y], tv.IndependentNormal(2)(h))
    c = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(2), tv.OneHotCategorical(2)]
    )
    model = tv.VAE(q, p, tv.StandardNormal(2), classifier=c)
    model.compile("adam", jit_compile=False)
    x = np.full((2, 1), 2.5, "float32")
    known = model.evaluate(x, [1, 1], verbose=0, return_dict=True)
    assert known["nll"] == 0.0
    # In a step with unknown labels too, which computes all classes.
    labels = tf.constant([1, 1])
    loss, shown = model._loss_and_terms((x, labels), tf.constant(x), None, False, "all")
    assert np.isfinite(loss)
    np.testing.assert_array_equal(shown["nll"], [0.0, 0.0])
    assert seen(model, x)["nll"] == np.inf


def test_a_class_without_probability_counts_nothing():
    """Against the sum over the other classes."""
    network = keras.Sequential(
        [
            keras.Input((labelled.X,)),
            keras.layers.Dense(K),
            tv.OneHotCategorical(K),
        ]
    )
    never = np.array([0.0, 0.0, -np.inf])
    network.set_weights([labelled.V, labelled.V0 + never])
    labels = np.where(CLASSES == 2, -1, CLASSES)
    labels[:4] = -1
    model = labelled.vae(classifier=network, objective=tv.ELBO(50))
    found = seen(model, X, labels)
    known, (nll, kl) = labels >= 0, labelled.terms(X)
    log_q = special.log_softmax(X @ labelled.V[:, :2] + labelled.V0[:2], axis=-1)
    q = np.where(known[:, None], np.eye(3)[labels][:, :2], np.exp(log_q))
    costs = (nll + kl.sum(-1))[:, :2] + np.log(K)
    entropy = np.where(known, 0.0, np.sum(q * log_q, axis=-1))
    exact = np.sum(q * costs, axis=-1) + entropy
    np.testing.assert_allclose(-found["elbo"], exact.mean(), atol=0.03)
    np.testing.assert_allclose(model.elbo(X, 200, y=labels), -exact, atol=0.1)
    history = model.fit(X, labels, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert all(np.isfinite(w).all() for w in model.encoder.get_weights())


def test_networks_with_a_common_layer_are_not_saved_in_vain(tmp_path):
    """Keras would write a file that it cannot load."""
    x, y, trunk = keras.Input((labelled.X,)), keras.Input((K,)), keras.layers.Dense(5)
    h = keras.layers.concatenate([trunk(x), y])
    q = tv.IndependentNormal(labelled.D)(keras.layers.Dense(2 * labelled.D)(h))
    encoder = keras.Model([x, y], q)
    x = keras.Input((labelled.X,))
    logits = keras.layers.Dense(K)(trunk(x))
    network = keras.Model(x, tv.OneHotCategorical(K)(logits))
    model = labelled.vae(encoder, classifier=network)
    model.fit(X, CLASSES, verbose=0)
    with pytest.raises(ValueError, match=r"kernel.*encoder.*classifier.*save_weights"):
        model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")


def test_metrics_of_keras_see_one_class():
    labels = labelled.hidden(CLASSES)
    model = labelled.vae(compiled=False, objective=tv.ELBO(200))
    model.compile("sgd", metrics=[tv.LogLikelihood(), tv.ActiveUnits()])
    best = np.where(labels < 0, labelled.log_q(X).argmax(-1), labels)
    nll = labelled.terms(X)[0][np.arange(N), best].mean()
    found = seen(model, X, labels, batch_size=N)
    assert found["log_likelihood"] == pytest.approx(-nll, abs=0.05)
    assert found["active_units"] == labelled.D


def test_callbacks_and_plots_take_such_a_model(tmp_path):
    labels = labelled.hidden(CLASSES)
    model = labelled.vae(compiled=False)
    model.compile(keras.optimizers.SGD(1e-3))
    warmup = tv.KLWarmup(epochs=2)
    callbacks = [
        tv.VAETensorBoard(tmp_path, X, labels=CLASSES),
        tv.CollapseAlarm(X, y=labels),
        tv.NaNGuard((X, labels)),
        warmup,
    ]
    history = model.fit(
        X, labels, batch_size=8, epochs=2, callbacks=callbacks, verbose=0
    ).history
    assert np.isfinite(history["loss"]).all()
    tv.plots.plot_latents(model, X, labels=CLASSES)
    tv.plots.plot_kl_per_dimension(model, X)
    assert tv.evaluation.rate_distortion(model, X)


def test_a_prior_of_the_class_gets_one_hot_vectors():
    network = keras.Sequential(
        [
            keras.Input((K,)),
            keras.layers.Dense(2 * labelled.D),
            tv.IndependentNormal(labelled.D),
        ]
    )
    model = tv.VAE(
        labelled.rough_encoder(),
        labelled.decoder(),
        network,
        classifier=labelled.classifier(),
    )
    model.compile("adam", jit_compile=False)
    labels = labelled.hidden(CLASSES)
    assert np.isfinite(model.fit(X, labels, verbose=0).history["loss"]).all()
    kernel, bias = network.get_weights()
    loc = (np.eye(K)[CLASSES] @ kernel + bias)[:, : labelled.D]
    found = model.prior_distribution(CLASSES).mean()
    np.testing.assert_allclose(found, loc, atol=1e-5)
    assert model.generate(4, y=[0, 1, 2, -1]).shape == (4, labelled.X)
    assert model.log_prob(X, 3, y=labels).shape == (N,)


def test_a_bad_label_in_a_later_batch_spoils_the_loss():
    """Compiled steps cannot raise an error; `NaNGuard` watches the loss."""
    labels = CLASSES.copy()
    labels[-1] = K
    data = tf.data.Dataset.from_tensor_slices((X, labels)).batch(8)
    assert np.isnan(seen(labelled.vae(), data)["loss"])


def test_the_first_call_builds_networks_without_inputs():
    class Network(keras.Model):
        def __init__(self, *layers):
            super().__init__()
            self.parts = layers

        def call(self, inputs):
            h = keras.ops.concatenate(inputs, axis=-1)
            for layer in self.parts:
                h = layer(h)
            return h

    model = tv.VAE(
        Network(keras.layers.Dense(4), tv.IndependentNormal(2)),
        Network(keras.layers.Dense(2 * labelled.X), tv.IndependentNormal(labelled.X)),
        tv.StandardNormal(2),
        classifier=keras.Sequential([keras.layers.Dense(K), tv.OneHotCategorical(K)]),
    )
    model.compile("adam")
    labels = labelled.hidden(CLASSES)
    history = model.fit(X, labels, batch_size=6, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


def without(**options):
    return labelled.vae(**{"classifier": None, **options})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.fit(X, np.full(N, K)), r"from 0 to 2.*24 of 24 labels.*as 3"),
        (
            lambda m: m.fit(X, np.full(N, -2)),
            "24 of 24 labels that are none of these, such as -2",
        ),
        (lambda m: m.fit(X, np.full(N, 0.5)), r"such as 0\.5"),
        (lambda m: m.fit(X, np.full(N, np.inf)), "such as inf"),
        (lambda m: m.fit(X, np.eye(K)[CLASSES]), r"np.argmax\(y, axis=1\)"),
        (lambda m: m.fit(X, CLASSES > 0), "dtype bool"),
        (lambda m: m.evaluate(X, np.zeros((N, 2))), r"y of shape \(24, 2\) for 24"),
        (lambda m: m.log_prob(X, y=CLASSES[:5]), r"equal length|shape \(5,\) for 24"),
        (lambda m: m.encode(X, "cat"), "expects the label|arrays of real numbers"),
        (lambda m: m.decode(np.zeros((2, 2))), r"y=None. Give `y=`"),
        (lambda m: m.decode(np.zeros((2, 2)), [-1, 0]), "1 of 2 labels"),
        (lambda m: m.generate(3, y=[0, 1]), r"shape \(2,\) for 3"),
        (lambda m: m.generate(2, y=[0, K]), "such as 3"),
        (lambda m: m.traverse(), "y=None"),
        (lambda m: labelled.vae(label_prior=[0.5, 0.5]), "3 positive.*0.5, 0.5"),
        (lambda m: labelled.vae(label_prior=[0.5, 0.5, 0.0]), "3 positive prob"),
        (lambda m: labelled.vae(label_prior=[0.5, 0.4, 0.3]), "whose sum is 1"),
        (lambda m: labelled.vae(label_prior="equal"), "None, 'learned', or 3"),
        (lambda m: labelled.vae(label_prior=0.5), "None, 'learned', or 3"),
        (lambda m: labelled.vae(alpha=-1.0), "`alpha` to be a finite number"),
        (lambda m: labelled.vae(alpha="much"), "`alpha` to be a finite number"),
        (lambda m: labelled.vae(classifier="softmax"), "expects `classifier`"),
        (lambda m: without(conditional=True, alpha=0.5), "Renyi bound belongs to"),
        (lambda m: without(conditional=True, label_prior="learned"), "Give `class"),
        (lambda m: without(conditional=True).classify(X), r"classifier=None"),
        (
            lambda m: labelled.vae(
                classifier=keras.Sequential(
                    [keras.Input((labelled.X,)), keras.layers.Dense(K)]
                )
            ),
            "categorical distribution.*ends?.* in|categorical distribution for each",
        ),
        (
            lambda m: labelled.vae(linear_gaussian.rough_encoder()),
            r"inputs \[x, y\] of its encoder",
        ),
        (
            lambda m: labelled.vae(
                classifier=keras.Sequential(
                    [keras.Input((4,)), keras.layers.Dense(5), tv.OneHotCategorical(5)]
                )
            ),
            r"one-hot vectors of shape \(n, 5\)",
        ),
        (
            lambda m: conditional().fit(X, np.full((N, K), np.nan)),
            r"NaN.*VAE\(classifier=...\)",
        ),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(labelled.vae())
    text = str(caught.value)
    assert "expects" in text
    assert "Received: " in text


def test_the_mean_of_no_labelled_rows_is_not_a_number():
    metric = MeanOfLabelled("accuracy")
    metric.update_state([1.0, 0.0], sample_weight=[0.0, 0.0])
    assert np.isnan(metric.result())
    metric.update_state([1.0, 0.0], sample_weight=[1.0, 0.0])
    assert float(metric.result()) == 1.0
    again = MeanOfLabelled.from_config(metric.get_config())
    assert again.name == "accuracy"


def test_paths_of_a_dataset_of_pairs_are_those_of_its_arrays():
    model = labelled.vae()
    pairs = tf.data.Dataset.from_tensor_slices((X, CLASSES)).batch(7)
    for answer in (
        lambda x, **y: model.traverse(x, dimensions=[0], **y),
        lambda x, **y: model.interpolate(x, x, 3, **y),
    ):
        np.testing.assert_array_equal(answer(pairs), answer(X, y=CLASSES))


def test_traversals_from_the_center_take_labels():
    model = labelled.vae()
    found = model.traverse(y=[2, 0], dimensions=[1], values=[-1.0, 0.5])
    z = np.array([[0.0, -1.0], [0.0, 0.5]])
    loc = z @ linear_gaussian.W.T + linear_gaussian.B
    exact = loc[None, None] + labelled.U[[2, 0]][:, None, None]
    np.testing.assert_allclose(found, exact, atol=1e-5)


@pytest.mark.parametrize("callback", ["alarm", "tensorboard"])
@pytest.mark.parametrize("labels", [None, "some", "all"])
def test_callbacks_take_the_classes_that_encode_takes(callback, labels, tmp_path):
    """With a prior p(z | y)."""
    y = keras.Input((K,))
    prior = keras.Model(
        y, tv.IndependentNormal(labelled.D)(keras.layers.Dense(2 * labelled.D)(y))
    )
    model = tv.VAE(
        labelled.rough_encoder(),
        labelled.decoder(),
        prior,
        classifier=labelled.classifier(),
    )
    model.compile(keras.optimizers.SGD(0.0), jit_compile=False)
    known = {None: None, "some": labelled.hidden(CLASSES), "all": CLASSES}[labels]
    if callback == "alarm":
        watch = tv.CollapseAlarm(X, known)
    else:
        watch = tv.VAETensorBoard(tmp_path, X, known)
    model.fit(X, CLASSES, callbacks=[watch], verbose=0)
    best = labelled.log_q(X).argmax(-1)
    filled = best if known is None else np.where(known < 0, best, known)
    q, p = (
        model.encode(X, filled),
        model.prior_distribution(tf.constant(np.eye(K, dtype="float32")[filled])),
    )
    shown = tv.plots.plot_kl_per_dimension(model, X, known).axes[0].get_title()
    total = tfp.distributions.kl_divergence(q.tensor_distribution, p).numpy().mean()
    assert f"= {total:.2f} nats" in shown
    if callback == "alarm":
        kl = tfp.distributions.kl_divergence(q.tensor_distribution, p).numpy().mean()
        shared = tv.evaluation.mutual_information(q, seed=0)
        assert watch.information == pytest.approx(min(kl, shared), rel=1e-4)
    else:
        assert list(tmp_path.glob("events*"))


def test_examples_of_known_labels_without_a_given_entry_are_given_their_label():
    model = labelled.vae(wide_encoder(), label_prior=PRIOR, missing="nan")
    labels = np.array([2, 1, -1])
    given = np.zeros((3, labelled.X), bool)
    given[1, :2] = True
    found = model.log_prob(X[:3], 40_000, y=labels, given=given, seed=1)
    log_p = labelled.log_evidence(X[:3])
    marginal = linear_gaussian.W @ linear_gaussian.W.T
    marginal += linear_gaussian.SCALE**2 * np.eye(labelled.X)
    center = linear_gaussian.B + labelled.U[1]
    part = stats.multivariate_normal(center[:2], marginal[:2, :2]).logpdf(X[1, :2])
    exact = [
        log_p[0, 2],
        log_p[1, 1] - part,
        special.logsumexp(log_p[2] + np.log(PRIOR)),
    ]
    np.testing.assert_allclose(found, exact, atol=0.15)
