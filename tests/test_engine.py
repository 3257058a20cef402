"""The parts of the compiled `fit`: batches in stacks, programs, XLA, the bar."""

import itertools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_vae as tv
from tfp_vae.engine import compiler, data
from tfp_vae.engine.batches import ArrayBatches, Epochs, PipelineBatches
from tfp_vae.engine.compiler import EAGER, GRAPH, XLA, Compiler, FunctionCache
from tfp_vae.engine.graphs import numbers_from_kept_seeds, operations
from tfp_vae.engine.program import Program
from tfp_vae.engine.progress import EarlyBar, with_bar
from tfp_vae.engine.run import default_steps


def rows_in(stack):
    """The rows of the batches that there are, of the first array."""
    return stack.tensors[0].numpy()[: stack.number].tolist()


def stacks_of(batches, most, capacity=1):
    """The stacks of an epoch that has begun."""
    return list(iter(lambda: batches.take(most, capacity), None))


def batches_of(batches, most, capacity=1):
    return [batch for s in stacks_of(batches, most, capacity) for batch in rows_in(s)]


def orders(how, seed, epochs=3):
    batches = ArrayBatches(tf.range(100), range(10, 80), 16, how, seed)
    for epoch in range(epochs):
        batches.begin(epoch)
        yield np.concatenate(batches_of(batches, most=2))


@pytest.mark.parametrize("how", [True, False, "batch"])
def test_every_row_is_in_every_epoch_once(how):
    for order in orders(how, seed=1):
        np.testing.assert_array_equal(np.sort(order), np.arange(10, 80))


@pytest.mark.parametrize("how", [True, False, "batch"])
def test_every_epoch_and_every_seed_have_an_order_of_their_own(how):
    found = [*orders(how, seed=1), *orders(how, seed=2)]
    pairs = itertools.combinations(found, 2)
    assert [np.array_equal(*pair) for pair in pairs] == [how is False] * 15


@pytest.mark.parametrize("how", [True, "batch"])
def test_the_order_of_an_epoch_does_not_depend_on_those_before(how):
    _, _, third = orders(how, seed=1)
    again = ArrayBatches(tf.range(100), range(10, 80), 16, how, 1)
    again.begin(2)
    np.testing.assert_array_equal(np.concatenate(batches_of(again, 2)), third)


def test_rows_stay_in_their_batch_where_only_batches_are_shuffled():
    for order in orders("batch", seed=1):
        np.testing.assert_array_equal((order - 10) // 16, np.arange(70) // 16)


def test_arrays_are_shuffled_together():
    x = np.arange(50)
    batches = ArrayBatches((x, {"y": 2 * x}, None), range(50), 8, True, seed=4)
    batches.begin(0)
    for stack in stacks_of(batches, 3):
        x_place, y_place = stack.structure[0], stack.structure[1]["y"]
        assert stack.structure[2] is None
        doubled = 2 * stack.tensors[x_place]
        np.testing.assert_array_equal(stack.tensors[y_place], doubled)


@pytest.mark.parametrize("most", [1, 2, 3, 9])
def test_stacks_have_the_batches_of_arrays_in_order(most):
    batches = ArrayBatches(tf.range(70), range(70), 16)
    batches.begin(0)
    stacks = stacks_of(batches, most, capacity=4)
    found = [batch for stack in stacks for batch in rows_in(stack)]
    expected = np.split(np.arange(70), range(16, 70, 16))
    assert found == [part.tolist() for part in expected]
    assert [stack.is_full for stack in stacks] == [True] * (len(stacks) - 1) + [False]
    # Room for as many as XLA compiles for; the last batch is alone.
    lengths = {stack.tensors[0].shape[0] for stack in stacks[:-1]}
    assert lengths == {max(4, min(most, 4))}
    assert all(stack.number <= most for stack in stacks)


def test_rows_fewer_than_a_batch_are_a_batch_of_the_usual_length():
    batches = ArrayBatches(tf.range(5), range(5), 16)
    batches.begin(0)
    (stack,) = stacks_of(batches, 4)
    assert stack.is_full
    assert rows_in(stack) == [[0, 1, 2, 3, 4]]


def of_lengths(lengths):
    """A dataset of batches that count on, and the batches."""
    ends = np.cumsum([0, *lengths])
    pieces = [np.arange(a, b) for a, b in itertools.pairwise(ends)]
    spec = tf.TensorSpec([None], tf.int64)
    dataset = tf.data.Dataset.from_generator(
        lambda: iter(pieces), output_signature=spec
    )
    return dataset, [piece.tolist() for piece in pieces]


@pytest.mark.parametrize("most", [1, 2, 3, 5, 9])
def test_batches_of_many_lengths_keep_their_order(most):
    dataset, expected = of_lengths([3, 3, 5, 5, 5, 2, 3, 3])
    batches = PipelineBatches(dataset, None, "fit")
    for epoch in range(2):
        batches.begin(epoch)
        stacks = stacks_of(batches, most)
        assert [batch for s in stacks for batch in rows_in(s)] == expected
        usual = [len(rows_in(stack)[0]) == 3 for stack in stacks]
        assert [stack.is_full for stack in stacks] == usual
    if most == 9:
        assert [stack.number for stack in stacks] == [2, 3, 1, 2]


def test_a_pipeline_is_opened_once_for_each_pass():
    opened = []

    class Counted:
        def __iter__(self):
            opened.append(True)
            return iter([np.zeros(2), np.ones(2)])

    batches = PipelineBatches(Counted(), None, "fit")
    for epoch in range(3):
        batches.begin(epoch)
        assert batches_of(batches, 4) == [[0.0, 0.0], [1.0, 1.0]]
    assert len(opened) == 3


def test_lists_that_a_pipeline_yields_are_tuples():
    batches = PipelineBatches(iter([[np.zeros(2), np.ones(2)]]), None, "fit")
    assert batches.take(1, 1).structure == (0, 1)


def numbers(passes, epochs, most=2):
    return [[s.number for s in passes.epoch(e, most, 1)] for e in range(epochs)]


def test_epochs_of_so_many_steps_go_on_where_the_last_ended():
    source = PipelineBatches(tf.data.Dataset.range(24).batch(4), 6, "fit")
    passes = Epochs(source, 3, "fit")
    found = [
        batch
        for epoch in range(2)
        for stack in passes.epoch(epoch, 2, 1)
        for batch in rows_in(stack)
    ]
    assert found == np.arange(24).reshape(6, 4).tolist()


def test_as_many_steps_as_there_are_batches_are_whole_passes():
    arrays = ArrayBatches(tf.range(10), range(10), 4, True, seed=1)
    pipeline = PipelineBatches(tf.data.Dataset.range(10).batch(4), 3, "fit")
    for source in (arrays, pipeline):
        passes = Epochs(source, 3, "fit")
        for epoch in range(3):
            rows = [batch for s in passes.epoch(epoch, 2, 1) for batch in rows_in(s)]
            assert sorted(itertools.chain(*rows)) == list(range(10))


def test_epochs_without_a_number_of_steps_are_whole_passes():
    dataset = tf.data.Dataset.range(20).batch(4)
    passes = Epochs(PipelineBatches(dataset, None, "fit"), None, "fit")
    assert passes.num_batches is None
    assert numbers(passes, 2) == [[2, 2, 1], [2, 2, 1]]
    assert passes.num_batches == 5


def test_data_that_end_before_the_steps_do_are_told_and_begin_again():
    passes = Epochs(ArrayBatches(tf.range(6), range(6), 2), 5, "fit")
    with pytest.warns(UserWarning, match="ran out of data after 3 of 5 steps"):
        assert numbers(passes, 1) == [[2, 1]]
    with pytest.warns(UserWarning, match="3 of 5 steps"):
        assert numbers(passes, 1) == [[2, 1]]


def test_keras_own_limit_of_steps_holds(monkeypatch):
    monkeypatch.setattr(keras.config, "max_steps_per_epoch", lambda: 2)
    source = ArrayBatches(tf.range(10), range(10), 2)
    assert Epochs(source, None, "fit").num_batches == 2
    assert Epochs(source, 1, "fit").num_batches == 1


def test_programs_take_few_steps_of_large_batches():
    assert default_steps(None, 1) == 64
    assert default_steps(1000, 2**28) == 1
    assert default_steps(None, 2**24) == 2


@pytest.mark.parametrize("count", range(1, 200, 7))
def test_programs_of_an_epoch_are_about_as_long_as_each_other(count):
    steps = default_steps(count, 1)
    assert 1 <= steps <= 64
    overshoot = -count % steps
    assert overshoot < -(-count // steps)


# Programs


def recurrence(total):
    """A step whose result depends on the order of all before."""

    def step(x):
        (x,) = keras.tree.flatten(x)
        total.assign(2 * total + tf.reduce_sum(x))
        return {"total": total.value(), "rows": tf.shape(x)[0]}

    return step


def run(program, batches, most, way=GRAPH):
    batches.begin(0)
    for stack in stacks_of(batches, most, most):
        logs = program(stack, way)
    return {name: float(value) for name, value in logs.items()}


@pytest.mark.parametrize("way", [EAGER, GRAPH, XLA])
@pytest.mark.parametrize("most", [1, 3, 8])
def test_a_program_does_the_steps_one_after_the_other(most, way):
    x = np.arange(23.0)
    total = tf.Variable(0.0)
    program = Program(recurrence(total), "steps", Compiler("auto"))
    found = run(program, ArrayBatches(x, range(23), 4), most, way)
    expected = 0.0
    for start in range(0, 23, 4):
        expected = 2 * expected + x[start : start + 4].sum()
    assert found == {"total": expected, "rows": 3}
    assert float(total) == expected


@pytest.mark.parametrize("way", [EAGER, GRAPH, XLA])
def test_a_program_reaches_the_end_of_batches_of_many_lengths(way):
    dataset, pieces = of_lengths([3, 3, 5, 5, 5, 2, 3, 3])
    total = tf.Variable(tf.constant(0, tf.int64))
    program = Program(recurrence(total), "steps", Compiler("auto"))
    found = run(program, PipelineBatches(dataset, None, "fit"), 2, way)
    expected = 0
    for piece in pieces:
        expected = 2 * expected + sum(piece)
    assert found == {"total": expected, "rows": 3}


def test_a_step_is_traced_once_for_batches_of_every_length():
    traced = []

    def step(x):
        traced.append(x.shape)
        return {"sum": tf.reduce_sum(x)}

    program = Program(step, "sums", Compiler(False))
    for length in (70, 23, 5):
        run(program, ArrayBatches(tf.range(length), range(length), 16), 3)
    assert len(traced) == 1


@pytest.mark.parametrize("most", [1, 3])
def test_logs_of_the_length_of_the_batch_are_those_of_the_last(most):
    total = tf.Variable(0)

    def step(x):
        total.assign(2 * total + tf.reduce_sum(x))
        return {"x": x}

    program = Program(step, "steps", Compiler(False))
    batches = ArrayBatches(tf.range(12), range(12), 2)
    batches.begin(0)
    for stack in stacks_of(batches, most):
        logs = program(stack)
    assert logs["x"].numpy().tolist() == [10, 11]
    expected = 0
    for i in range(6):
        expected = 2 * expected + 4 * i + 1
    assert int(total) == expected


@pytest.mark.parametrize("number", [2, 5])
def test_a_step_is_traced_twice_for_sequences_of_every_length(number):
    traced = []

    def step(x):
        traced.append(x.shape)
        return {"sum": tf.reduce_sum(x)}

    program = Program(step, "sums", Compiler(False))
    for length in range(3, 3 + number):
        x = np.arange(4 * length, dtype="float32").reshape(4, length)
        batches = ArrayBatches(tf.constant(x), range(4), 2)
        batches.begin(0)
        found = [float(program(batches.take(1, 1))["sum"]) for _ in range(2)]
        assert sum(found) == x.sum()
    assert len(traced) == 2
    assert [shape[1] for shape in traced] == [3, None]


def test_a_program_whose_first_trace_failed_can_make_variables_later():
    made, fails = [], [True]

    def step(x):
        if not made:
            made.append(tf.Variable(0.0))
        if fails[0]:
            raise ValueError("not yet")
        return {"sum": made[0].assign_add(tf.reduce_sum(x))}

    program = Program(step, "sums", Compiler(False))
    batches = ArrayBatches(tf.ones(8), range(8), 2)
    with pytest.raises(ValueError, match="not yet"):
        run(program, batches, 2)
    made.clear()
    fails[0] = False
    assert run(program, batches, 2) == {"sum": 8.0}


def test_nothing_of_a_program_runs_on_the_host():
    program = Program(lambda x: {"sum": tf.reduce_sum(x)}, "sums", Compiler(False))
    stack = ArrayBatches(np.ones([8, 3]), range(8), 2).take(4, 4)
    graph = tf.function(lambda: program(stack), autograph=False)
    found = set(operations(graph.get_concrete_function().graph.as_graph_def()))
    assert found & {"While", "StatelessWhile"}
    assert not {op for op in found if "PyFunc" in op or "Iterator" in op}


# XLA


def called(function, *args):
    """Calls a function with XLA, if it can."""
    return function(*args, warmup_args=tuple(map(tf.zeros_like, args)))


def test_xla_compiles_where_it_is_chosen_and_can():
    function = Compiler("auto").function(lambda x: tf.reduce_sum(x**2), "a sum")
    assert function.can_use_xla(tf.ones(3))
    assert float(called(function, tf.ones(3))) == 3.0
    assert not Compiler(False).function(lambda x: x, "it").can_use_xla(tf.ones(3))


@pytest.mark.parametrize("asked", ["auto", True])
def test_convolutions_run_without_xla_on_a_cpu(asked, recwarn):
    if tf.config.list_logical_devices("GPU"):
        pytest.skip("XLA compiles convolutions for a GPU")
    kernel = tf.ones([3, 3, 1, 1])
    function = Compiler(asked).function(
        lambda x: tf.nn.conv2d(x, kernel, 1, "SAME"), "a convolution"
    )
    x = tf.ones([1, 3, 3, 1])
    for _ in range(2):
        np.testing.assert_allclose(called(function, x)[0, 1, 1, 0], 9.0)
    assert not function.can_use_xla(x)
    # Told to who asked for XLA, once.
    assert len(recwarn) == (asked is True)


def test_draws_that_follow_the_seed_are_left_to_tensorflow():
    noisy = Compiler("auto").function(lambda x: x + tf.random.normal(x.shape), "noise")
    assert not noisy.can_use_xla(tf.ones(3))
    found = []
    for _ in range(2):
        tf.random.set_seed(1)
        found.append(called(noisy, tf.ones(3)).numpy())
    np.testing.assert_array_equal(*found)


def noisy_graph(layer, units):
    """A graph that calls a layer of Keras on a batch of any size, for training."""
    x = tf.TensorSpec([None, units])
    graph = tf.function(lambda x: layer(x, training=True)).get_concrete_function(x)
    return graph.graph.as_graph_def(add_shapes=True)


@pytest.mark.parametrize(
    ("layer", "numbers"),
    [
        (keras.layers.Dropout(0.5), 5 * 7),
        (keras.layers.Dropout(0.5, noise_shape=(None, 1)), 5),
        (keras.layers.GaussianNoise(0.5), 5 * 7),
        (keras.layers.Dense(7), 0),
        # Its key is the seed itself.
        (tv.IndependentNormal(7), 0),
    ],
)
def test_numbers_drawn_with_a_kept_seed_are_counted(layer, numbers):
    width = 14 if isinstance(layer, tv.IndependentNormal) else 7
    graph = noisy_graph(layer, width)
    is_random = any("Random" in name for name in operations(graph))
    assert is_random != isinstance(layer, keras.layers.Dense)
    assert numbers_from_kept_seeds(graph, 5) == numbers
    assert numbers_from_kept_seeds(graph) == (np.inf if numbers else 0)


def test_a_known_number_and_those_of_an_inner_function_are_counted():
    draw = tf.function(lambda seed: tf.random.stateless_uniform([3, 4], seed))

    def draws(seed):
        other = tf.random.stateless_uniform([2], seed, None, None, tf.int32)
        return draw(seed), tf.random.stateless_normal([9], other)

    graph = tf.function(draws).get_concrete_function(tf.TensorSpec([2], tf.int32))
    found = graph.graph.as_graph_def(add_shapes=True)
    # 12, and 2 to seed the last draw.
    assert numbers_from_kept_seeds(found) == 14


@pytest.mark.parametrize(
    ("rate", "units", "uses_xla"), [(0.5, 1, True), (0.5, 500, False), (0.0, 500, True)]
)
def test_steps_with_much_noise_run_without_xla_on_a_cpu(rate, units, uses_xla):
    if tf.config.list_logical_devices("GPU"):
        pytest.skip("XLA draws noise well on a GPU")
    layer = keras.layers.Dropout(rate)
    batches = ArrayBatches(np.ones([16, units], "float32"), range(16), 4)
    stack = batches.take(4, 4)

    def can(asked):
        program = Program(
            lambda x: {"sum": tf.reduce_sum(layer(x, training=True))},
            "sums",
            Compiler(asked),
        )
        program(stack, XLA)
        (function,) = program._functions.values()
        return function.can_use_xla(batch_size=4)

    assert can("auto") is uses_xla
    assert can(True)


@pytest.mark.parametrize("sizes", [(2, 400), (400, 2)])
def test_the_noise_of_each_batch_size_decides(sizes):
    if tf.config.list_logical_devices("GPU"):
        pytest.skip("XLA draws noise well on a GPU")
    layer = keras.layers.Dropout(0.5)
    program = Program(
        lambda x: {"sum": tf.reduce_sum(layer(x, training=True))},
        "sums",
        Compiler("auto"),
    )
    compiled = {}
    for size in sizes:
        batches = ArrayBatches(np.ones([800, 1], "float32"), range(800), size)
        (before,) = [len(f._ready) for f in program._functions.values()] or [0]
        program(batches.take(2, 2), XLA)
        (function,) = program._functions.values()
        compiled[size] = len(function._ready) - before
    assert compiled == {2: 1, 400: 0}


@pytest.mark.parametrize("asked", ["auto", True])
def test_recurrent_layers_learn_without_xla(asked, recwarn):
    keras.utils.set_random_seed(0)
    layer = keras.layers.LSTM(2)

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = tf.reduce_sum(layer(x))
        return tape.gradient(value, x)

    x = tf.ones([4, 3, 1])
    layer(x)  # makes the variables
    function = Compiler(asked).function(
        slope, "a gradient", [tf.TensorSpec([None, 3, 1])]
    )
    np.testing.assert_allclose(called(function, x), slope(x), rtol=1e-5)
    assert not function.can_use_xla(x)
    # Told to who asked for XLA, once.
    assert len(recwarn) == (asked is True)
    function = Compiler("auto").function(layer, "a pass", [tf.TensorSpec([None, 3, 1])])
    np.testing.assert_allclose(called(function, x), layer(x), rtol=1e-5)
    assert function.can_use_xla(x)


def on_the_host(x):
    """Something that XLA cannot compile."""
    return tf.ensure_shape(tf.numpy_function(lambda a: a + 1, [x], tf.float32), x.shape)


def test_what_xla_refuses_runs_without_it_and_is_told_once():
    compiler = Compiler("auto", "Model")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("a step", "another"):
            function = compiler.function(on_the_host, name)
            for _ in range(2):
                assert float(called(function, tf.constant(1.0))) == 2.0
    (told,) = [str(w.message) for w in caught]
    assert "`Model` runs a step without XLA" in told
    assert "compile(jit_compile=False)" in told


def test_what_xla_refuses_is_an_error_where_xla_was_asked_for():
    function = Compiler(True).function(on_the_host, "a step")
    with pytest.raises(tf.errors.InvalidArgumentError):
        called(function, tf.constant(1.0))


def test_an_error_beside_a_refusal_is_that_of_the_function():
    def step(x):
        return tf.debugging.check_numerics(on_the_host(x), "bad")

    function = Compiler("auto").function(step, "a step")
    with (
        pytest.warns(UserWarning, match="a step"),
        pytest.raises(tf.errors.InvalidArgumentError, match="bad"),
    ):
        called(function, tf.constant(np.nan))
    assert float(called(function, tf.constant(1.0))) == 2.0


def test_an_error_of_a_run_is_no_refusal_and_nothing_runs_again():
    runs = tf.Variable(0)

    def step(x, count):
        runs.assign_add(count)
        return tf.reshape(x, [2])

    signature = [tf.TensorSpec([None]), tf.TensorSpec([], tf.int32)]
    function = Compiler("auto").function(step, "a step", signature)
    warmup_args = tf.zeros(2), tf.constant(0)
    function(tf.ones(2), tf.constant(1), warmup_args=warmup_args)
    assert int(runs) == 1
    with pytest.raises(tf.errors.InvalidArgumentError):
        function(tf.ones(3), tf.constant(1), warmup_args=warmup_args)
    assert int(runs) == 1
    function(tf.ones(2), tf.constant(1), warmup_args=warmup_args)
    assert int(runs) == 2


def test_functions_of_equal_code_are_no_retracings_to_tensorflow(caplog, monkeypatch):
    monkeypatch.setattr(tf.get_logger(), "propagate", True)

    def made(number):
        return Compiler(False).function(lambda x: x + number, "a sum")

    assert [float(made(i)(tf.constant(1.0))) for i in range(12)] == [*range(1, 13)]
    assert "retracing" not in caplog.text


def test_more_steps_of_a_kind_are_run_in_ways_that_pay_for_more(monkeypatch):
    monkeypatch.setattr(compiler, "_EAGER_STEPS", 2)
    monkeypatch.setattr(compiler, "_STEPS_THAT_PAY", 10)
    functions = FunctionCache(Compiler("auto"))
    found = [functions.choose_mode("training", steps) for steps in (2, 7, None, 1, 1)]
    assert found == [EAGER, GRAPH, GRAPH, XLA, XLA]
    assert functions.choose_mode("evaluation", 9) == GRAPH
    assert functions.choose_mode("others", None) == GRAPH


def test_xla_is_used_from_the_first_step_on_or_never_where_that_was_said():
    always, never = FunctionCache(Compiler(True)), FunctionCache(Compiler(False))
    for steps in (1, None, 100, 10_000):
        assert always.choose_mode("training", steps) == XLA
        assert never.choose_mode("training", steps) != XLA


# The bar


def test_a_bar_is_added_where_keras_would_add_its_own():
    (added,) = with_bar(None, "auto", "a step")
    assert isinstance(added, EarlyBar)
    given = [keras.callbacks.ProgbarLogger()]
    assert with_bar(given, 1, "a step") == given
    assert with_bar(given[0], 1, "a step") == given
    assert with_bar(None, 0, "a step") == []


def test_the_bar_is_there_before_the_first_step_is_over(capsys):
    bar = EarlyBar("a step")
    bar.set_params({"verbose": 1, "epochs": 1, "steps": 5})
    bar.on_epoch_begin(0)
    bar.on_train_batch_begin(0)
    shown = capsys.readouterr().out
    assert shown.startswith("Compiling a step ...\n")
    assert "0/5" in shown
    bar.on_train_batch_begin(1)
    assert not capsys.readouterr().out


@pytest.mark.parametrize(("what", "verbose"), [(None, 1), ("a step", 2)])
def test_nothing_is_said_before_a_step_where_keras_says_nothing(what, verbose, capsys):
    bar = EarlyBar(what)
    bar.set_params({"verbose": verbose, "epochs": 1, "steps": 5})
    bar.on_epoch_begin(0)
    bar.on_train_batch_begin(0)
    assert not capsys.readouterr().out


# Data


def test_integer_data_stay_integers():
    x = np.zeros([5, 2], "uint8")
    assert data.resident((x, None))[0].dtype == tf.uint8
    assert data.as_tensor(x).dtype == tf.uint8


def test_large_arrays_stay_where_they_are_and_have_the_same_batches(monkeypatch):
    x = np.random.default_rng(0).normal(size=(70, 3))
    found = []
    for limit in (2**30, 0):
        monkeypatch.setattr(data, "RESIDENT_BYTES", limit)
        assert (data.resident((x, None))[0] is x) == (limit == 0)
        batches = ArrayBatches((x, None), range(70), 16, True, seed=2)
        batches.begin(0)
        found.append(np.concatenate(batches_of(batches, 3)))
    np.testing.assert_array_equal(*found)


class Disk:
    """An array on a disk, that is cut by rows and counts how many were read."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype
        self.chunks, self.most = True, 0

    def __getitem__(self, rows):
        found = self.array[rows]
        self.most = max(self.most, len(found))
        return found


def test_large_arrays_are_read_batch_by_batch(monkeypatch):
    monkeypatch.setattr(data, "RESIDENT_BYTES", 0)
    x = np.arange(70.0)
    disk = Disk(x)
    given = data.read((disk, None), "fit")
    batches = ArrayBatches(given, range(70), 16)
    batches.begin(0)
    np.testing.assert_array_equal(np.concatenate(batches_of(batches, 2)), x)
    assert disk.most == 32  # a stack of two


def test_a_structure_keeps_none_and_one_object_in_two_places():
    x = np.zeros([5, 2])
    found = data.read((x, {"a": x, "b": None}), "fit")
    assert found[0] is found[1]["a"]
    assert found[1]["b"] is None
    assert data.size_of(found) == 5 * 2 * 4


def test_logs_that_a_loop_cannot_carry_make_no_step_more_with_xla(monkeypatch):
    monkeypatch.setattr(compiler, "_STEPS_THAT_PAY", 1)
    total = tf.Variable(0)

    def step(x):
        total.assign_add(1)
        return {"x": x}

    program = Program(step, "steps", Compiler("auto"))
    batches = ArrayBatches(tf.range(12), range(12), 2)
    for epoch in range(2):
        batches.begin(epoch)
        for stack in stacks_of(batches, 3):
            program(stack, "XLA")
    assert int(total) == 12


@pytest.mark.parametrize("name", ["RandomUniformInt", "Multinomial"])
def test_draws_that_follow_the_global_seed_are_left_to_tensorflow(name):
    def draw(x):
        if name == "Multinomial":
            return x + tf.cast(tf.random.categorical([[0.0, 0.0]], 1)[0, 0], tf.float32)
        return x + tf.cast(tf.random.uniform([], 0, 9, tf.int32), tf.float32)

    x = tf.constant(1.0)
    assert not Compiler("auto").function(draw, "draws").can_use_xla(x)
    assert Compiler(True).function(draw, "draws").can_use_xla(x)


class Slices:
    """An array that can be cut by slices alone."""

    def __init__(self, array):
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, rows):
        if not isinstance(rows, slice):
            raise TypeError("slices alone")
        return self.array[rows]


def test_arrays_that_can_be_sliced_alone_are_read_by_rows():
    x = np.arange(20.0).reshape(10, 2)
    index = np.array([[7, 1], [1, 0]])
    np.testing.assert_array_equal(data.rows_of(Slices(x), index), x[index])


def test_a_dataset_keeps_its_dtypes_and_a_generator_has_keras_own():
    x = np.zeros([4, 2])
    dataset = PipelineBatches(tf.data.Dataset.from_tensors(x), 1, "fit")
    assert dataset.first.dtype == tf.float64
    generator = PipelineBatches((x for _ in range(2)), None, "fit")
    assert generator.first.dtype == tf.float32
