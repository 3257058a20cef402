"""Weights files with a checksum, and with state that Keras does not save."""

import contextlib
import hashlib
import json
import pathlib
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import h5py
import keras
import numpy as np

from tfp_vae.engine.optimizer import classes_of
from tfp_vae.files import local_copy, replacing
from tfp_vae.keras_internals import nested_layers

# A group of the HDF5 file. Keras reads only groups of its own.
_GROUP = "training_state"
# The end of the file: HDF5 ignores what follows its own content.
_MARK = b"tfp_vae: SHA-256 of what precedes "
_CHECKSUM_BYTES = len(_MARK) + 64


def write_weights(model: Any, path: Any, **state: Any) -> None:
    """Writes a `.weights.h5` file that Keras can load, with a state and a checksum.

    The file has the weights, the optimizer, and the states of Keras' random
    generators, such as those of `Dropout`, which Keras saves nowhere.

    Args:
        model: A Keras model.
        path: Path of the file, which is replaced atomically.
        **state: What else to save: numbers, strings, arrays, `None`, and lists, tuples
            and dictionaries of them.

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> path = f"{tempfile.mkdtemp()}/last.weights.h5"
        >>> write_weights(model, path, epoch=3)
        >>> model.load_weights(path)
        >>> read_weights(model, path)["epoch"]
        3
    """
    own = {
        "random": [variable.numpy() for variable in random_states(model)],
        "optimizer": classes_of(getattr(model, "optimizer", None)),
    }
    with replacing(path) as new:
        keras.saving.save_weights(model, str(new))
        with h5py.File(new, "r+") as file:
            group = file.create_group(_GROUP)
            found = _to_json({**state, **own}, group)
            group["structure"] = np.frombuffer(json.dumps(found).encode(), np.uint8)
        append_checksum(new)


def read_weights(model: Any, path: Any, skip_mismatch: bool = False) -> dict[str, Any]:
    """Loads a file of `write_weights`, or any other weights file.

    Args:
        model: A Keras model, built.
        path: Path of the file.
        skip_mismatch: As in `keras.Model.load_weights`.

    Returns:
        The state that was saved; an empty dictionary for a file of Keras.

    Raises:
        OSError: If the file was cut or damaged.

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> path = f"{tempfile.mkdtemp()}/last.weights.h5"
        >>> keras.Model.save_weights(model, path)
        >>> read_weights(model, path)
        {}
    """
    own = classes_of(getattr(model, "optimizer", None))
    with local_copy(path) as local, explaining_damage(local, path):
        state = read_state(local)
        theirs = state.pop("optimizer", [])
        rate = None
        if theirs == own and not skip_mismatch and build_as_saved(model, local):
            # Of `compile`, to be set again after loading.
            rate = model.optimizer.learning_rate
        rate = float(rate) if isinstance(rate, keras.Variable) else None
        with contextlib.ExitStack() as stack:
            if own and theirs and theirs != own:
                warnings.warn(
                    "The weights are loaded, but not the optimizer: the file has "
                    f"{theirs}, the model {own}. Compile the model with the same one "
                    "to go on with its moments.",
                    stacklevel=3,
                )
                local = stack.enter_context(_without_optimizer(local))
            keras.saving.load_weights(model, str(local), skip_mismatch=skip_mismatch)
        if rate is not None:
            model.optimizer.learning_rate = rate
    set_random_states(model, state.pop("random", []))
    return state


@contextlib.contextmanager
def _without_optimizer(path: Any) -> Iterator[pathlib.Path]:
    """A copy of a weights file without the variables of the optimizer.

    Keras would load those of any optimizer that has as many.
    """
    with tempfile.TemporaryDirectory() as directory:
        part = pathlib.Path(directory, "part.weights.h5")
        with h5py.File(path, "r") as old, h5py.File(part, "w") as new:
            new.attrs.update(old.attrs)
            for name in old:
                if name != "optimizer":
                    old.copy(_own(old, name), new)
        yield part


def build_as_saved(model: Any, path: Any) -> bool:
    """Builds the optimizer of an untrained model, so that Keras loads its variables.

    Keras loads nothing into an optimizer that is not built, not even its step. If the
    file has variables of other shapes, or none, the optimizer stays unbuilt.

    Args:
        model: A Keras model.
        path: Local path of a weights file.

    Returns:
        Whether the optimizer was built here.

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> model.compile("adam", "mse")
        >>> path = f"{tempfile.mkdtemp()}/last.weights.h5"
        >>> write_weights(model, path)
        >>> build_as_saved(model, path)
        False
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or optimizer.built or not model.built:
        return False
    saved = shapes_of_optimizer(path)
    if len(saved) <= len(optimizer.variables):
        return False
    with model.distribute_strategy.scope():
        # To know the shapes, a copy is built: an optimizer cannot be built twice.
        try:
            copy = type(optimizer).from_config(optimizer.get_config())
        except Exception:  # A schedule of the user may not be serializable.
            return False
        copy.build(model.trainable_variables)
        if [tuple(variable.shape) for variable in copy.variables] != saved:
            return False
        optimizer.build(model.trainable_variables)
    return True


def shapes_of_optimizer(path: Any) -> list[tuple[int, ...]]:
    """Shapes of the optimizer's variables in a weights file.

    Args:
        path: Local path of the file.

    Returns:
        A list, empty if there are none.

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> path = f"{tempfile.mkdtemp()}/last.weights.h5"
        >>> write_weights(model, path)
        >>> shapes_of_optimizer(path)
        []
    """
    with h5py.File(path, "r") as file:
        group = _inside(_inside(file, "optimizer", h5py.Group), "vars", h5py.Group)
        if group is None:
            return []
        found = [_inside(group, str(i), h5py.Dataset) for i in range(len(group))]
        return [] if None in found else [part.shape for part in found]


def _inside(group: Any, name: str, kind: type) -> Any:
    """The member `name` of a group; `None` if missing, a link, or of another kind."""
    if group is None or not isinstance(group.get(name, getlink=True), h5py.HardLink):
        return None
    return group[name] if isinstance(group[name], kind) else None


def read_state(path: Any) -> dict[str, Any]:
    """Reads what `write_weights` saved beside the weights.

    Args:
        path: Local path of a weights file.

    Returns:
        A dictionary.

    Example:
        >>> import tempfile
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> path = f"{tempfile.mkdtemp()}/last.weights.h5"
        >>> write_weights(model, path, best=np.float32(0.5), names=("a", "b"))
        >>> read_state(path)
        {'best': np.float32(0.5), 'names': ('a', 'b'), 'random': [], 'optimizer': []}
    """
    with h5py.File(path, "r") as file:
        if _GROUP not in file:
            return {}
        try:
            group = file[_own(file, _GROUP)]
            return _from_json(json.loads(_bytes(group, "structure")), group)
        except Exception as error:
            raise OSError(f"it has a malformed {_GROUP!r}: {error}") from error


@contextlib.contextmanager
def explaining_damage(local: Any, path: Any) -> Iterator[None]:
    """Checks a file before a block reads it, and explains errors of HDF5.

    Args:
        local: Local path of the file.
        path: Its name in messages.

    Yields:
        Nothing.

    Raises:
        OSError: If the file was cut or damaged.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "last.weights.h5")
        >>> _ = path.write_bytes(bytes(100))
        >>> with explaining_damage(path, path):
        ...     read_state(path)
        Traceback (most recent call last):
            ...
        OSError: Loading weights expects an undamaged file. Received: ...
    """

    def error(why: str) -> OSError:
        return OSError(
            f"Loading weights expects an undamaged file. Received: {str(path)!r}, "
            f"{why}. If it was cut or damaged, load another copy or train again."
        )

    if contradicts_checksum(local):
        raise error("whose content does not match its checksum")
    try:
        yield
    except (BlockingIOError, FileNotFoundError, PermissionError):
        raise
    except OSError as cause:
        raise error(f"which cannot be read ({cause})") from cause


def append_checksum(path: pathlib.Path) -> None:
    """Appends a checksum to a file.

    Args:
        path: Path of a local HDF5 file. Changing it with `h5py` removes the checksum.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "any.h5")
        >>> _ = path.write_bytes(b"content")
        >>> append_checksum(path)
        >>> path.read_bytes()[:40]
        b'contenttfp_vae: SHA-256 of what precedes'
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with path.open("ab") as file:
        file.write(_MARK + digest.encode())


def contradicts_checksum(path: pathlib.Path) -> bool:
    """Whether a file has a checksum that its content contradicts.

    Args:
        path: Path of a local file.

    Returns:
        True if the content does not match the checksum; False if there is none.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "any.h5")
        >>> _ = path.write_bytes(b"content")
        >>> append_checksum(path)
        >>> contradicts_checksum(path)
        False
        >>> _ = path.write_bytes(path.read_bytes().replace(b"ont", b"ant"))
        >>> contradicts_checksum(path)
        True
    """
    left = path.stat().st_size - _CHECKSUM_BYTES
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(max(left, 0))
        found = file.read()
        if left < 0 or not found.startswith(_MARK):
            return False
        file.seek(0)
        while left:
            block = file.read(min(left, 2**20))
            digest.update(block)
            left -= len(block)
    return found != _MARK + digest.hexdigest().encode()


def random_states(model: Any) -> list[Any]:
    """The states of the random generators of layers that do not save them.

    Args:
        model: A Keras model.

    Returns:
        A list of variables.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5)])
        >>> [state.shape for state in random_states(model)]
        [TensorShape([2])]
    """
    saved = {id(v) for v in [*model.weights, *model.metrics_variables]}
    for layer in nested_layers(model):  # Some save their states themselves.
        if type(layer).save_own_variables is not keras.layers.Layer.save_own_variables:
            saved |= {id(v) for v in layer.variables if layer is not model}
    return [v for v in model.variables if id(v) not in saved]


def set_random_states(model: Any, values: list[Any]) -> None:
    """Sets the states of the random generators of a model's layers.

    Args:
        model: A Keras model.
        values: One value for each of `random_states`. If the number or a shape differs,
            none is set: a model with the same weights may have other generators.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dropout(0.5)])
        >>> set_random_states(model, [[7, 0]])
        >>> random_states(model)[0].numpy().tolist()
        [7, 0]
    """
    states = random_states(model)
    if [np.shape(value) for value in values] == [tuple(s.shape) for s in states]:
        for state, value in zip(states, values, strict=True):
            state.assign(np.asarray(value, state.dtype))


def is_plain(value: Any) -> bool:
    """Whether `write_weights` can save a value.

    Args:
        value: Anything.

    Returns:
        True for numbers, strings, arrays, `None` and structures of them.

    Example:
        >>> is_plain({"best": np.zeros(3)}), is_plain(print)
        (True, False)
    """
    if type(value) is dict:
        return all(map(is_plain, [*value, *value.values()]))
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    if isinstance(value, np.ndarray | np.generic):
        return not value.dtype.hasobject
    return value is None or type(value) in (bool, int, float, str)


def _own(group: Any, name: str) -> str:
    """Returns the name of a member; an error if it is missing or a link."""
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{name!r} is not in the file itself")
    return name


def _bytes(group: Any, name: str) -> bytes:
    """The bytes of a dataset that is in the file itself."""
    dataset = group[_own(group, str(name))]
    size = pathlib.Path(group.file.filename).stat().st_size
    if dataset.is_virtual or dataset.external or dataset.nbytes > size:
        raise ValueError(f"{name!r} is larger than the file, or outside of it")
    return dataset[()].tobytes()


def _to_json(value: Any, group: Any) -> Any:
    """What JSON can represent of a value; arrays become datasets of the group."""
    if isinstance(value, dict):
        return {"dict": [[_to_json(part, group) for part in i] for i in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_to_json(part, group) for part in value]}
    if isinstance(value, np.ndarray | np.generic):
        name = str(len(group))
        # As bytes: HDF5 has no bfloat16.
        group[name] = np.frombuffer(value.tobytes(), np.uint8)
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: [name, str(value.dtype), value.shape]}
    return value


def _from_json(found: Any, group: Any) -> Any:
    """The inverse of `_to_json`."""
    if not isinstance(found, dict):
        return found
    ((kind, inner),) = found.items()
    if kind in ("array", "scalar"):
        name, dtype, shape = inner
        array = np.frombuffer(_bytes(group, name), dtype).reshape(shape)
        return array.copy() if kind == "array" else array[()]
    if kind == "dict":
        return {_from_json(key, group): _from_json(part, group) for key, part in inner}
    parts = [_from_json(part, group) for part in inner]
    return tuple(parts) if kind == "tuple" else parts
