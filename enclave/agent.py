"""The agent: what the enclave runs. Its import closure is what is measured; see ``tests/vectors/enclave_closure.txt``.

It reads the measured files, one line from its host, makes or unseals its key, registers its boot in the log, and
serves connections until its host closes its standard input.
"""

import os
import socket
import sys
import threading
import time
from pathlib import Path

from assay.attest import jcs
from assay.enclave import config
from assay.enclave.boot import Boot, open_state
from assay.enclave.config import HostInputs, Measured
from assay.enclave.llm import Model
from assay.enclave.log_link import LogLink
from assay.enclave.platforms import Platform, SgxPlatform, SimulatedPlatform
from assay.enclave.receipts import Receipts
from assay.enclave.sealing import SealedFile
from assay.enclave.session import Agent, RequestMemory, Session, note, turn_away
from assay.tlog.errors import LogError, MalformedError, UnavailableError

_OUTBOX_INTERVAL_S = 2.0
_ACCEPT_PAUSE_S = 0.1
_SGX_STATE = Path("/state")
"""The manifest's encrypted mount: what makes state sealed there, so the host does not get to name another place."""
EXIT_REFUSED = 1
EXIT_UNAVAILABLE = 3


class _Places:
    """How many connections are served at the same time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self.taken = 0

    def take(self) -> bool:
        with self._lock:
            if self.taken >= self._limit:
                return False
            self.taken += 1
            return True

    def leave(self) -> None:
        with self._lock:
            self.taken -= 1


def main(app: Path, host_line: bytes) -> int:
    """Run the agent; returns its exit code.

    Args:
        app: the folder with the measured files.
        host_line: the first line of standard input, which whoever set up the imports has read.
    """
    try:
        _run(app, config.parse_host_line(host_line))
    except UnavailableError as error:
        return _fail(error, EXIT_UNAVAILABLE)
    except LogError as error:
        return _fail(error, EXIT_REFUSED)
    except OSError as error:
        return _fail(UnavailableError(str(error), code="io"), EXIT_UNAVAILABLE)
    return 0


def _fail(error: LogError, code: int) -> int:
    sys.stderr.write(f"agent: error[{error.code}]: {error}\n")
    return code


def _run(app: Path, host: HostInputs) -> None:
    measured = config.read_measured(app)
    platform = _platform(measured, host)
    llm_address = None if host.llm_address is None else _address(host.llm_address)
    with _listen(host.listen) as listener:  # before the log gets to know of a boot that could not serve
        _boot_and_serve(measured, host, platform, llm_address, listener)


def _boot_and_serve(
    measured: Measured,
    host: HostInputs,
    platform: Platform,
    llm_address: tuple[str, int] | None,
    listener: socket.socket,
) -> None:
    state_dir = _SGX_STATE if measured.platform == "sgx" else host.state_dir
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    state_file = SealedFile(state_dir / "agent.sealed", seal_key=platform.seal_key())
    state = open_state(state_file)
    boot = Boot(measured, platform, state)
    log = LogLink(host.log_url, policy=measured.log_policy)
    registration = boot.register(log)
    receipts = Receipts(
        boot,
        registration=registration,
        log=log,
        outbox=state_dir / "outbox",
        state=state,
        state_file=state_file,
    )
    places = _Places(measured.connections)
    agent = Agent(
        measured=measured,
        boot=boot,
        registration=registration,
        receipts=receipts,
        log=log,
        model=Model(measured.llm_host, measured.llm_ca_pem, llm_address, host.api_key),
        memory=RequestMemory(measured.request_memory),
        region=host.region,
        load=lambda: places.taken,
        now_ms=lambda: time.time_ns() // 1_000_000,
    )
    threading.excepthook = _note_failure
    threading.Thread(target=_post_waiting, args=(receipts,), daemon=True).start()
    threading.Thread(target=_accept, args=(listener, agent, places), daemon=True).start()
    _report(boot, agent, listener)
    sys.stdin.buffer.read()  # the host keeps it open for as long as it wants us


def _platform(measured: Measured, host: HostInputs) -> Platform:
    if measured.platform == "sgx":
        return SgxPlatform(Path("/dev/attestation"))
    if host.device is None:
        raise MalformedError("the simulated platform needs its device's socket", code="no-device")
    return SimulatedPlatform(host.device)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise MalformedError("an address of the host is not HOST:PORT", code="address")
    return host, int(port)


def _listen(text: str) -> socket.socket:
    try:
        return socket.create_server(_address(text))
    except OSError as error:
        raise UnavailableError(f"cannot listen on {text}: {error}", code="address") from error


def _accept(listener: socket.socket, agent: Agent, places: _Places) -> None:
    while listener.fileno() >= 0:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            note(f"no connection: {error}")
            time.sleep(_ACCEPT_PAUSE_S)
            continue
        if not places.take():
            turn_away(connection)
            continue
        try:
            threading.Thread(target=_serve, args=(agent, connection, places), daemon=True).start()
        except RuntimeError:  # the enclave has a fixed number of threads
            places.leave()
            turn_away(connection)


def _serve(agent: Agent, connection: socket.socket, places: _Places) -> None:
    try:
        Session(agent, connection).serve()
    finally:
        places.leave()


def _note_failure(failure: threading.ExceptHookArgs) -> None:
    """A broken invariant ends its connection only. Its message stays inside: it may quote a prompt."""
    note(f"a thread ended by {failure.exc_type.__name__}")


def _post_waiting(receipts: Receipts) -> None:
    while True:
        receipts.post_waiting()
        time.sleep(_OUTBOX_INTERVAL_S)


def _report(boot: Boot, agent: Agent, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    line = {
        "boot_id": boot.boot_id.hex(),
        "enclave_id": boot.enclave_id,
        "listen": f"{host}:{port}",
        "mr_enclave": boot.mr_enclave(agent.registration.leaf).hex(),
        "pid": os.getpid(),
        "ready": True,
        "registration": {
            "index": agent.registration.index,
            "leaf_hash": agent.registration.leaf_hash.hex(),
        },
    }
    sys.stdout.buffer.write(jcs.canonical(line) + b"\n")
    sys.stdout.buffer.flush()
