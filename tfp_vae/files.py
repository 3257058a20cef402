"""Atomic replacement of files, and copies of remote files."""

import contextlib
import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_PREFIX = ".tfp_vae-saving-"


def is_remote(path: Any) -> bool:
    """Whether a path names a file of another file system, such as `gs://`.

    Args:
        path: A path.

    Returns:
        True if it begins with a scheme.

    Example:
        >>> is_remote("gs://bucket/last.weights.h5"), is_remote("last.weights.h5")
        (True, False)
    """
    return "://" in str(path)


@contextlib.contextmanager
def replacing(path: Any) -> Iterator[pathlib.Path]:
    """Yields a path to write to; what was written then replaces the file at `path`.

    Whoever reads a local `path` finds the old file or the new one, never a part of one,
    also after a failure, a kill or a loss of power. If the block raises, the old file
    stays. A symbolic link stays, and its target is replaced; permissions stay. Other
    names of the file, its hard links, keep the old content. The new file is written in
    a directory beside the old one, and the disk needs space for both. Directories that
    killed processes have left there are removed, except on Windows. A remote file is
    copied to `PATH.new` and renamed.

    Args:
        path: Path of a file that may exist; of another file system if `is_remote`.

    Yields:
        A path with the same file name.

    Raises:
        OSError: If the directory does not exist, a directory is at `path`, or the file
            may not be written.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "numbers.txt")
        >>> with replacing(path) as new:
        ...     _ = new.write_text("1 2 3")
        >>> path.read_text()
        '1 2 3'
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory() as directory:
            new = pathlib.Path(directory, str(path).rsplit("/", 1)[-1])
            yield new
            beside = f"{path}.new"
            if tf.io.gfile.exists(beside):
                tf.io.gfile.remove(beside)
            tf.io.gfile.copy(str(new), beside)
            tf.io.gfile.rename(beside, str(path), overwrite=True)
        return
    target = pathlib.Path(path).resolve()
    if not target.parent.is_dir():
        raise _os_error(errno.ENOENT, target.parent)
    if target.is_dir():
        raise _os_error(errno.EISDIR, target)
    if target.exists() and not os.access(target, os.W_OK):
        raise _os_error(errno.EACCES, target)
    with _directory_beside(target) as directory:
        new = directory / target.name
        yield new
        _flush(new)
        if target.exists():
            _copy_owner_and_mode(target, new)
        new.replace(target)
        if os.name == "posix":
            _flush(target.parent)


@contextlib.contextmanager
def local_copy(path: Any) -> Iterator[pathlib.Path]:
    """Yields a local path to a file; a remote one is copied.

    Args:
        path: Path of a file.

    Yields:
        A local path.

    Example:
        >>> with local_copy("weights.h5") as path:
        ...     path
        PosixPath('weights.h5')
    """
    if not is_remote(path):
        yield pathlib.Path(path)
        return
    with tempfile.TemporaryDirectory() as directory:
        copy = pathlib.Path(directory, str(path).rsplit("/", 1)[-1])
        tf.io.gfile.copy(str(path), str(copy))
        yield copy


def _os_error(number: int, path: pathlib.Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


@contextlib.contextmanager
def _directory_beside(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A new directory, locked so that no other process takes it for a leftover."""
    _remove_leftovers(target.parent)
    lock = None
    while lock is None:
        directory = pathlib.Path(tempfile.mkdtemp(prefix=_PREFIX, dir=target.parent))
        lock = _locked(directory / "lock")
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        lock.close()


def _locked(path: pathlib.Path) -> Any:
    """A new file with a lock; `None` if another process removed it meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        file = path.open("wb")
        if fcntl is not None:
            with contextlib.suppress(OSError):  # Some file systems have no locks.
                fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()
    return None


def _remove_leftovers(parent: pathlib.Path) -> None:
    """Removes the directories that nobody locks: a kill releases the lock."""
    if fcntl is None:
        return
    for directory in parent.glob(f"{_PREFIX}*"):
        with (
            contextlib.suppress(OSError),
            (directory / "lock").open("ab") as lock,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory)


def _copy_owner_and_mode(old: pathlib.Path, new: pathlib.Path) -> None:
    status = old.stat()
    if hasattr(os, "chown"):
        # Without privileges only the group can be set.
        for owner in (-1, status.st_uid):
            with contextlib.suppress(PermissionError):
                os.chown(new, owner, status.st_gid)
    shutil.copymode(old, new)


def _flush(path: pathlib.Path) -> None:
    """Waits until the disk has a file, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
