"""A PostgreSQL of our own, started from the installed binaries in a temporary directory and ended afterwards.

Used by the tests and by the benchmark. It keeps its durability settings: what is measured and killed is what
an operator runs.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

_USER = "postgres"


def find_postgres() -> Path | None:
    """The newest installed server's directory of programs, or None."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if not found and (name := shutil.which("initdb")):
        found = [Path(name).resolve().parent]
    return max(found, key=lambda path: path.as_posix(), default=None)


class Postgres:
    """A server on loopback; a root user runs it as ``postgres``, because it refuses to be root."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="assay-postgres-"))
        self._data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        if os.getuid() == 0:
            owner = pwd.getpwnam(_USER)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._run("initdb", "-D", str(self._data), "-A", "trust", "-U", _USER, "-E", "UTF8", "--locale=C")

    def _command(self, program: str, *arguments: str) -> list[str]:
        user = ["runuser", "-u", _USER, "--"] if os.getuid() == 0 else []
        return [*user, str(self._programs / program), *arguments]

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(self._command(program, *arguments), check=True, capture_output=True, cwd=self.folder)

    def start(self) -> None:
        """Start, or start again; returns once it takes connections."""
        deadline = time.monotonic() + 60
        self._launch()
        while not self._answers():
            if time.monotonic() > deadline:
                raise AssertionError("PostgreSQL does not start")
            if self._process is None or self._process.poll() is not None:
                self._launch()  # after a kill its children may hold on to the memory for a moment
            time.sleep(0.1)

    def _launch(self) -> None:
        settings = ["max_connections=200", "unix_socket_directories=", "listen_addresses=127.0.0.1"]
        options = [part for setting in settings for part in ("-c", setting)]
        self._process = subprocess.Popen(
            self._command("postgres", "-D", str(self._data), "-p", str(self.port), *options),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _answers(self) -> bool:
        asked = self._command("pg_isready", "-h", "127.0.0.1", "-p", str(self.port))
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0

    def stop(self, *, kill: bool = False) -> None:
        """End it: orderly, or as a power cut would."""
        if self._process is None:
            return
        if kill:
            os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._run("pg_ctl", "-D", str(self._data), "-m", "fast", "stop")
        self._process.wait()
        self._process = None

    def create(self, name: str) -> str:
        """A new empty database; returns its SQLAlchemy URL."""
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", _USER, name)
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/{name}"

    def remove(self) -> None:
        """End it and remove all it had."""
        if self._process is not None:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
