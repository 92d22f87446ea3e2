"""What the log does in a second, on this machine: real servers, real signatures, loopback, everything durable.

    python bench/log.py [--only single batch reads growth postgres servers] [--seconds 5] [--workers 2]

The load generator (bench/load.py) runs on the same cores. Prints a table, and one JSON line for machines.
Every submission is an entry of its own whose P-256 signature the log verifies before it answers, after the
commit, with the proof. PostgreSQL is started from its installed binaries in a temporary directory, if there are any.
"""

import argparse
import contextlib
import hashlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import load
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from assay.attest import dsse, entry, p256, statement
from assay.attest.entry import Attestation
from assay.attest.hashedrekord import HashedRekord
from assay.attest.statement import Provenance, Statement, Subject

KEY = ec.derive_private_key(4713, ec.SECP256R1())
TESSERA = {1: 0.9, 64: 64, 256: 255, 1024: 15_000}
"""Tessera's POSIX server on 2 cores with the load on the same cores: raw, unverified entries a second."""

Row = dict[str, Any]


def make_entry(name: str) -> bytes:
    """A signature over a digest, as Rekor logs it: about 440 bytes."""
    digest = hashlib.sha256(name.encode()).digest()
    signature = KEY.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    verifier = p256.spki(KEY.public_key())
    record = HashedRekord(
        "SHA2_256", digest, signature, "PKIX_ECDSA_P256_SHA_256", verifier, certificate=False
    )
    return entry.format_entry(record)


def make_statement(name: str) -> bytes:
    """A signed statement of about 950 bytes."""
    said = Provenance("urn:bench", {"name": name}, "urn:bench:builder", (), f"urn:bench:{name}")
    payload = Statement((Subject("x", {"sha256": bytes(32)}),), said).payload()
    envelope = dsse.sign(statement.PAYLOAD_TYPE, payload, [KEY])
    return entry.format_entry(Attestation(envelope, (p256.spki(KEY.public_key()),)))


class Server:
    """The real program, served by a number of workers."""

    def __init__(self, folder: Path, *, workers: int, extra: str = "", init: bool = True) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        program = [sys.executable, "-m", "assay.cli", "log"]
        if init:
            subprocess.run(
                [*program, "init", str(folder), "--origin", "bench.example", *extra.split()],
                check=True,
                capture_output=True,
            )
        self.process = subprocess.Popen(
            [
                *program,
                "serve",
                "--dir",
                str(folder),
                "--listen",
                f"127.0.0.1:{self.port}",
                "--workers",
                str(workers),
            ],
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while self.get("/livez")[0] != 200:
            if time.monotonic() > deadline:
                raise SystemExit("the log does not start")
            time.sleep(0.1)

    def get(self, path: str) -> tuple[int, bytes]:
        """One request; status 0 if nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def resident_mb(self) -> float:
        """Resident memory of all of its processes together: a page that several share counts once (Pss)."""
        total = 0
        for rollup in Path("/proc").glob("[0-9]*/smaps_rollup"):
            with contextlib.suppress(OSError):
                if os.getpgid(int(rollup.parent.name)) == self.process.pid:
                    total += int(re.search(r"^Pss:\s+(\d+)", rollup.read_text(), re.MULTILINE)[1])  # type: ignore[index]
        return total / 1024

    def stop(self) -> None:
        """End it."""
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait()


def posts(entries: Iterator[bytes]) -> Iterator[bytes]:
    return (load.request("POST", "/api/v1/entries", body=data) for data in entries)


def measured(name: str, outcome: load.Outcome, **more: Any) -> Row:
    return {
        "what": name,
        "per_second": round(outcome.per_second, 1),
        "p50_ms": round(outcome.quantile_ms(0.5), 2),
        "p99_ms": round(outcome.quantile_ms(0.99), 2),
        "statuses": outcome.statuses,
        **more,
    }


def single(
    server: Server,
    label: str,
    seconds: float,
    widths: tuple[int, ...] = tuple(map(int, os.environ.get("W", "1,64,256,1024").split(","))),
) -> list[Row]:
    rows = []
    for width in widths:
        amount = int(seconds * (400 if width == 1 else 5000))
        prepared = [make_entry(f"{label}/{width}/{number}") for number in range(amount)]
        outcome = load.run(
            [server.port], posts(iter(prepared)), connections=width, seconds=seconds, good={201}
        )
        rows.append(measured(f"{label}: single, {width} connections", outcome, tessera=TESSERA[width]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=["single"])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        if "single" in arguments.only:
            server = Server(Path(folder) / "single", workers=arguments.workers)
            rows += single(server, "SQLite", arguments.seconds)
            rows.append({"what": "resident MB", "value": round(server.resident_mb(), 1)})
            server.stop()
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
