"""Imports point down, and everything public is documented."""

import ast
import inspect
import pathlib

import keras
import pytest

import tfp_vae as tv

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "tfp_vae"
FLOORS = {
    "checks": 0,
    "closures": 0,
    "constraints": 0,
    "environment": 0,
    "files": 0,
    "incomplete_gamma": 0,
    "keras_internals": 0,
    "meta_distributions": 0,
    "draws": 1,
    "summaries": 1,
    "supports": 1,
    "distribution_tensor": 2,
    "distributions": 2,
    "engine": 2,
    "seeds": 2,
    "entries": 3,
    "serialization": 3,
    "kl": 4,
    "latents": 5,
    "layers": 5,
    "objectives": 5,
    "weights": 5,
    "losses": 6,
    "priors": 6,
    "table": 6,
    "values": 6,
    "metrics": 7,
    "scores": 7,
    "models": 8,
    "disentanglement": 9,
    "evaluation": 9,
    "prediction": 9,
    "plots": 10,
    "callbacks": 11,
    "__init__": 12,
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(module, name, path):
    """The module that `from module import name` reads, in a file."""
    inner = ROOT / f"{module}.{name}".replace(".", "/")
    if inner.with_suffix(".py").exists():
        return f"{module}.{name}"
    if inner.is_dir() and path == PACKAGE / "__init__.py":  # public as a module
        return f"{module}.{name}.__init__"
    return module


def imports(path):
    """Modules of the package that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
            "tfp_vae"
        ):
            yield from {imported(node.module, a.name, path) for a in node.names}
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("tfp_vae"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down_and_name_the_defining_module(path):
    for module in imports(path):
        target = PACKAGE.parent / (module.replace(".", "/") + ".py")
        assert target.exists(), f"{path} imports {module}, an __init__"
        if room(target) != room(path):
            assert FLOORS[room(target)] < FLOORS[room(path)]


def rooms_below():
    """The rooms that each room imports, from the lowest floor up."""
    below = {name: set() for name in sorted(FLOORS, key=FLOORS.get)}
    for path in MODULES:
        if path.name != "__init__.py" or path.parent == PACKAGE:
            below[room(path)] |= {
                module.removeprefix("tfp_vae.").split(".")[0]
                for module in imports(path)
            } - {room(path)}
    return below


def test_no_cycle_between_rooms(record_property):
    below = rooms_below()
    lines = [
        f"{FLOORS[name]:>2} {name}: {', '.join(sorted(rooms, key=FLOORS.get)) or '-'}"
        for name, rooms in below.items()
    ]
    record_property("floor, room: rooms that it imports", "\n".join(lines))
    while below:
        leaves = {name for name, rooms in below.items() if not rooms & set(below)}
        assert leaves, f"a cycle among {sorted(below)}"
        below = {name: rooms for name, rooms in below.items() if name not in leaves}


def test_the_engine_knows_nothing_of_the_models_it_trains():
    assert rooms_below()["engine"] <= {"keras_internals", "checks", "files"}


def test_no_import_cycle():
    graph = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): set(
            imports(path)
        )
        for path in MODULES
    }
    while graph:
        leaves = {name for name, below in graph.items() if not below & set(graph)}
        assert leaves, f"a cycle among {sorted(graph)}"
        graph = {n: b for n, b in graph.items() if n not in leaves}


def test_nothing_imports_tf_keras():
    for path in MODULES:
        assert "import tf_keras" not in path.read_text()


@pytest.mark.parametrize("name", tv.__all__)
def test_everything_public_has_a_docstring_with_an_example(name):
    assert ">>>" in inspect.getdoc(getattr(tv, name))


@pytest.mark.parametrize("name", tv.__all__)
def test_everything_that_keras_saves_is_registered(name):
    thing = getattr(tv, name)
    saved = (keras.layers.Layer, keras.Loss, keras.Metric, keras.Regularizer)
    if (
        inspect.isclass(thing)
        and issubclass(thing, saved)
        and name != "DistributionLayer"
    ):
        registered = keras.saving.get_registered_object(f"tfp_vae>{name}")
        assert registered is thing


def test_the_version_is_one():
    assert f'__version__ = "{tv.__version__}"' in (PACKAGE / "__init__.py").read_text()
    assert tv.__version__ in (ROOT / "CHANGELOG.md").read_text()


def test_contributing_is_short():
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 80
