"""Files that must be right after a crash, and locks among the processes of one machine."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lock_file(path: Path, *, wait: bool = True, shared: bool = False) -> Iterator[None]:
    """Hold the lock of a file among all processes and threads of this machine; a killed holder lets go.

    Args:
        path: the lock's own file, made if it is not there.
        wait: for whoever holds it.
        shared: with others that share it too; otherwise alone.

    Raises:
        BlockingIOError: somebody else holds it, and ``wait`` is false.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(descriptor, kind | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes, *, mode: int) -> None:
    """Replace a file, or make it, in one step, durably. Whoever may race for it holds a lock."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    write_file(temporary, content, mode=mode)
    temporary.replace(path)
    sync_folder(path.parent)


def write_file(path: Path, content: bytes, *, mode: int) -> None:
    """Write a new file and make its content durable, though not yet its name.

    Raises:
        FileExistsError: it is there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask is
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
