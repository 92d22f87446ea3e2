"""What the log does in a second, on this machine: real servers, real signatures, loopback, everything durable.

    python bench/log.py [--only sqlite postgres growth] [--seconds 6] [--entries 1000000]

The load generator (bench/load.py) runs on the same cores. Prints a table, and one JSON line for machines.
Every submission is an entry of its own whose P-256 signature the log verifies before it answers, after the
commit, with the proof. PostgreSQL is started from its installed binaries in a temporary directory, if there are any.
"""

import argparse
import contextlib
import hashlib
import http.client
import itertools
import json
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import load
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from assay.attest import entry, p256, rekor_signature
from assay.attest.hashedrekord import HashedRekord, VerifierKind

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from postgres import Postgres, find_postgres

KEY = ec.derive_private_key(4713, ec.SECP256R1())
TESSERA = {1: 0.9, 64: 64, 256: 255, 1024: 15_000}
"""Tessera's POSIX server on 2 cores with the load on the same cores: raw, unverified entries a second."""

WIDTHS = (1, 64, 256, 1024)

Row = dict[str, Any]


def make_entry(name: str) -> bytes:
    """A signature over a digest, as Rekor logs it: about 440 bytes."""
    digest = hashlib.sha256(name.encode()).digest()
    signature = KEY.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    verifier = p256.spki(KEY.public_key())
    record = HashedRekord(digest, signature, "PKIX_ECDSA_P256_SHA_256", VerifierKind.PUBLIC_KEY, verifier)
    return entry.format_entry(record)


class Server:
    """The real program, served by a number of workers."""

    def __init__(self, folder: Path, *options: str, workers: int = 2, init: bool = True) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        program = [sys.executable, "-m", "assay.cli", "log"]
        if init:
            origin = ["--origin", "bench.example"]
            subprocess.run(
                [*program, "init", str(folder), *origin, *options], check=True, capture_output=True
            )
        serve = [
            "serve",
            "--dir",
            str(folder),
            "--listen",
            f"127.0.0.1:{self.port}",
            "--workers",
            str(workers),
        ]
        self.process = subprocess.Popen([*program, *serve], start_new_session=True, stderr=subprocess.DEVNULL)
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

    def committed(self) -> int:
        """How many batches it has committed, by its own count."""
        found = re.search(
            rb"^assay_log_batches_total\{[^}]*\} ([0-9.e+]+)$", self.get("/metrics")[1], re.MULTILINE
        )
        return 0 if found is None else int(float(found[1]))

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


def http_header(port: int, path: str, name: str) -> str:
    """A header of one answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    value = connection.getresponse().getheader(name)
    connection.close()
    return str(value)


def posts(entries: Iterator[bytes]) -> Iterator[bytes]:
    """A submission of each."""
    return (load.request("POST", "/api/v1/entries", body=data) for data in entries)


def measured(name: str, outcome: load.Outcome, **more: Any) -> Row:
    """A line of the table."""
    return {
        "what": name,
        "per_second": round(outcome.per_second, 1),
        "p50_ms": round(outcome.quantile_ms(0.5), 2),
        "p99_ms": round(outcome.quantile_ms(0.99), 2),
        "statuses": outcome.statuses,
        **more,
    }


def signed(count: int, label: str) -> list[bytes]:
    """That many different entries, signed by both cores."""
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(make_entry, (f"{label}/{number}" for number in range(count)), chunksize=500))


def single(ports: list[int], label: str, seconds: float, widths: Sequence[int] = WIDTHS) -> Iterator[Row]:
    """Submissions of one entry each, answered with the proof."""
    for width in widths:
        entries = signed(int(seconds * (600 if width == 1 else 6000)), f"{label}/{width}")
        outcome = load.run(ports, posts(iter(entries)), connections=width, seconds=seconds, good={201})
        yield measured(f"{label}: single, {width} connections", outcome, tessera=TESSERA.get(width))


def batches(port: int, label: str, seconds: float) -> Iterator[Row]:
    """Batches of 1,000, four at a time."""
    entries = signed(int(seconds * 20_000), f"{label}/batch")
    requests = (
        load.request("POST", "/api/v1/entries/batch", body=b"\n".join(entries[at : at + 1000]))
        for at in range(0, len(entries), 1000)
    )
    outcome = load.run([port], requests, connections=4, seconds=seconds, good={200}, keep=1000)
    accepted = sum(body.count(b'"status":201') for body in outcome.kept)
    row = measured(f"{label}: batches of 1,000", outcome)
    yield {**row, "per_second": round(accepted / outcome.seconds, 1)}


def reads(port: int, size: int, seconds: float) -> Iterator[Row]:
    """What a log is read by: tiles, the checkpoint, both again with their ETags, bundles, proofs."""
    chance = random.Random(1)
    tiles = [f"/tile/0/{number:03}" for number in range(min(size // 256, 100))]
    tag = http_header(port, tiles[0], "ETag")
    kinds = {
        "full tiles": lambda: load.request("GET", chance.choice(tiles)),
        "checkpoint": lambda: load.request("GET", "/checkpoint"),
        "tile, 304 by ETag": lambda: load.request("GET", tiles[0], headers=f"If-None-Match: {tag}\r\n"),
        "full bundles": lambda: load.request("GET", chance.choice(tiles).replace("/0/", "/entries/")),
        "proofs, 64 connections": lambda: load.request(
            "GET", f"/api/v1/entries/{chance.randrange(size)}/proof"
        ),
        "proofs, 1 connection": lambda: load.request(
            "GET", f"/api/v1/entries/{chance.randrange(size)}/proof"
        ),
    }
    for name, make in kinds.items():
        requests = iter(make, None)
        width = 1 if "1 connection" in name and "64" not in name else 64
        outcome = load.run([port], requests, connections=width, seconds=seconds, good={200, 304})
        yield measured(f"reads: {name}", outcome)


def growth(folder: Path, seconds: float, large: int) -> Iterator[Row]:
    """The same submissions on a log of 1,000 entries and on one of a million, taken in turns."""
    servers: dict[int, Server] = {}
    try:
        for size in (1000, large):
            servers[size] = Server(folder / f"of{size}")
            fill(servers[size], size)
        rates: dict[int, list[float]] = {size: [] for size in servers}
        for turn in range(3):
            for size, server in servers.items():
                (row,) = single([server.port], f"at {size} entries, turn {turn + 1}", seconds, [256])
                rates[size].append(row["per_second"])
                yield row
        small, big = (statistics.median(rates[size]) for size in servers)
        yield {"what": f"cost of an entry at {large} against 1,000", "ratio": round(small / big, 3)}
        yield from reads(servers[large].port, large, seconds)
        yield {"what": f"resident MB at {large} entries", "value": round(servers[large].resident_mb(), 1)}
    finally:
        for server in servers.values():
            server.stop()


def fill(server: "Server", size: int) -> None:
    """Grow a log through its own front door, in batches."""
    done = 0
    while done < size:
        count = min(50_000, size - done)
        entries = signed(count, f"fill/{done}")
        requests = [
            load.request("POST", "/api/v1/entries/batch", body=b"\n".join(entries[at : at + 1000]))
            for at in range(0, count, 1000)
        ]
        outcome = load.run([server.port], iter(requests), connections=2, seconds=600, good={200})
        if set(outcome.statuses) != {200}:
            raise SystemExit(f"the log refuses to grow: {outcome.statuses}")
        done += count
        print(f"  grown to {done}", file=sys.stderr)


def postgres(folder: Path, seconds: float) -> Iterator[Row]:
    """The same on PostgreSQL, by one server process and by two, on the same cores."""
    programs = find_postgres()
    if programs is None:
        yield {"what": "PostgreSQL is not installed"}
        return
    database = Postgres(programs)
    database.start()
    try:
        url = database.create("bench")
        yield from _on_postgres(folder / "pg", url, seconds)
        url = database.create("servers")
        yield from _servers(folder / "servers", url, seconds)
    finally:
        database.remove()


def _on_postgres(folder: Path, url: str, seconds: float) -> Iterator[Row]:
    server = Server(folder, "--database", url)
    try:
        yield from single([server.port], "PostgreSQL", seconds)
        yield from batches(server.port, "PostgreSQL", seconds)
        yield {"what": "PostgreSQL: resident MB", "value": round(server.resident_mb(), 1)}
    finally:
        server.stop()


def _servers(folder: Path, url: str, seconds: float) -> Iterator[Row]:
    """One process with one worker, then a second beside it on the same database."""
    first = Server(folder, "--database", url, workers=1)
    second = None
    try:
        (one,) = single([first.port], "PostgreSQL, one server process", seconds, [256])
        yield one
        second = Server(folder, workers=1, init=False)
        before = [server.committed() for server in (first, second)]
        (two,) = single([first.port, second.port], "PostgreSQL, two server processes", seconds, [256])
        yield two
        made = [server.committed() - old for server, old in zip((first, second), before, strict=True)]
        yield {
            "what": "two server processes against one",
            "ratio": round(two["per_second"] / one["per_second"], 3),
            "batches": made,
            "least_share": round(min(made) / sum(made), 3),
        }
    finally:
        for server in (first, second):
            if server is not None:
                server.stop()


def sqlite(folder: Path, seconds: float) -> Iterator[Row]:
    """One server with two workers on SQLite."""
    server = Server(folder / "sqlite")
    try:
        yield from single([server.port], "SQLite", seconds)
        yield from batches(server.port, "SQLite", seconds)
        yield {"what": "SQLite: resident MB", "value": round(server.resident_mb(), 1)}
    finally:
        server.stop()


def machine() -> Row:
    """How fast this machine is just now: shared ones change, and figures are to be read with this one."""
    data = make_entry("machine")
    record = entry.parse_entry(data)
    assert isinstance(record, HashedRekord)
    began = time.perf_counter()
    for _ in range(2000):
        rekor_signature.verify(record)
    took = time.perf_counter() - began
    return {"what": "this machine, one core: P-256 verifications", "a_second": round(2000 / took)}


def show(row: Row) -> None:
    """One line of the table."""
    if "per_second" not in row:
        print(
            "  "
            + "  ".join(f"{name} {value}" if name != "what" else str(value) for name, value in row.items())
        )
        return
    beside = row.get("tessera")
    ratio = "" if beside is None else f"  {row['per_second'] / beside:8.2f} x Tessera's {beside}"
    print(
        f"{row['what']:48} {row['per_second']:9,.0f}/s  p50 {row['p50_ms']:7.2f} ms  p99 {row['p99_ms']:7.2f} ms{ratio}"
    )


def main() -> None:
    """Run what was asked for."""
    parts = {"sqlite": sqlite, "postgres": postgres, "growth": growth}
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--seconds", type=float, default=6.0, help="how long each figure is measured")
    parser.add_argument("--entries", type=int, default=1_000_000, help="how large the large log is")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            more = {"large": arguments.entries} if name == "growth" else {}
            for row in itertools.chain([machine()], parts[name](Path(folder), arguments.seconds, **more)):
                rows.append(row)
                show(row)
                sys.stdout.flush()
    print(json.dumps({"benchmark": "log", "results": rows}))


if __name__ == "__main__":
    main()
