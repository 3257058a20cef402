"""Laws, bounds and training of the peers; test_peers.py runs it without TensorFlow."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

import resuming
from benchmarks.peers import sphere
from benchmarks.peers.training import adam, fit, glorot, shuffled
from benchmarks.peers.vae import VAE, dense, normal, standard_normal


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("size", [3, 6, 11])
@pytest.mark.parametrize("k", [0.3, 5.0, 80.0])
def test_von_mises_fisher_is_that_of_scipy(size, k):
    rng = np.random.default_rng(0)
    loc = rng.standard_normal(size)
    loc /= np.linalg.norm(loc)
    x = rng.standard_normal((20, size))
    x /= np.linalg.norm(x, axis=-1, keepdims=True)
    law = stats.vonmises_fisher(loc, k)
    q = sphere.VonMisesFisher(torch.tensor(loc), torch.tensor([k]).double())
    np.testing.assert_allclose(q.log_prob(torch.tensor(x)), law.logpdf(x), rtol=1e-6)
    kl = torch.distributions.kl_divergence(q, sphere.SphericalUniform(size))
    exact = sphere.log_area(size) - law.entropy()
    np.testing.assert_allclose(kl, exact, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [3, 6, 11])
@pytest.mark.parametrize("k", [0.3, 5.0, 80.0])
def test_power_spherical_is_normalised(size, k):
    loc = torch.eye(size, dtype=torch.float64)[0]
    q = sphere.PowerSpherical(loc, torch.tensor([k]).double())
    area = math.exp(sphere.log_area(size - 1))

    def log_density(t):
        z = torch.zeros(size, dtype=torch.float64)
        z[0], z[1] = t, math.sqrt(1 - t**2)
        return float(q.log_prob(z))

    def mean(function):
        def integrand(t):
            weight = area * (1 - t**2) ** ((size - 3) / 2)
            return weight * math.exp(log_density(t)) * function(t)

        return integrate.quad(integrand, -1, 1, limit=200)[0]

    assert mean(lambda t: 1.0) == pytest.approx(1, abs=1e-6)
    exact = mean(log_density) + sphere.log_area(size)
    kl = torch.distributions.kl_divergence(q, sphere.SphericalUniform(size))
    assert float(kl) == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize("kind", ["VonMisesFisher", "PowerSpherical"])
@pytest.mark.parametrize(("size", "k"), [(3, 2.0), (11, 1.5), (11, 60.0)])
def test_draws_on_the_sphere_have_their_mean(kind, size, k):
    loc = torch.nn.functional.normalize(torch.randn(size), dim=-1)
    q = getattr(sphere, kind)(loc, torch.tensor([k]))
    z = q.rsample((40_000,))
    np.testing.assert_allclose(z.norm(dim=-1), 1.0, atol=1e-5)
    half = (size - 1) / 2
    along = special.ive(size / 2, k) / special.ive(size / 2 - 1, k)
    if kind == "PowerSpherical":
        along = k / (2 * half + k)
    error = z.std(0) / math.sqrt(len(z))
    assert ((z.mean(0) - along * loc).abs() < 5 * error).all()


def test_the_gradient_of_the_kl_is_that_of_finite_differences():
    for kind in (sphere.VonMisesFisher, sphere.PowerSpherical):
        for k in (0.5, 7.0, 200.0):

            def kl(k, kind=kind):
                q = kind(torch.eye(6, dtype=torch.float64)[0], k)
                return torch.distributions.kl_divergence(q, sphere.SphericalUniform(6))

            at = torch.tensor([k], dtype=torch.float64, requires_grad=True)
            (found,) = torch.autograd.grad(kl(at), at)
            step = 1e-5 * k
            exact = (kl(at.detach() + step) - kl(at.detach() - step)) / (2 * step)
            np.testing.assert_allclose(found, exact, rtol=1e-5)


def test_bounds_are_those_of_an_integral_over_z():
    vae = VAE(
        dense([4, 5, 2], torch.nn.Tanh),
        normal,
        dense([1, 5, 4], torch.nn.Tanh),
        standard_normal(1),
    )
    x = torch.bernoulli(torch.full((3, 4), 0.5))
    z = torch.linspace(-9, 9, 4001)[:, None]
    with torch.no_grad():
        log_p = vae.likelihood(z[:, None]).log_prob(x)
        q = vae.posterior(x)
        log_q = q.log_prob(z[:, None])
        log_prior = vae.prior.log_prob(z)[:, None]
    width = float(z[1, 0] - z[0, 0])
    evidence = torch.logsumexp(log_p + log_prior, 0) + math.log(width)
    np.testing.assert_allclose(vae.log_prob(x, 100_000), evidence, atol=0.03)
    terms = log_q.exp() * width
    kl = (terms * (log_q - log_prior)).sum(0)
    np.testing.assert_allclose(vae.kl(x).detach(), kl, atol=1e-3)
    elbo = (terms * log_p).sum(0) - kl
    found = vae.mean_elbo(x, 4_000)
    assert found == pytest.approx(float(elbo.mean()), abs=0.03)


class Killed(Exception):
    """Instead of SIGKILL."""


def trained(epochs, directory, validate=None, kill=None, **options):
    """A linear model with noise in its loss, of three steps an epoch."""
    torch.manual_seed(1)
    model = torch.nn.Linear(3, 1)
    optimizer = adam(model, 0.1)
    x = torch.arange(30.0).reshape(10, 3) / 30
    progress = resuming.Progress(directory, {}, {"a": epochs})

    def loss(batch, step):
        if step == kill:
            raise Killed
        return (model(batch) - torch.randn(len(batch), 1) * step).square().mean()

    fit(
        model,
        loss,
        shuffled(x, 4),
        optimizer,
        epochs,
        progress,
        "a",
        scheduler=torch.optim.lr_scheduler.MultiStepLR(optimizer, [7, 10], 0.5),
        validate=validate,
        **options,
    )
    return model.weight.detach().numpy(), progress.left


def test_training_that_was_killed_goes_on_and_ends_the_same(tmp_path):
    whole, _ = trained(6, None)
    for kill in (4, 11):
        with pytest.raises(Killed):
            trained(6, tmp_path, kill=kill)
    found, left = trained(6, tmp_path)
    np.testing.assert_array_equal(found, whole)
    assert left == 0
    assert np.abs(trained(5, None)[0] - whole).max() > 0


@pytest.mark.parametrize("done", [None, 2, 4])
def test_the_best_epoch_is_kept_and_patience_ends_a_training(tmp_path, done):
    scripted = [0.0, 5.0, 3.0, 4.0, 3.5, 2.0, 1.0]  # Two without gain after the third.
    expected, _ = trained(3, None)
    options = {"start": 1, "patience": 2}
    if done is not None:
        seen = iter(scripted)
        with pytest.raises(Killed):
            trained(7, tmp_path, lambda: next(seen), kill=3 * done + 1, **options)
    seen = iter(scripted[done or 0 :])
    found, left = trained(7, tmp_path, lambda: next(seen), **options)
    np.testing.assert_array_equal(found, expected)
    assert left == 0
    assert next(seen) == 2.0


def test_recurrent_layers_start_and_move_as_those_of_keras():
    layer = torch.nn.LSTM(3, 2)
    glorot(layer)
    bias = layer.bias_ih_l0 + layer.bias_hh_l0
    np.testing.assert_array_equal(bias.detach(), [0, 0, 1, 1, 0, 0, 0, 0])
    square = layer.weight_hh_l0.detach()
    np.testing.assert_allclose(square.T @ square, torch.eye(2), atol=1e-6)
    optimizer = adam(layer, 0.1)
    layer(torch.ones(4, 3))[0].sum().backward()
    optimizer.step()
    moved = layer.bias_ih_l0 + layer.bias_hh_l0 - bias
    np.testing.assert_allclose(moved.detach().abs(), 0.1, rtol=1e-3)


def test_a_kill_after_the_last_checkpoint_trains_no_epoch_more(tmp_path, monkeypatch):
    scripted = [5.0, 3.0, 4.0, 3.5]  # Two without gain after the second.
    options = {"start": 0, "patience": 2}
    expected, _ = trained(2, None)

    def die(self, name, done, epochs, is_last):
        if is_last:
            raise Killed

    seen = iter(scripted)
    with monkeypatch.context() as patch:
        patch.setattr(resuming.Progress, "end_epoch", die)
        with pytest.raises(Killed):
            trained(7, tmp_path, lambda: next(seen), **options)
    seen = iter([1.0])
    found, left = trained(7, tmp_path, lambda: next(seen), **options)
    np.testing.assert_array_equal(found, expected)
    assert left == 0
    assert next(seen) == 1.0


@pytest.mark.parametrize("eps", [1e-4, 1e-1])
def test_adam_is_that_of_keras(eps):
    """Kingma and Ba, the form before section 2.1, which Keras has."""
    rng = np.random.default_rng(0)
    slopes = rng.normal(size=(30, 5)) * [1e-3, 1e-2, 0.1, 1.0, 10.0]
    weight = torch.nn.Linear(5, 1, bias=False).double()
    x = weight.weight.detach().numpy()[0].copy()
    optimizer = adam(weight, 0.1, eps=eps)
    m = v = np.zeros(5)
    for step, slope in enumerate(slopes, 1):
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        rate = 0.1 * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        x -= rate * m / (np.sqrt(v) + eps)
        weight.weight.grad = torch.tensor(slope[None])
        optimizer.step()
        if step == 10:  # As a run that goes on.
            state = optimizer.state_dict()
            optimizer = adam(weight, 0.1, eps=eps)
            optimizer.load_state_dict(state)
    np.testing.assert_allclose(weight.weight.detach()[0], x, rtol=1e-6)
