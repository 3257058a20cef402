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
    "draws": 0,
    "keras_internals": 0,
    "seeds": 0,
    "engine": 1,
    "distribution_tensor": 2,
    "constraints": 2,
    "events": 2,
    "closed_forms": 2,
    "distributions": 2,
    "divergences": 2,
    "serialization": 2,
    "supports": 2,
    "layers": 3,
    "priors": 3,
    "kl_schedule": 4,
    "latents": 2,
    "statistics": 2,
    "losses": 4,
    "metrics": 4,
    "objectives": 4,
    "models": 5,
    "callbacks": 6,
    "disentanglement": 6,
    "evaluation": 6,
    "plots": 6,
    "values": 4,
    "__init__": 9,
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
        if path != PACKAGE / "__init__.py":
            assert FLOORS[room(target)] <= FLOORS[room(path)]


def test_the_engine_knows_nothing_of_the_models_it_trains():
    rooms = {
        module.removeprefix("tfp_vae.").split(".")[0]
        for path in (PACKAGE / "engine").glob("*.py")
        for module in imports(path)
    }
    assert "engine" in rooms
    assert rooms <= {"engine", "keras_internals", "checks"}


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
