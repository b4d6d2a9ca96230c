"""Files that one process at a time works on; how one is written whole: `attattr.data.whole`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


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
