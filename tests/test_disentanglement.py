"""Scores of codes whose factors are known."""

import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfp_vae.disentanglement import dci, mutual_information_gap, sap

VALUES = (4, 3, 5)
N = 3000


@pytest.fixture
def factors(rng):
    return np.stack([rng.integers(0, v, N) for v in VALUES], axis=1)


@pytest.fixture
def copies(factors, rng):
    """Each factor in one coordinate, reordered and scaled, and two of noise."""
    signal = factors[:, [2, 0, 1]] * [1.0, -30.0, 0.5]
    code = signal + rng.normal(size=(N, 3)) * [0.02, 0.6, 0.01]
    return np.concatenate([code, rng.normal(size=(N, 2))], axis=1)


@pytest.fixture
def noise(rng):
    return rng.normal(size=(N, 5))


def rotated(codes):
    """All coordinates but those of noise mixed, once of one scale."""
    codes = codes / codes.std(0)
    turn = np.array([[2.0, -1.0, 2.0], [2.0, 2.0, -1.0], [-1.0, 2.0, 2.0]]) / 3
    return np.concatenate([codes[:, :3] @ turn, codes[:, 3:]], axis=1)


def test_mig_of_copies_is_nearly_one_and_of_noise_nearly_zero(factors, copies, noise):
    # 19 * 4 / (2 n log 5) = 0.008 is what noise seems to know of the third factor.
    assert 0.98 < mutual_information_gap(copies, factors) < 1.0
    assert 0.0 <= mutual_information_gap(noise, factors) < 0.01


def test_sap_of_copies_is_one_less_chance_and_of_noise_nearly_zero(
    factors, copies, noise
):
    best = 1 - np.mean(1 / np.array(VALUES))
    # Chance is estimated from n / 4 examples, and the best of several taken.
    assert sap(copies, factors, seed=1) == pytest.approx(best, abs=0.06)
    assert 0.0 <= sap(noise, factors, seed=1) < 0.06


def test_dci_of_copies_is_one(factors, copies):
    scores = dci(copies, factors, num_trees=10, seed=1)
    np.testing.assert_allclose(scores, 1.0, atol=1e-3)


def test_dci_of_noise_is_zero_and_chance(factors, noise):
    scores = dci(noise, factors, num_trees=10, seed=1)
    assert 0.0 <= scores.disentanglement < 0.02
    assert 0.0 <= scores.completeness < 0.02
    chance = np.mean(1 / np.array(VALUES))
    error = 0.5 / np.sqrt(3 * N / 4)
    assert abs(scores.informativeness - chance) < 5 * error


def test_a_factor_in_two_coordinates_has_no_gap(factors, rng):
    factors = factors[:, :1]
    noisy = factors + rng.normal(size=factors.shape)
    codes = np.concatenate([noisy, 8.0 * noisy], axis=1)
    assert mutual_information_gap(codes, factors) == pytest.approx(0.0, abs=1e-12)
    assert sap(codes, factors) == 0.0  # without a seed too


def test_a_factor_in_two_coordinates_is_disentangled_but_not_complete(factors, copies):
    twice = np.concatenate([copies, copies[:, :1]], axis=1)
    scores = dci(twice, factors, num_trees=10, seed=1)
    assert scores.disentanglement == pytest.approx(1.0, abs=1e-3)
    assert 1 - np.log(2) / np.log(6) < scores.completeness < 0.95


def test_two_factors_in_one_coordinate_are_complete_but_not_disentangled(factors, rng):
    both = factors[:, 0] * VALUES[1] + factors[:, 1]
    codes = np.stack([both, rng.normal(size=N)], axis=1)
    scores = dci(codes, factors[:, :2], num_trees=10, seed=1)
    np.testing.assert_allclose(scores, [0.0, 1.0, 1.0], atol=1e-3)


def test_rotation_lowers_every_gap_and_dci(factors, copies):
    turned = rotated(copies)
    for score in (mutual_information_gap, sap):
        assert score(turned, factors) < 0.7 * score(copies, factors)
    scores = dci(turned, factors, num_trees=10, seed=1)
    assert scores.disentanglement < 0.6
    assert scores.completeness < 0.8
    assert scores.informativeness > 0.95  # all is still there


def test_the_gap_to_a_code_with_known_errors():
    """A binary factor, a copy of it, and a copy with one in ten flipped."""
    factor = np.tile([0, 1], 2000)
    flipped = np.where(np.arange(4000) // 2 % 10 == 0, 1 - factor, factor)
    codes, factors = np.stack([flipped, factor], axis=1), factor[:, np.newaxis]
    lost = stats.entropy([0.1, 0.9]) / np.log(2)
    assert mutual_information_gap(codes, factors) == pytest.approx(lost, rel=1e-6)
    error = np.sqrt(0.1 * 0.9 / 1000)
    assert abs(sap(codes, factors, seed=1) - 0.1) < 5 * error


def test_sap_weighs_rare_values_like_common_ones(rng):
    """The best threshold between N(0, 1) and N(1, 1) is right in Phi(1/2) of both."""
    factor = np.repeat([0, 1], [36_000, 4_000])
    codes = np.stack([factor + rng.normal(size=40_000), np.zeros(40_000)], axis=1)
    expected = stats.norm.cdf(0.5) - 0.5
    # The few of the value 1 that are held out, and a threshold learned from 3000.
    error = np.sqrt(0.25 / 1_000)
    assert abs(sap(codes, factor[:, np.newaxis], seed=1) - expected) < 5 * error


def test_rare_values_are_in_both_parts_of_the_split():
    factor = np.repeat([0, 1], [96, 4])
    codes = np.stack([factor, np.zeros(100)], axis=1)
    for seed in range(10):
        assert sap(codes, factor[:, np.newaxis], seed=seed) == 0.5


def test_dci_finds_no_importance_in_noise(factors, rng):
    """Of blurred copies and noise; trees grown to the end see 0.2 of 1 here."""
    codes = factors + 0.7 * rng.normal(size=factors.shape)
    codes = np.concatenate([codes, rng.normal(size=(N, 2))], axis=1)
    scores = dci(codes, factors, num_trees=20, seed=1)
    assert min(scores.disentanglement, scores.completeness) > 0.4


def test_mig_is_bounded_by_the_bins():
    factor = np.repeat(np.arange(40), 10)
    codes = np.stack([factor, np.zeros(400)], axis=1)  # the second is constant
    actual = mutual_information_gap(codes, factor[:, np.newaxis], num_bins=20)
    assert actual == pytest.approx(np.log(20) / np.log(40), rel=1e-6)
    assert mutual_information_gap(codes, factor[:, np.newaxis], num_bins=40) > 0.999


def test_constant_codes_score_nothing(factors):
    codes = np.ones((N, 3))
    assert mutual_information_gap(codes, factors) == 0.0
    assert sap(codes, factors, seed=1) == 0.0
    scores = dci(codes, factors, num_trees=2, seed=1)
    assert scores[:2] == pytest.approx((0.0, 0.0), abs=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "str", "object"])
def test_factors_may_be_labels_of_any_kind(factors, copies, dtype):
    expected = mutual_information_gap(copies, factors)
    assert mutual_information_gap(copies, factors.astype(dtype)) == expected


def test_scores_take_tensors_and_are_reproducible(factors, copies):
    codes = tf.constant(copies[:200])
    factors = tf.constant(factors[:200])
    assert mutual_information_gap(codes, factors) > 0.8
    assert sap(codes, factors, seed=1) == sap(codes, factors, seed=1)
    first = dci(codes, factors, num_trees=2, seed=1)
    assert dci(codes, factors, num_trees=2, seed=1) == first
    keras.utils.set_random_seed(3)
    first = sap(codes, factors)
    keras.utils.set_random_seed(3)
    assert sap(codes, factors) == first


CODES = np.arange(40.0).reshape(20, 2)
LABELS = np.tile([[0, 0], [0, 1], [1, 0], [1, 1]], (5, 1))
SCORES = [mutual_information_gap, dci, sap]


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(
    ("codes", "factors", "message"),
    [
        (CODES[:, :1], LABELS, r"codes of shape \(n, d\).*of shape \(20, 1\)"),
        (CODES[:, 0], LABELS, r"codes of shape \(n, d\).*of shape \(20,\)"),
        (CODES * np.nan, LABELS, "finite numbers.*float64, with NaN or inf"),
        (CODES.astype(str), LABELS, "finite numbers.*dtype <U"),
        (CODES, LABELS[:19], r"of shape \(20, f\), a row.*of shape \(19, 2\). Stack"),
        (CODES, LABELS[:, 0], r"of shape \(20, f\), a row.*of shape \(20,\). Stack"),
        (CODES, LABELS[:, :0], r"of shape \(20, f\), a row.*of shape \(20, 0\)"),
        (
            CODES,
            LABELS * [0, 1],
            "factors that vary. Received: factor 0, .* throughout",
        ),
        (
            CODES,
            LABELS * [1, 0.5],
            "discrete values.*Received: factor 1 of dtype float64, with fr",
        ),
        (CODES, LABELS + np.inf, "discrete values.*Received: factor 0 of dtype float"),
        (CODES, LABELS * 1j, r"discrete values.*factor 0 of dtype complex128\. Number"),
    ],
)
def test_bad_codes_or_factors_are_an_error(score, codes, factors, message):
    with pytest.raises(ValueError, match=f"`{score.__name__}` expects .*{message}"):
        score(codes, factors)


@pytest.mark.parametrize("score", [dci, sap])
def test_a_rare_value_is_an_error(score):
    labels = LABELS.copy()
    labels[:3, 1] = 7
    with pytest.raises(
        ValueError, match="at least 4 times.*Received: factor 1 with a value.* 3 times"
    ):
        score(CODES, labels)


def test_dci_of_one_factor_is_an_error():
    with pytest.raises(ValueError, match="`dci` expects two factors or more"):
        dci(CODES, LABELS[:, :1])


def test_one_bin_and_no_trees_are_an_error():
    with pytest.raises(ValueError, match="expects `num_bins` to be an integer of at l"):
        mutual_information_gap(CODES, LABELS, num_bins=1)
    with pytest.raises(ValueError, match="`dci` expects `num_trees` to be an integer"):
        dci(CODES, LABELS, num_trees=0)


@pytest.mark.parametrize("score", SCORES)
def test_without_scikit_learn_the_extra_is_named(score, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(
        ImportError,
        match=rf"`{score.__name__}` expects scikit-learn.*tfp-vae\[examples",
    ):
        score(CODES, LABELS)
