"""The log server killed for real, between submissions and in the middle of them: nothing acknowledged is lost."""

import base64
import contextlib
import importlib.util
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import dsse, entry, p256, statement
from assay.attest.entry import Attestation
from assay.attest.statement import Provenance, Statement, Subject
from assay.fetch import http
from assay.tlog import merkle, proof, strict
from assay.tlog.errors import LogError
from assay.tlog.merkle import Hash

pytestmark = pytest.mark.slow

KEY = ec.derive_private_key(4712, ec.SECP256R1())
ROUNDS = int(os.environ.get("ASSAY_KILL_ROUNDS", "5"))
"""Of each test, on each database: 20 kills in CI, 200 in ``make faults``."""
SEED = int(os.environ.get("ASSAY_SEED", "20261121"))


def load(name):
    path = Path(__file__).parents[1] / name
    spec = importlib.util.spec_from_file_location(f"{path.stem}_for_faults", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


AUDIT = load("log_server/audit.py")
POSTGRES = load("postgres.py")


def make_entry(number):
    said = Provenance("urn:test", {"number": number}, "urn:test:builder", (), f"urn:test:{number}")
    payload = Statement((Subject("x", {"sha256": bytes(32)}),), said).payload()
    envelope = dsse.sign(statement.PAYLOAD_TYPE, payload, [KEY])
    return entry.format_entry(Attestation(envelope, (p256.spki(KEY.public_key()),)))


def state(number):
    """A process's state letter and its parent's number; Z and 0 for one that is gone."""
    try:
        letter, parent = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return "Z", 0
    return letter, int(parent)


def is_alive(number):
    return state(number)[0] != "Z"


class Server:
    """The real program in a process group of its own."""

    def __init__(self, folder, *options):
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        made = self.assay("log", "init", str(folder), "--origin", "kill.example", "--json", *options)
        self.vkeys = json.loads(made.stdout)["vkeys"]
        self.process = None

    def assay(self, *arguments):
        return subprocess.run(
            [sys.executable, "-m", "assay.cli", *arguments], capture_output=True, check=True
        )

    def start(self):
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "assay.cli",
                "log",
                "serve",
                "--dir",
                str(self.folder),
                "--listen",
                self.address,
                "--workers",
                "2",
            ],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(LogError):
                if self.get("/livez") == b"ok\n":
                    return
            time.sleep(0.05)
        raise AssertionError("the log does not start")

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def workers(self):
        numbers = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return [number for number in numbers if state(number)[1] == self.process.pid and is_alive(number)]

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def get(self, path):
        response = http.request("GET", f"http://127.0.0.1:{self.port}{path}", timeout_s=10, max_bytes=1 << 24)
        assert response.status == 200, (path, response.body)
        return response.body

    def submit(self, data):
        url = f"http://127.0.0.1:{self.port}/api/v1/entries"
        response = http.request("POST", url, body=data, timeout_s=10, max_bytes=1 << 20)
        assert response.status in (200, 201), response.body
        return json.loads(response.body)["index"]


@pytest.fixture(scope="session")
def postgres():
    programs = POSTGRES.find_postgres()
    if programs is None:
        if os.environ.get("ASSAY_REQUIRE_VECTORS") == "1":
            pytest.fail("PostgreSQL is not installed")
        pytest.skip("PostgreSQL is not installed")
    server = POSTGRES.Postgres(programs)
    server.start()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request, tmp_path):
    """A log with two workers on either database; its anchor is a file beside it."""
    options = []
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres").create(f"kill_{uuid.uuid4().hex}")
        options = ["--database", url]
    server = Server(tmp_path / "log", *options)
    server.start()
    yield server
    server.kill()


def require_clean(server):
    """The log's own check of everything, database included."""
    keys = [argument for vkey in server.vkeys for argument in ("--vkey", vkey)]
    report = json.loads(server.assay("log", "fsck", str(server.folder), *keys, "--json").stdout)
    assert report["clean"], report


def require_consistent(server, checkpoints):
    """Every earlier checkpoint is a prefix of the newest, proved by the log and verified here."""
    newest_size, newest_root = checkpoints[-1]
    for size, tree in checkpoints[:-1]:
        assert size <= newest_size
        hashes = []
        if 0 < size < newest_size:
            answer = json.loads(server.get(f"/api/v1/consistency?from={size}&to={newest_size}"))
            hashes = [Hash(strict.base64_bytes(each, what="hash")) for each in answer["hashes"]]
        proof.verify_consistency(
            old_size=size, old_root=Hash(tree), new_size=newest_size, new_root=Hash(newest_root), proof=hashes
        )


def require_kept(server, acknowledged, checkpoints):
    size, tree, entries = AUDIT.check(server.get, server.get("/checkpoint"), server.vkeys)
    checkpoints.append((size, tree))
    for number, index in acknowledged.items():
        assert entries[index] == make_entry(number), f"entry {number} was acknowledged at {index}"
    assert len({merkle.leaf_hash(each) for each in entries}) == len(entries)
    require_consistent(server, checkpoints)


def test_killed_between_submissions_every_acknowledged_entry_is_there(server):
    acknowledged, checkpoints = {}, []
    for round_ in range(ROUNDS):
        for number in range(round_ * 5, round_ * 5 + 5):
            acknowledged[number] = server.submit(make_entry(number))
        server.kill()
        server.start()
        require_kept(server, acknowledged, checkpoints)
    assert checkpoints[-1][0] == ROUNDS * 5
    require_clean(server)


def test_killed_in_the_middle_of_submissions_nothing_acknowledged_is_lost(server):
    chance, acknowledged, checkpoints = random.Random(SEED), {}, []
    numbers = iter(range(10_000))
    lock = threading.Lock()

    def submit_until_it_dies():
        while True:
            with lock:
                number = next(numbers)
            try:
                index = server.submit(make_entry(number))
            except LogError:
                return
            acknowledged[number] = index

    for _ in range(ROUNDS):
        threads = [threading.Thread(target=submit_until_it_dies) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(chance.uniform(0.05, 0.6))
        server.kill()
        for thread in threads:
            thread.join()
        server.start()
        require_kept(server, dict(acknowledged), checkpoints)
    assert acknowledged
    require_clean(server)


def test_a_killed_worker_is_replaced_and_takes_nothing_with_it(server):
    acknowledged, checkpoints = {}, []
    for round_ in range(3):
        for number in range(round_ * 20, round_ * 20 + 20):
            with contextlib.suppress(LogError):
                acknowledged[number] = server.submit(make_entry(number))
            if number % 20 == 10:
                os.kill(server.workers()[0], signal.SIGKILL)
        deadline = time.monotonic() + 20
        while len(server.workers()) < 2:
            assert time.monotonic() < deadline, "no worker came in its place"
            time.sleep(0.1)
        time.sleep(1.5)  # workers that die as fast as they come are no accident: then the server ends
        require_kept(server, acknowledged, checkpoints)
    assert len(acknowledged) >= 50
    require_clean(server)


def test_the_workers_do_not_outlive_a_killed_parent(server):
    children = server.workers()
    parent = server.process.pid
    assert children
    os.kill(parent, signal.SIGKILL)
    server.process.wait()
    deadline = time.monotonic() + 10
    while any(is_alive(child) for child in children):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.1)
    server.start()
    assert base64.b64encode(server.get("/checkpoint"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_asked_to_stop_in_the_middle_ends_by_itself_and_keeps_everything(server, number):
    acknowledged = {}
    numbers = itertools.count()
    lock = threading.Lock()

    def submit_until_it_ends():
        while True:
            with lock:
                each = next(numbers)
            try:
                acknowledged[each] = server.submit(make_entry(each))
            except LogError:
                return

    threads = [threading.Thread(target=submit_until_it_ends) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    children = server.workers()
    server.process.send_signal(number)
    # A worker that misses the signal, which granian may lose, goes on for 20 s and is killed then.
    assert server.process.wait(timeout=60) == 0
    for thread in threads:
        thread.join()
    assert not any(is_alive(child) for child in children)
    assert acknowledged
    server.start()
    require_kept(server, acknowledged, [])
    require_clean(server)
