"""How many entries a second the log takes, and how long one waits: a real server, real signatures, loopback.

    python bench/submit.py [--clients 1 16 64] [--seconds 5]

Each client posts new attestations (about 900 bytes, one P-256 signature that the log verifies) and waits for the
durable, proved answer. Prints a table, and one JSON line for machines.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import dsse, entry, p256, statement
from assay.attest.entry import Attestation
from assay.attest.statement import Provenance, Statement, Subject

KEY = ec.derive_private_key(4713, ec.SECP256R1())


def make_entry(name: str) -> bytes:
    said = Provenance("urn:bench", {"name": name}, "urn:bench:builder", (), f"urn:bench:{name}")
    payload = Statement((Subject("x", {"sha256": bytes(32)}),), said).payload()
    envelope = dsse.sign(statement.PAYLOAD_TYPE, payload, [KEY])
    return entry.format_entry(Attestation(envelope, (p256.spki(KEY.public_key()),)))


def start(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = [sys.executable, "-m", "assay.cli", "log"]
    subprocess.run(
        [*program, "init", str(folder), "--origin", "bench.example"], check=True, capture_output=True
    )
    server = subprocess.Popen(
        [*program, "serve", "--dir", str(folder), "--listen", f"127.0.0.1:{port}"],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return server, port
    raise SystemExit("the log does not start")


def run(port: int, clients: int, entries: list[list[bytes]], seconds: float) -> dict[str, float]:
    waits: list[float] = []
    deadline = time.monotonic() + seconds

    def client(mine: list[bytes]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for data in mine:
            if time.monotonic() > deadline:
                break
            began = time.monotonic()
            connection.request("POST", "/api/v1/entries", body=data)
            response = connection.getresponse()
            response.read()
            if response.status != 201:
                raise SystemExit(f"HTTP {response.status}")
            waits.append(time.monotonic() - began)

    began = time.monotonic()
    threads = [threading.Thread(target=client, args=(mine,)) for mine in entries]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    elapsed = time.monotonic() - began
    waits.sort()
    return {
        "clients": clients,
        "entries": len(waits),
        "per_second": round(len(waits) / elapsed, 1),
        "p50_ms": round(statistics.median(waits) * 1000, 1),
        "p99_ms": round(waits[int(len(waits) * 0.99) - 1] * 1000, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        server, port = start(Path(folder) / "log")
        try:
            for clients in arguments.clients:
                each = int(400 * arguments.seconds / clients) + 100
                entries = [[make_entry(f"{clients}/{c}/{n}") for n in range(each)] for c in range(clients)]
                results.append(run(port, clients, entries, arguments.seconds))
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()
    print(f"{'clients':>8} {'entries':>8} {'per s':>8} {'p50 ms':>8} {'p99 ms':>8}")
    for row in results:
        print(
            f"{row['clients']:8} {row['entries']:8} {row['per_second']:8} {row['p50_ms']:8} {row['p99_ms']:8}"
        )
    print(json.dumps({"benchmark": "submit", "results": results}))


if __name__ == "__main__":
    main()
