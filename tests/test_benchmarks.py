"""Each side of the benchmarks trains; what is missing has a line in the table."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import memory, report, sides, throughput, training, worker
from benchmarks.cases import CASES, Data
from benchmarks.sides import SIDES, Entry, tfp_vae_model
from benchmarks.training import Outcome
from benchmarks.worker import Failure, Worker
from tfp_vae.models import compiled, staging

TINY = {
    "batch": 64,
    "hidden": 32,
    "filters": (4, 8),
    "latent": 4,
    "learning_rate": 0.01,
}
EXAMPLES = 256


def case_of(name):
    return dataclasses.replace(CASES[name], **TINY)


def make(name, case):
    reason = SIDES[name].reason(case)
    if reason:
        pytest.skip(reason)
    return sides.build(name, case, Data(EXAMPLES).load(case))


@pytest.mark.parametrize("name", SIDES)
def test_side_trains_evaluates_and_encodes(name):
    case = case_of("mlp")
    side = make(name, case)
    first, last = side.train(1), side.train(8)
    assert last < first - 5  # nats; one fair coin for each pixel costs 543
    assert 300 < last < 545
    assert side.evaluate() == pytest.approx(last, abs=15)
    assert side.encode().shape == (EXAMPLES, case.latent)
    assert side.examples == EXAMPLES


@pytest.mark.xla
def test_tfp_vae_settles_when_it_evaluates_side_by_side(monkeypatch):
    monkeypatch.setattr(compiled, "_on_a_gpu", lambda: False)
    assert tfp_vae_model.SETTLED == staging._STEPS_TO_PAIR
    monkeypatch.setattr(tfp_vae_model, "SETTLED", 12)
    monkeypatch.setattr(staging, "_STEPS_TO_PAIR", 12)
    side = make("tfp_vae", case_of("mlp"))
    side.settle()
    made = {together for _, together in side.vae.test_function._programs}
    assert made == {1, 2}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["conv", "iwae"])
@pytest.mark.parametrize("name", SIDES)
def test_side_trains_the_other_models(name, model):
    side = make(name, case_of(model))
    first, last = side.train(1), side.train(8)
    assert 300 < last < first


def test_a_missing_package_is_named_in_the_table(monkeypatch):
    peer = Entry("A peer", "no_module", ("no_such_package",))
    monkeypatch.setitem(SIDES, "peer", peer)
    outcomes = training.measure(case_of("mlp"), Data(EXAMPLES), ["peer"], 1, 1)
    assert "| A peer | missing: no_such_package | - |" in training.lines(outcomes)


def test_layers_have_no_importance_weighted_bound():
    reason = SIDES["tfp_vae_layers"].reason(CASES["iwae"])
    assert "importance-weighted" in reason
    assert SIDES["tfp_vae_layers"].reason(CASES["mlp"]) is None


def test_a_side_that_fails_is_a_line_in_the_table(monkeypatch):
    # Its process knows nothing of it.
    monkeypatch.setitem(SIDES, "peer", Entry("A peer", "no_module"))
    outcomes = training.measure(case_of("mlp"), Data(EXAMPLES), ["peer"], 1, 1)
    assert "| A peer | failed: KeyError: 'peer' | - |" in training.lines(outcomes)


def test_ratios_are_medians_over_the_rounds():
    outcomes = {
        "tfp_vae": Outcome("ours", {"train": [100.0, 200.0, 400.0]}),
        "pytorch": Outcome("theirs", {"train": [50.0, 100.0, 800.0]}),
        "jax": Outcome("gone", reason="missing: jax"),
    }
    assert training.ratio(outcomes, "pytorch", "tfp_vae", "train") == 0.5
    assert training.ratio(outcomes, "jax", "tfp_vae", "train") is None
    lines = training.lines(outcomes)
    assert "| theirs | 100 (50.0-800) | 0.50 |" in lines
    assert "train at 2.00 times theirs" in lines


def test_the_limit_multiplies_the_matrices_of_a_step():
    limit = pytest.importorskip("benchmarks.limit")
    case = dataclasses.replace(case_of("mlp"), draws=3)
    made = limit.Limit(case, Data(EXAMPLES).load(case))
    shapes = [(a.shape, b.shape) for a, b in made._products]
    assert len(shapes) == 4 * 3 - 1  # no gradient with respect to x
    assert ((3 * 64, 32), (32, 784)) in shapes
    assert ((784, 64), (64, 32)) in shapes
    assert len(made.ways) == 5
    assert made.examples == EXAMPLES
    for way in made.ways:
        made.run(way, 1)
    of_last = [function() for function in made._epoch.values()]
    for gradients in (made._step[limit.GRAPH](), *of_last):
        shapes = [gradient.shape for gradient in gradients]
        assert shapes == [(784, 32), (32, 8), (4, 32), (32, 784)]


@pytest.mark.skipif(
    bool(tf.config.list_logical_devices("GPU")), reason="other operations on a GPU"
)
def test_xla_leaves_no_product_of_the_limit_out():
    limit = pytest.importorskip("benchmarks.limit")
    case = case_of("mlp")
    made = limit.Limit(case, Data(EXAMPLES).load(case))
    for function in (made._step[limit.XLA], made._epoch[limit.XLA + limit.LOOP]):
        program = function.experimental_get_compiler_ir()(stage="optimized_hlo")
        assert program.count(" dot(") == len(made._products)


def test_output_that_flows_back_needs_every_product():
    """As NumPy, without TensorFlow's pruning: a constant would not need the last."""
    limit = pytest.importorskip("benchmarks.limit")
    case = case_of("mlp")
    products, (first, second, third, fourth) = limit._graph(case)
    x = Data(EXAMPLES).load(case)[: case.batch]
    weights = [np.asarray(w) for w in (first, second, third, fourth)]
    h = x @ weights[0]
    z = (h @ weights[1])[:, : case.latent]
    g = z @ weights[2]
    logits = g @ weights[3]
    expected = g.T @ logits
    np.testing.assert_allclose(products(x)[3], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("together", [1, 2])
def test_memory_of_training_is_measured(together):
    before, peak = memory.training(case_of("iwae"), Data(EXAMPLES), together)
    assert 0 < before <= peak


def test_a_worker_says_what_went_wrong():
    with Worker() as process:
        assert process.call(worker.peak_memory) > 1
        with pytest.raises(Failure, match="ZeroDivisionError: .* by zero"):
            process.call(divmod, 1, 0)


def test_a_worker_that_dies_is_a_failure():
    with Worker() as process, pytest.raises(Failure, match="its process died"):
        process.call(exit_at_once)


def exit_at_once():
    import os

    os._exit(1)


def test_writing_a_section_keeps_the_others(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(
        "# Title\n<!-- begin a -->\nold\n<!-- end a -->\nbetween\n"
        "<!-- begin b -->\nkept\n<!-- end b -->\nend\n"
    )
    report.write(page, "a", "new")
    report.write(page, "c", "added")
    assert page.read_text() == (
        "# Title\n<!-- begin a -->\nnew\n<!-- end a -->\nbetween\n"
        "<!-- begin b -->\nkept\n<!-- end b -->\nend\n\n"
        "<!-- begin c -->\nadded\n<!-- end c -->\n"
    )


def test_a_section_without_its_end_is_an_error(tmp_path):
    page = tmp_path / "README.md"
    page.write_text("<!-- begin a -->\nold\n")
    with pytest.raises(ValueError, match="Put it where the section ends."):
        report.write(page, "a", "new")


def test_the_readme_has_a_place_for_each_section():
    page = report.README.read_text()
    names = {f"training {name}" for name in CASES} | set(throughput.SECTIONS[1:])
    for name in names:
        assert page.count(f"<!-- begin {name} -->") == 1
        assert page.count(f"<!-- end {name} -->") == 1


def test_versions_name_what_is_missing(monkeypatch):
    monkeypatch.setattr(report, "PACKAGES", ("keras", "no-such-package"))
    line = report.provenance("python -m benchmarks.throughput")
    assert "keras 3." in line
    assert "no-such-package missing" in line


def test_the_command_line_that_is_shown_has_no_directories():
    told = ["--data-dir", "/home/me", "--output=/home/me", "--rounds", "2"]
    shown = ["--data-dir", "PATH", "--output=PATH", "--rounds", "2"]
    assert throughput._without_paths(told) == shown


def test_images_are_binary_and_the_same_in_every_process():
    x = Data(50).load(CASES["conv"])
    assert x.shape == (50, 28, 28, 1)
    assert set(np.unique(x)) == {0.0, 1.0}
    np.testing.assert_array_equal(x, Data(50).load(CASES["conv"]))
