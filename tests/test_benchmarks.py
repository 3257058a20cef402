"""Each side of the benchmarks trains; what is missing has a line in the table."""

import dataclasses
import importlib
import os

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import (
    memory,
    report,
    result,
    rounds,
    sides,
    throughput,
    training,
    waits,
    worker,
)
from benchmarks.cases import CASES, Data
from benchmarks.sides import SIDES, Entry, keras_by_hand
from benchmarks.training import Outcome
from benchmarks.waits import CACHED, KERAS, Cell, Wait
from benchmarks.worker import Failure, Worker

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
    side_learns(name, case_of("mlp"))


@pytest.mark.parametrize("name", ["tfp_vae", "keras"])
def test_side_drops_units_in_training_only(name):
    case = case_of("dropout")
    side_learns(name, case)
    white = np.arange(EXAMPLES) % 2 > 0
    x = np.broadcast_to(white[:, None], (EXAMPLES, case.pixels)).astype("float32")
    half = sides.build(name, dataclasses.replace(case, dropout=0.5), x)
    # Which of two images it was is harder to tell with half of the units.
    assert half.train(40) > half.evaluate() + 50


def side_learns(name, case):
    side = make(name, case)
    first, last = side.train(1), side.train(8)
    assert last < first - 5  # nats; one fair coin for each pixel costs 543
    assert 300 < last < 545
    assert side.evaluate() == pytest.approx(last, abs=15)
    assert side.encode().shape == (EXAMPLES, case.latent)
    assert side.examples == EXAMPLES


@pytest.mark.parametrize("name", [name for name in waits.COLUMNS if name in SIDES])
def test_side_fits_and_validates_on_the_last_tenth(name):
    case = case_of("mlp")
    reason = SIDES[name].reason(case)
    if reason:
        pytest.skip(reason)
    white = np.ones((EXAMPLES, *case.shape), np.float32)
    assert sides.prepare(name, case, white)(8) < 300
    white[230:] = 0.0  # black is unheard of among the first nine tenths
    assert sides.prepare(name, case, white)(8) > 600


@pytest.mark.parametrize("num", [26, 100, 1000, 6000])
def test_jax_validates_on_all_rows_in_equal_batches(num):
    jax_optax = pytest.importorskip("benchmarks.sides.jax_optax")
    size = jax_optax._batch(num, CASES["mlp"])
    assert num % size == 0
    assert min(num, 100) <= size <= 128


def test_automatic_xla_of_keras_is_told_for_this_machine():
    has_gpu = bool(tf.config.list_physical_devices("GPU"))
    assert keras_by_hand.chooses_xla(case_of("mlp")) == has_gpu


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
    told = "Speed of ours, divided by that of the fastest peer: train 2.00 (theirs)."
    assert told in lines


def test_the_tfp_vae_of_another_checkout_is_imported(tmp_path):
    make_checkout(tmp_path, "")
    with Worker() as process:
        process.call(worker.import_from, str(tmp_path))
        found = process.call(file_of_tfp_vae)
    assert found == str(tmp_path / "tfp_vae" / "__init__.py")


def file_of_tfp_vae():
    return importlib.import_module("tfp_vae").__file__


def make_checkout(path, code):
    (path / "tfp_vae").mkdir()
    (path / "tfp_vae" / "__init__.py").write_text(code)


@pytest.mark.slow
def test_only_sides_of_tfp_vae_have_turns_with_another_checkout(tmp_path, monkeypatch):
    make_checkout(tmp_path, "raise RuntimeError('I am old')")
    monkeypatch.setitem(SIDES, "peer", Entry("A peer", "no_module"))
    outcomes = training.measure(
        case_of("mlp"), Data(EXAMPLES), ["tfp_vae", "peer"], 1, 1, tmp_path
    )
    old = f"tfp_vae of {tmp_path.name}"
    assert [*outcomes] == ["tfp_vae", old, "peer", training.LIMIT]
    assert outcomes["tfp_vae"].reason is None
    assert outcomes[old].reason == "failed: RuntimeError: I am old"
    assert outcomes[old].title == f"tfp_vae, `VAE.fit` of {tmp_path.name}"


def test_each_round_begins_with_another_side():
    orders = [rounds.turns(["a", "b", "c"], i) for i in range(4)]
    assert ["".join(order) for order in orders] == ["abc", "bca", "cab", "abc"]


# Seconds of the first round and of the later ones; of Keras 1.25 times the best is 2.5.
TAKEN = {
    "tfp_vae": (4.0, 5.0),
    "Keras, no XLA, 1 step": (9.0, 9.0),
    "Keras, no XLA, 16 steps": (2.0, 5.0),
    "Keras, XLA, 1 step": (2.4, 4.0),
    "Keras, XLA, 16 steps": (2.6, 0.1),
}


def measured(monkeypatch, names, num_rounds, by_itself=False):
    """What is measured where processes take the seconds of `TAKEN`; who had turns."""
    had = []

    def take(wait, cell, cache):
        title = f"Keras, {wait.label}" if wait.label else wait.side
        had.append(title + ", cached" * wait.cached)
        return TAKEN[title][len(wait.seconds) > 0], 500.0

    monkeypatch.setattr(result, "_xla_by_itself", lambda: by_itself)
    monkeypatch.setattr(result, "_in_a_fresh_process", take)
    return result.measure(Cell(1000, 10), names, num_rounds), had


def test_slow_settings_of_keras_have_one_round_but_as_it_comes(monkeypatch):
    found, had = measured(monkeypatch, ["tfp_vae", KERAS], 3)
    assert {title: had.count(title) for title in TAKEN} == {
        "tfp_vae": 3,
        "Keras, no XLA, 1 step": 3,
        "Keras, no XLA, 16 steps": 3,
        "Keras, XLA, 1 step": 3,
        "Keras, XLA, 16 steps": 1,
    }
    assert waits.best(found).label == "XLA, 1 step"
    lines = waits.lines({Cell(1000, 10): found})
    row = "| 1,000 x 10 | 5.00 (4.00-5.00) | 9.00 (9.00-9.00): no XLA, 1 step "
    assert row + "| 4.00 (2.40-4.00): XLA, 1 step | 500.0-500.0 |" in lines
    assert "- 1,000 x 10: `tv.VAE` / Keras, its best settings 1.25\n" in lines
    assert "XLA, 16 steps 2.60, one round" in lines
    assert "Without figures" not in lines


def test_keras_has_each_program_once_and_comes_as_it_compiles_itself(monkeypatch):
    for by_itself, label in ((False, "no XLA, 1 step"), (True, "XLA, 1 step")):
        found, _ = measured(monkeypatch, [KERAS], 1, by_itself)
        assert len({wait.label for wait in found.values()}) == len(found) == 4
        assert found[KERAS].label == label
        assert found[KERAS].settings["jit_compile"] == "auto"
        asked = {wait.settings["jit_compile"] for wait in found.values()}
        assert asked == {"auto", not by_itself}


def test_the_warm_cache_is_filled_before_the_clock(monkeypatch):
    found, had = measured(monkeypatch, ["tfp_vae", CACHED], 2)
    assert had.count("tfp_vae") == 2
    assert had.count("tfp_vae, cached") == 3
    assert len(found[CACHED].seconds) == 2


def test_ratios_of_waits_are_medians_over_the_rounds():
    found = {
        "tfp_vae": Wait("tfp_vae", seconds=[1.0, 2.0, 9.0]),
        "pytorch": Wait("pytorch", seconds=[2.0, 1.0, 3.0]),
        "jax": Wait("jax", reason="missing: jax"),
    }
    lines = waits.lines({Cell(60_000, 1): found})
    assert "- 60,000 x 1: `tv.VAE` / PyTorch eager 2.00\n" in lines
    assert "| 60,000 x 1 | 2.00 (1.00-9.00) | 2.00 (1.00-3.00) | - |" in lines
    assert "- 60,000 x 1: JAX + optax: missing: jax" in lines


def test_a_section_has_the_cells_of_one_number_of_rows(monkeypatch):
    asked = []

    def measure(cell, names, num_rounds):
        asked.append((str(cell), num_rounds))
        return {"tfp_vae": Wait("tfp_vae", seconds=[1.0] * num_rounds)}

    monkeypatch.setattr(result, "measure", measure)
    cells = [Cell(60_000, 10), Cell(1_000, 1), Cell(60_000, 100)]
    found = dict(result.sections(cells, ["tfp_vae"], 5))
    assert [*found] == ["result 60000", "result 1000"]
    assert asked == [("60,000 x 10", 5), ("60,000 x 100", 1), ("1,000 x 1", 5)]
    assert "of each side: 5, of 60,000 x 100 one." in found["result 60000"]
    assert "of each side: 5.\n" in found["result 1000"]


def test_nothing_is_cached_but_where_it_is_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("TF_XLA_FLAGS", "--tf_xla_persistent_cache_directory=/users")
    for directory, flags in (
        (None, ""),
        (str(tmp_path), f"--tf_xla_persistent_cache_directory={tmp_path}"),
    ):
        with Worker() as process:
            process.call(result.use_cache, directory)
            assert process.call(os.getenv, "TF_XLA_FLAGS") == flags


@pytest.mark.slow
def test_tensorflow_keeps_what_xla_compiled_and_finds_it(tmp_path):
    wait = Wait(KERAS, {"jit_compile": True})
    found, files = [], []
    for _ in range(2):
        with Worker() as process:
            found.append(process.call(result.train, wait, Cell(64, 1), str(tmp_path)))
        kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        files.append(kept)
    assert files[0]
    assert files[0] == files[1]
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)


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
    page = report.PAGE.read_text()
    names = {f"training {name}" for name in CASES} | set(throughput.SECTIONS)
    names |= {f"result {cell.rows}" for cell in result.CELLS}
    for name in names - {"training", "result"}:
        assert page.count(f"<!-- begin {name} -->") == 1
        assert page.count(f"<!-- end {name} -->") == 1


def test_versions_name_what_is_missing(monkeypatch):
    monkeypatch.setattr(report, "PACKAGES", ("keras", "no-such-package"))
    line = report.provenance("python -m benchmarks.throughput")
    assert "keras 3." in line
    assert "no-such-package missing" in line


def test_the_command_line_that_is_shown_has_no_directories():
    told = ["--data-dir", "/home/me", "--output=/home/me", "--beside", "/home/me"]
    shown = ["--data-dir", "PATH", "--output=PATH", "--beside", "PATH"]
    assert throughput._without_paths(told) == shown


def test_cells_are_rows_and_epochs():
    assert throughput._parse(["--cells", "1000x10", "60000x1"]).cells == [
        Cell(1000, 10),
        Cell(60_000, 1),
    ]
    assert throughput._parse(["--quick"]).cells == [result.QUICK]


@pytest.mark.parametrize("told", ["1000", "1000x", "x10", "1000x0", "many"])
def test_other_cells_are_an_error(told, capsys):
    with pytest.raises(SystemExit):
        throughput._parse(["--cells", told])
    assert "Give 1 or more." in capsys.readouterr().err


def test_a_directory_without_tfp_vae_is_no_checkout(tmp_path, capsys):
    with pytest.raises(SystemExit):
        throughput._parse(["--beside", str(tmp_path)])
    assert "Make one with `git worktree add`." in capsys.readouterr().err
    make_checkout(tmp_path, "")
    assert throughput._parse(["--beside", str(tmp_path)]).beside == tmp_path


def test_images_are_binary_and_the_same_in_every_process():
    x = Data(50).load(CASES["conv"])
    assert x.shape == (50, 28, 28, 1)
    assert set(np.unique(x)) == {0.0, 1.0}
    np.testing.assert_array_equal(x, Data(50).load(CASES["conv"]))
