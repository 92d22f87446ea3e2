"""A log in a folder, witnesses that can be stopped, entries to submit, and the independent reader."""

import importlib.util
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from assay import cli
from assay.attest import dsse, entry, p256, statement
from assay.attest.admission import Admitted
from assay.attest.entry import Attestation
from assay.attest.index import index_leaf
from assay.attest.statement import Provenance, Statement, Subject
from assay.log_server import config as configuration
from assay.log_server import fsck
from assay.log_server.app import create_app
from assay.log_server.copies import CopySource
from assay.log_server.export import Exported, Exporter
from assay.log_server.folder_target import FolderTarget
from assay.log_server.fsck import Findings
from assay.log_server.service import LogService
from assay.log_server.targets import Target
from assay.log_server.wiring import read_signers
from assay.tlog import note, proof
from assay.tlog.checkpoint import Checkpoint, sign_checkpoint
from assay.tlog.keys import KeyType, SignerKey, VerifierKey
from assay.witness.core import Cosigned, RefusedError, Witness

ORIGIN = "log.test.example"
KEY = ec.derive_private_key(4711, ec.SECP256R1())


@pytest.fixture(scope="session")
def audit() -> ModuleType:
    """The reader that shares no code with the server."""
    spec = importlib.util.spec_from_file_location("audit", Path(__file__).with_name("audit.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_entry(number: int) -> bytes:
    """An admissible entry, another one for each number."""
    said = Provenance(
        build_type="urn:test",
        external_parameters={"number": number},
        builder_id="urn:test:builder",
        resolved_dependencies=(),
        invocation_id=f"urn:test:{number}",
    )
    payload = Statement((Subject("x", {"sha256": bytes(32)}),), said).payload()
    envelope = dsse.sign(statement.PAYLOAD_TYPE, payload, [KEY])
    return entry.format_entry(Attestation(envelope, (p256.spki(KEY.public_key()),)))


@pytest.fixture(scope="session")
def entry_maker() -> Callable[[int], bytes]:
    return make_entry


class MemoryState:
    """A witness's memory in a dictionary."""

    def __init__(self) -> None:
        self._newest: dict[str, Cosigned] = {}
        self._lock = threading.Lock()

    def newest(self, origin: str) -> Cosigned | None:
        return self._newest.get(origin)

    def advance(self, *, expected: Cosigned | None, new: Cosigned) -> bool:
        with self._lock:
            if self._newest.get(new.checkpoint.origin) != expected:
                return False
            self._newest[new.checkpoint.origin] = new
            return True


@dataclass
class WitnessServer:
    """A real witness core behind a real socket, that can be told to misbehave."""

    name: str
    signers: tuple[SignerKey, ...]
    mode: str = "good"
    witness: Witness | None = None
    server: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status, content = outer.answer(body)
                self._send(status, content)

            def do_GET(self) -> None:
                assert outer.witness is not None
                try:
                    self._send(200, outer.witness.checkpoint(self.path.split("/")[1]))
                except RefusedError as error:
                    self._send(error.status, b"")

            def _send(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, body: bytes) -> tuple[int, bytes]:
        assert self.witness is not None
        if self.mode == "down":
            return 503, b"down\n"
        if self.mode == "garbage":
            return 200, b"\xff\xfe garbage"
        if self.mode == "conflict":
            return 409, b"123456789\n"
        if self.mode == "empty":
            return 200, b""
        if self.mode == "slow":
            time.sleep(3)
        try:
            lines = self.witness.add_checkpoint(body, now_s=lambda: int(time.time()))
        except RefusedError as error:
            size = getattr(error, "size", None)
            return error.status, b"" if size is None else f"{size}\n".encode()
        if self.mode == "forged":
            return 200, lines.replace(lines[-1000:-990], b"AAAAAAAAAA")
        return 200, lines


@dataclass
class Log:
    """A log's folder, and its service while it runs."""

    folder: Path
    witnesses: list[WitnessServer]
    service: LogService | None = None

    @property
    def file(self) -> Path:
        return self.folder / "log.toml"

    @property
    def anchor(self) -> Path:
        return self.folder.with_name(self.folder.name + ".anchor")

    def open(self) -> LogService:
        assert self.service is None
        service = LogService(configuration.load(self.file), folder=self.folder)
        service.start()
        self.service = service
        return service

    def close(self) -> None:
        if self.service is not None:
            self.service.stop()
            self.service = None

    def client(self) -> Any:
        assert self.service is not None
        return create_app(self.service).test_client()

    @property
    def log_keys(self) -> tuple[VerifierKey, ...]:
        config = configuration.load(self.file)
        return tuple(
            signer.verifier for signer in read_signers(self.folder / config.key, origin=config.origin)
        )

    @property
    def vkeys(self) -> list[str]:
        return [str(key) for key in self.log_keys]

    @property
    def key_options(self) -> list[str]:
        return [argument for vkey in self.vkeys for argument in ("--vkey", vkey)]

    def grow(self, count: int) -> None:
        """Append entries to the database, many at a time and without HTTP; published at once."""
        assert self.service is not None
        store, signers = self.service.store, self.service.signers
        with store.write() as batch:
            start = batch.latest().size
            size = start + count
            admitted = []
            for number in range(start, size):
                leaf = make_entry(number)
                indexed = index_leaf(leaf)
                admitted.append(Admitted(leaf, indexed.identity, indexed.kind, indexed.terms))
            batch.append(start, admitted, now_ms=1_000_000)
            checkpoint = Checkpoint(signers[0].name, size, proof.tree_root(size, batch.hashes()))
            signed = note.format_note(sign_checkpoint(checkpoint, signers, time_s=1000))
            batch.sign(checkpoint, signed, now_ms=1_000_000, published=True)
        self.service.newest()  # the anchor follows

    def exporter(self, target: Target) -> Exporter:
        assert self.service is not None
        return Exporter(self.service.store, target, log_keys=self.log_keys, interval_s=1)

    def export(self, target: Target | Path) -> Exported:
        """Bring a copy up to date."""
        return self.exporter(FolderTarget(target) if isinstance(target, Path) else target).round()

    def check(self, target: Target | Path) -> Findings:
        """What fsck says of a copy."""
        source = CopySource(FolderTarget(target) if isinstance(target, Path) else target)
        return fsck.check_log(source, log_keys=self.log_keys)

    def lose_database(self) -> None:
        self.close()
        for path in self.folder.glob("log.db*"):
            path.unlink()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server of this test process; skips by name where none is installed."""
    path = Path(__file__).parents[1] / "postgres.py"
    spec = importlib.util.spec_from_file_location("postgres_for_tests", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    programs = module.find_postgres()
    if programs is None:
        if os.environ.get("ASSAY_REQUIRE_VECTORS") == "1":
            pytest.fail("PostgreSQL is not installed")
        pytest.skip("PostgreSQL is not installed")
    server = module.Postgres(programs)
    server.start()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """What a log's ``database`` may be: a file, or a new database on a server."""
    if request.param == "sqlite":
        return "log.db"
    url: str = request.getfixturevalue("postgres").create(f"log_{uuid.uuid4().hex}")
    return url


@pytest.fixture
def make_log(tmp_path: Path) -> Iterator[Callable[..., Log]]:
    """Makes logs: with how many witnesses, and what else stands in their configuration."""
    made: list[Log] = []

    def make(*, witnesses: int = 0, extra: str = "", database: str = "log.db") -> Log:
        folder = tmp_path / f"log{len(made)}"
        assert cli.main(["log", "init", str(folder), "--origin", ORIGIN, "--database", database]) == 0
        log = Log(folder, [])
        with log.file.open("a") as file:
            file.write(extra)
            if witnesses:
                file.write(
                    '\n[witnesses]\npolicy = "witnesses.txt"\nretry_interval_s = 0.05\nrequest_timeout_s = 1.0\n'
                )
        keys = [line for line in (folder / "log.key").read_text().splitlines() if line]
        log.witnesses = [_start_witness(index, keys) for index in range(witnesses)]
        if witnesses:
            (folder / "witnesses.txt").write_text(_policy(log, keys))
        made.append(log)
        return log

    yield make
    for log in made:
        log.close()
        for witness in log.witnesses:
            witness.server.shutdown()
            witness.server.server_close()


def _log_keys(lines: list[str]) -> list[Any]:
    from assay.tlog.keys import parse_signer_key

    return [parse_signer_key(line).verifier for line in lines]


def _start_witness(index: int, log_keys: list[str]) -> WitnessServer:
    name = f"witness-{index}.test.example"
    signers = (
        SignerKey(name, KeyType.COSIGNATURE_ED25519, bytes([index + 1]) * 32),
        SignerKey(name, KeyType.COSIGNATURE_ML_DSA_44, bytes([index + 101]) * 32),
    )
    server = WitnessServer(name, signers)
    server.witness = Witness(signers=signers, logs={ORIGIN: _log_keys(log_keys)}, state=MemoryState())
    return server


def _policy(log: Log, log_keys: list[str]) -> str:
    lines = [f"log {key}" for key in _log_keys(log_keys)]
    for index, witness in enumerate(log.witnesses):
        names = [f"w{index}-{number}" for number in range(2)]
        lines += [
            f"witness {name} {signer.verifier} {witness.url}"
            for name, signer in zip(names, witness.signers, strict=True)
        ]
        lines.append(f"group g{index} any {' '.join(names)}")
    lines += [f"group all all {' '.join(f'g{index}' for index in range(len(log.witnesses)))}", "quorum all"]
    return "\n".join(lines) + "\n"
