"""A software device in SGX's place: quotes and seal keys for one measurement, over a Unix socket.

It runs on the host, outside the agent, as hardware would. What it says is worth nothing: its quotes verify under
its own root only, and every certificate of it says SIMULATION - NOT INTEL.

A device is a folder: ``seed`` (32 bytes, mode 0600), ``epoch`` (Unix seconds of its making), ``root.pem``, and
``collateral/<fmspc>.json``, which lasts 30 days and can be renewed.
"""

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import BinaryIO

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from assay.attest.quote.collateral import format_collateral
from assay.attest.simulated.pcs_service import SimulatedPcs
from assay.attest.simulated.platform import SimulatedPlatform
from assay.enclave import platforms
from assay.tlog import strict
from assay.tlog.errors import MalformedError

SEED_SIZE = 32
MR_SIGNER = bytes(32)
"""A simulated launch checks no SIGSTRUCT, so nobody signed the enclave."""


def create_device(folder: Path, *, now_s: int) -> None:
    """Make a device with a fresh seed.

    Raises:
        FileExistsError: there is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "seed", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(SEED_SIZE))
    (folder / "epoch").write_text(f"{now_s}\n")
    platform = open_platform(folder)
    root = x509.load_der_x509_certificate(platform.root_der)
    (folder / "root.pem").write_bytes(root.public_bytes(Encoding.PEM))
    renew_collateral(folder, now_s=now_s)


def open_platform(folder: Path) -> SimulatedPlatform:
    """The platform of a device's folder.

    Raises:
        MalformedError: a seed of another size, or an unreadable epoch.
        OSError: no device there.
    """
    seed, epoch_s = _read_identity(folder)
    return SimulatedPlatform(seed, epoch_s=epoch_s)


def open_pcs(folder: Path) -> SimulatedPcs:
    """The provisioning service of a device's folder.

    Raises:
        MalformedError: a seed of another size, or an unreadable epoch.
        OSError: no device there.
    """
    seed, epoch_s = _read_identity(folder)
    return SimulatedPcs(seed, epoch_s=epoch_s)


def _read_identity(folder: Path) -> tuple[bytes, int]:
    seed = (folder / "seed").read_bytes()
    if len(seed) != SEED_SIZE:
        raise MalformedError(f"{folder / 'seed'}: not {SEED_SIZE} bytes", code="no-device")
    epoch = strict.utf8_text((folder / "epoch").read_bytes(), what="epoch")
    return seed, strict.decimal(epoch.removesuffix("\n"), what="epoch")


def renew_collateral(folder: Path, *, now_s: int) -> Path:
    """Issue collateral for the next 30 days; returns the file."""
    platform = open_platform(folder)
    path = folder / "collateral" / f"{platform.fmspc.hex()}.json"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_bytes(format_collateral(platform.collateral(issued_s=now_s)))
    temporary.replace(path)
    return path


class DeviceServer:
    """Serves one measured enclave until its process ends.

    Args:
        platform: the device.
        mr_enclave: what the launcher measured: the enclave does not get to say.
        isv_prod_id: from the build.
        isv_svn: from the build.
        path: where the socket is made.
    """

    def __init__(
        self, platform: SimulatedPlatform, *, mr_enclave: bytes, isv_prod_id: int, isv_svn: int, path: Path
    ) -> None:
        self._platform = platform
        self._mr_enclave = mr_enclave
        self._isv_prod_id = isv_prod_id
        self._isv_svn = isv_svn
        self._closed = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        path.chmod(0o600)
        self._socket.listen()

    def start(self) -> None:
        """Serve in a thread of its own."""
        threading.Thread(target=self._run, name="simulated device", daemon=True).start()

    def close(self) -> None:
        """Serve no more."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._socket.close()

    def _run(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                continue
            with connection:
                connection.settimeout(platforms.DEVICE_TIMEOUT_S)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as stream:
                content = self._content(stream.read(1), stream)
            connection.sendall(len(content).to_bytes(4, "big") + content)
        except OSError:
            return  # the agent went away; the next connection is another matter

    def _content(self, request: bytes, stream: BinaryIO) -> bytes:
        match request:
            case platforms.QUOTE_REQUEST:
                return self._quote(stream.read(platforms.REPORT_DATA_SIZE))
            case platforms.SEAL_REQUEST:
                return self._platform.seal_key(self._mr_enclave)
            case _:
                return b""

    def _quote(self, report_data: bytes) -> bytes:
        if len(report_data) != platforms.REPORT_DATA_SIZE:
            return b""
        report = self._platform.report(
            mr_enclave=self._mr_enclave,
            mr_signer=MR_SIGNER,
            isv_prod_id=self._isv_prod_id,
            isv_svn=self._isv_svn,
            report_data=report_data,
        )
        return self._platform.quote(report)
