"""The launcher: starts the agent of a build under a runtime, and stands between it and the host.

``sgx`` and ``direct`` hand the build to Gramine. ``simulated`` does what Gramine's loader would do about the
measurement, in software: it checks every trusted file against the manifest, measures manifest and libpal, and
gives that measurement, not the enclave's own word, to the simulated device. Then it runs the measured copy of
the agent with the host's interpreter and an empty environment.
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from assay.attest.gramine.measure import measure
from assay.enclave.config import HostInputs
from assay.enclave.simulated_device import DeviceServer, open_platform
from assay.tlog import strict
from assay.tlog.errors import MalformedError, UnavailableError, UntrustedError

MAX_READY_LINE = 65_536
STOP_TIMEOUT_S = 5.0
EXIT_KILLED = 3
"""The exit code when a signal ended the agent."""


class Runtime(StrEnum):
    """What runs the agent. ``auto`` is SGX or nothing: a simulation is never chosen for anyone."""

    AUTO = "auto"
    SGX = "sgx"
    DIRECT = "direct"
    SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class Build:
    """A build's folder: ``<name>.manifest.sgx``, ``libpal.so``, and the files that the manifest trusts."""

    folder: Path
    name: str
    manifest: bytes
    table: Mapping[str, Any]
    libpal: bytes

    @property
    def isv_prod_id(self) -> int:
        """The product number that the SIGSTRUCT would carry."""
        return int(self.table["sgx"]["isvprodid"])

    @property
    def isv_svn(self) -> int:
        """The security version that the SIGSTRUCT would carry."""
        return int(self.table["sgx"]["isvsvn"])


def read_build(folder: Path) -> Build:
    """Read a build's manifest and libpal.

    Raises:
        MalformedError: no build there, or a manifest that cannot be read (code ``build``).
    """
    manifests = sorted(folder.glob("*.manifest.sgx"))
    if len(manifests) != 1 or not (folder / "libpal.so").is_file():
        raise MalformedError(
            f"{folder}: no build: one .manifest.sgx and libpal.so belong there", code="build"
        )
    manifest = manifests[0].read_bytes()
    try:
        table = tomllib.loads(manifest.decode())
        name = manifests[0].name.removesuffix(".manifest.sgx")
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise MalformedError(f"{manifests[0]}: not TOML: {error}", code="build") from error
    sgx = table.get("sgx")
    if not isinstance(sgx, dict) or any(type(sgx.get(key)) is not int for key in ("isvprodid", "isvsvn")):
        raise MalformedError(f"{manifests[0]}: no isvprodid or isvsvn", code="build")
    return Build(folder, name, manifest, table, (folder / "libpal.so").read_bytes())


def verify_trusted_files(build: Build) -> int:
    """Check that every trusted file is there and has its digest, and no other file is; returns how many.

    Gramine checks a file when it is opened, and a file that the host hides is merely absent to it; here all are
    checked before the start.

    Raises:
        MalformedError: a manifest that lists something else than files with digests.
        UntrustedError: a file that is missing, changed or not listed (code ``trusted-file``).
    """
    try:
        entries = [*build.table["sgx"]["trusted_files"], build.table["loader"]["entrypoint"]]
        listed = [(str(each["uri"]), str(each["sha256"])) for each in entries]
    except (KeyError, TypeError) as error:
        raise MalformedError(
            "the manifest's trusted files are no list of {uri, sha256}", code="build"
        ) from error
    _refuse_extra(build, [uri.removeprefix("file:") for uri, _ in listed])
    for uri, digest in listed:
        path = build.folder / uri.removeprefix("file:")
        expected = strict.hex_bytes(digest, what=uri, length=32)
        try:
            found = hashlib.sha256(path.read_bytes()).digest()
        except OSError as error:
            raise UntrustedError(f"{uri} is trusted but cannot be read", code="trusted-file") from error
        if found != expected:
            raise UntrustedError(f"{uri} is not the file that the manifest trusts", code="trusted-file")
    return len(listed)


def _refuse_extra(build: Build, listed: Sequence[str]) -> None:
    """Gramine opens no file that is not listed. Python would: a cached or native module goes before a source."""
    known = set(listed)
    for _, uri in _mounts(build, encrypted=False):
        top = build.folder / uri.removeprefix("file:")
        for folder, folders, files in os.walk(top):
            linked = [name for name in folders if (Path(folder) / name).is_symlink()]
            for name in (*files, *linked):
                path = (Path(folder) / name).relative_to(build.folder).as_posix()
                if path not in known:
                    raise UntrustedError(f"{path} is in the image but not trusted", code="trusted-file")


def _mounts(build: Build, *, encrypted: bool) -> list[tuple[str, str]]:
    """(path inside, uri) of the mounts of the host's folders."""
    try:
        mounts = [
            (each.get("type"), str(each["path"]), str(each["uri"])) for each in build.table["fs"]["mounts"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise MalformedError("the manifest has no mounts of the host's folders", code="build") from error
    return [(path, uri) for kind, path, uri in mounts if (kind == "encrypted") == encrypted]


def choose(runtime: Runtime) -> Runtime:
    """Resolve ``auto``, and check that the runtime can be had here.

    Raises:
        UnavailableError: it cannot (code ``no-runtime``).
    """
    if runtime in (Runtime.AUTO, Runtime.SGX):
        if Path("/dev/sgx_enclave").exists() and shutil.which("gramine-sgx"):
            return Runtime.SGX
        raise UnavailableError(
            "no SGX here: it takes /dev/sgx_enclave and gramine-sgx; --runtime simulated must be asked for by name",
            code="no-runtime",
        )
    if runtime is Runtime.DIRECT and not shutil.which("gramine-direct"):
        raise UnavailableError("gramine-direct is not installed", code="no-runtime")
    return runtime


def launch(
    build: Build,
    runtime: Runtime,
    inputs: HostInputs,
    *,
    device: Path | None,
    ready: Callable[[dict[str, Any]], None],
) -> int:
    """Run the agent until it ends or we are interrupted; returns its exit code.

    Args:
        build: what runs.
        runtime: as :func:`choose` gave it.
        inputs: what the agent is told; the device's socket is filled in here.
        device: the simulated device's folder, for the simulated runtime.
        ready: gets what the agent reports once it serves.
    """
    if runtime is not Runtime.SIMULATED:
        return _supervise([_gramine(runtime), build.name], build.folder, inputs, ready)
    if device is None:
        raise MalformedError("--runtime simulated needs --device", code="no-device")
    verify_trusted_files(build)
    with tempfile.TemporaryDirectory(prefix="assay-") as scratch:
        path = Path(scratch) / "device"
        measured = measure(build.manifest, build.libpal)
        server = DeviceServer(
            open_platform(device),
            mr_enclave=measured.mr_enclave,
            isv_prod_id=build.isv_prod_id,
            isv_svn=build.isv_svn,
            path=path,
        )
        with contextlib.closing(server):
            server.start()
            told = replace(inputs, device=str(path), packages=sysconfig.get_path("platlib"))
            return _supervise(simulated_command(build), build.folder, told, ready)


def _gramine(runtime: Runtime) -> str:
    """Where the program is: the empty environment that it gets has no PATH to look it up in."""
    name = "gramine-sgx" if runtime is Runtime.SGX else "gramine-direct"
    found = shutil.which(name)
    if found is None:
        raise UnavailableError(f"{name} is not installed", code="no-runtime")
    return found


def simulated_command(build: Build) -> list[str]:
    """The manifest's argument vector, with the host's interpreter and its paths in the build's folder.

    Raises:
        MalformedError: a manifest without arguments (code ``build``).
    """
    argv = build.table.get("loader", {}).get("argv")
    if not isinstance(argv, list) or len(argv) < 2 or not all(isinstance(each, str) for each in argv):
        raise MalformedError("the manifest has no arguments", code="build")
    mounts = _mounts(build, encrypted=False)
    return [sys.executable, *(_host_path(build.folder, mounts, each) for each in argv[1:])]


def _host_path(folder: Path, mounts: Sequence[tuple[str, str]], argument: str) -> str:
    """Where a path inside the enclave lies in the build's folder; what is no path stays."""
    inside = [(path, uri) for path, uri in mounts if argument.startswith(path.rstrip("/") + "/")]
    if not inside:
        return argument
    path, uri = max(inside, key=lambda mount: len(mount[0]))
    return str((folder / uri.removeprefix("file:")).resolve()) + argument[len(path.rstrip("/")) :]


def _supervise(
    command: Sequence[str], folder: Path, inputs: HostInputs, ready: Callable[[dict[str, Any]], None]
) -> int:
    """Start the agent, give it its line, pass its report on, and wait; it ends when its input closes."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # the terminal's interrupt is for us; the agent ends when its input does
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it has ended, and has said why
            process.stdin.write(inputs.line())
            process.stdin.flush()
        line = process.stdout.readline(MAX_READY_LINE)
        if line:
            ready(_ready(line))
        process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
    return process.returncode if process.returncode >= 0 else EXIT_KILLED


def _ready(line: bytes) -> dict[str, Any]:
    try:
        report = json.loads(line)
    except ValueError as error:
        raise MalformedError("the agent's first line is no report", code="report") from error
    if not isinstance(report, dict):
        raise MalformedError("the agent's first line is no report", code="report")
    return report
