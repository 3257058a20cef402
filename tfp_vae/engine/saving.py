"""`save`, `save_weights` and `load_weights` of `tv.Model`, with atomic replacement."""

import json
import pathlib
from typing import Any

from tfp_vae.checks import checked_config
from tfp_vae.engine.weights_file import (
    random_states,
    read_weights,
    set_random_states,
    write_weights,
)
from tfp_vae.files import is_remote, replacing

_RANDOM = "random_states.json"


class AtomicFiles:
    """Saving and loading of `tv.Model`; a base class to list before `keras.Model`.

    A local file is replaced atomically: after a failure or a kill the old one remains.
    It also has the states of random generators, and weights files have a checksum.

    Example:
        >>> class Model(AtomicFiles, keras.Model):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.dense = keras.layers.Dense(1)
        ...     def call(self, x):
        ...         return self.dense(x)
        >>> model = Model()
        >>> model(np.zeros([1, 2])).shape
        TensorShape([1, 1])
        >>> import tempfile
        >>> path = f"{tempfile.mkdtemp()}/last.weights.h5"
        >>> model.save_weights(path)
        >>> model.load_weights(path)
    """

    @classmethod
    @checked_config
    def from_config(cls, config: Any, *args: Any, **kwargs: Any) -> Any:
        """Makes a model from its config, as Keras does; a malformed one is an error."""
        return super().from_config(config, *args, **kwargs)  # type: ignore[misc]

    def save(
        self, filepath: Any, overwrite: bool = True, zipped: Any = None, **kwargs: Any
    ) -> None:
        """Saves the model, as `keras.Model.save`, in a `.keras` file or a folder.

        After a failure or a kill the old file remains.

        Args:
            filepath: Path of a `.keras` file; of a folder with `zipped=False`.
            overwrite: Whether to replace a file without asking.
            zipped: As in `keras.Model.save`. A folder is not replaced atomically.
            **kwargs: As there.

        Raises:
            ValueError: If the path ends in `.h5`: such a file could not be loaded.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                f"`{type(self).__name__}.save` expects a path that ends in `.keras`. "
                f"Received: filepath={str(filepath)!r}, a format from which Keras does "
                "not load classes of other packages. Save the weights alone with "
                "`save_weights('model.weights.h5')`, or the model as `.keras`."
            )
        if zipped is False and not is_remote(filepath):
            # Keras loses what `save_assets` writes if a folder's path is relative.
            filepath = str(pathlib.Path(filepath).absolute())
        if zipped is False or not _can_replace(filepath, overwrite):
            super().save(filepath, overwrite, zipped, **kwargs)  # type: ignore[misc]
            return
        with replacing(filepath) as new:
            super().save(str(new), zipped=zipped, **kwargs)  # type: ignore[misc]

    def save_weights(
        self, filepath: Any, overwrite: bool = True, max_shard_size: Any = None
    ) -> None:
        """Saves the weights, as `keras.Model.save_weights`; Keras can load the file.

        A local file is replaced atomically. It also has the states of random
        generators, such as those of `Dropout`, and a checksum.

        Args:
            filepath: Path that ends in `.weights.h5`.
            overwrite: Whether to replace a file without asking.
            max_shard_size: As in `keras.Model.save_weights`; shards are written as
                Keras does.
        """
        whole = str(filepath).endswith(".weights.h5") and max_shard_size is None
        if not whole or not _can_replace(filepath, overwrite):
            super().save_weights(filepath, overwrite, max_shard_size)  # type: ignore[misc]
            return
        write_weights(self, filepath)

    def save_assets(self, directory: str) -> None:
        """Writes the states of random generators into a `.keras` file."""
        states = [state.numpy().tolist() for state in random_states(self)]
        if states:
            pathlib.Path(directory, _RANDOM).write_text(json.dumps(states))

    def load_assets(self, directory: str | None) -> None:
        """Reads what `save_assets` wrote, if a file has it."""
        path = pathlib.Path(directory or "", _RANDOM)
        if directory and path.exists():
            set_random_states(self, json.loads(path.read_text()))

    def load_weights(
        self, filepath: Any, skip_mismatch: bool = False, **kwargs: Any
    ) -> None:
        """Loads weights, as `keras.Model.load_weights`.

        From a local `.weights.h5` file it also restores the states of random
        generators, and verifies the checksum. The optimizer of a compiled model that
        has not been trained is built, and gets its step and moments from the file, but
        keeps the learning rate of `compile`. It stays as it is if the file is of
        another class of optimizer or of other shapes, and with `skip_mismatch`; it
        stays new if Keras wrote the file.

        Args:
            filepath: Path of a weights file, of `tv.Model` or of Keras.
            skip_mismatch: As in `keras.Model.load_weights`.
            **kwargs: As there.

        Raises:
            OSError: If the file was cut or damaged.
        """
        named = str(filepath).endswith(".weights.h5")
        if kwargs or not named or is_remote(filepath):
            super().load_weights(filepath, skip_mismatch, **kwargs)  # type: ignore[misc]
            return
        read_weights(self, filepath, skip_mismatch)


def _can_replace(filepath: Any, overwrite: bool) -> bool:
    """Whether to write a new file in place of a local one, without asking."""
    if not isinstance(filepath, str | pathlib.Path) or is_remote(filepath):
        return False
    path = pathlib.Path(filepath)
    return not path.exists() or (overwrite and path.is_file())
