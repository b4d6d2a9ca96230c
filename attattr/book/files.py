"""Files that are written whole or not at all, and by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file first: it then takes the place of the one at ``path``, which stays as it is if anything fails.

    Raises ``OSError`` for whatever torch and safetensors raise on a full disk.
    """
    aside = path.with_name(f"{path.name}.new")
    try:
        yield aside
        aside.replace(path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(f"cannot write {path}, which is as it was: {error}") from error
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a file for this process before anything is computed for it; its folder is created.

    Raises ``OSError`` if it is a folder, if its own folder cannot be written to, or if another process holds it.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))  # the system releases it when a process is killed
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OSError(f"another process is at work on {path}: wait until it ends, or choose another output") from error
    except OSError as error:
        raise OSError(f"cannot write {path}: {error}; choose another output") from error
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)
