"""The daemon as it is run: real processes on loopback, killed without mercy."""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from assay.cli import main
from assay.tlog.keys import KeyType, SignerKey, parse_vkey
from assay.tlog.witness_protocol import origin_hash, parse_cosignature_lines

MakeLog = Callable[..., Any]
Signers = tuple[SignerKey, SignerKey]
ROOT = Path(__file__).parents[2]
PATIENCE_S = 30

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def call(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, str | None, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(method, path, body)
        reply = connection.getresponse()
        return reply.status, reply.getheader("Content-Type"), reply.read()
    finally:
        connection.close()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain until {what}")
        time.sleep(0.05)


def answers(port: int) -> bool:
    try:
        return call(port, "GET", "/livez")[0] == 200
    except OSError:
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def served(config_file: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable,
        "-m",
        "assay.cli",
        "witness",
        "serve",
        "--config",
        str(config_file),
        "--listen",
        f"127.0.0.1:{port}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        wait_until(lambda: answers(port) or process.poll() is not None, "the witness answers")
        assert process.poll() is None
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)
        wait_until(lambda: not listens(port), "the port is free")


def test_cosigned_state_survives_kill_9_and_the_worker_does_not_outlive_its_parent(
    config_file: Path, make_log: MakeLog
) -> None:
    log, port = make_log(), free_port()
    shown_path = f"/{origin_hash(log.origin)}/checkpoint"
    with served(config_file, port) as process:
        status, content_type, body = call(port, "POST", "/add-checkpoint", log.request(0, 5))
        assert (status, content_type) == (200, "text/plain; charset=utf-8")
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE_S)
        wait_until(lambda: not listens(port), "the orphaned worker has ended")
    lines = parse_cosignature_lines(body)
    with served(config_file, port):
        shown = call(port, "GET", shown_path)[2]
        assert all(line.line.encode() in shown for line in lines)
        status, content_type, body = call(port, "POST", "/add-checkpoint", log.request(0, 3))
        assert (status, content_type, body) == (409, "text/x.tlog.size", b"5\n")
        assert call(port, "POST", "/add-checkpoint", log.request(5, 8))[0] == 200
        assert call(port, "POST", "/add-checkpoint", b"x" * (128 * 1024 + 1))[0] == 413


def test_a_terminated_witness_ends_cleanly(config_file: Path) -> None:
    port = free_port()
    with served(config_file, port) as process:
        process.terminate()
        assert process.wait(PATIENCE_S) == 0


def test_add_log_makes_a_witness_cosign_after_a_restart(config_file: Path, make_log: MakeLog) -> None:
    name = "log.example/2"
    signers = (
        SignerKey(name, KeyType.ED25519, bytes(32)),
        SignerKey(name, KeyType.COSIGNATURE_ML_DSA_44, bytes(32)),
    )
    log, port = make_log(origin=name, signers=signers), free_port()
    with served(config_file, port):
        assert call(port, "POST", "/add-checkpoint", log.request(0, 2))[0] == 404
    vkeys = [str(each.verifier) for each in signers]
    assert main(["witness", "add-log", *vkeys, "--config", str(config_file)]) == 0
    with served(config_file, port):
        assert call(port, "POST", "/add-checkpoint", log.request(0, 2))[0] == 200


# --- commands that do not serve


def test_add_log_only_ever_adds(
    config_file: Path, log_signers: Signers, witness_signers: Signers, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file.parent / "logs.txt"
    before = file.read_text()
    vkeys = [str(each.verifier) for each in log_signers]
    assert main(["witness", "add-log", *reversed(vkeys), "--config", str(config_file)]) == 0
    assert file.read_text() == before
    another = SignerKey(log_signers[0].name, KeyType.ED25519, bytes(32)).verifier
    for refused in (
        vkeys[:1],
        [*vkeys, str(another)],
        [str(another)],
        ["junk"],
        [vkeys[0][:-4]],
        [str(witness_signers[0].verifier)],
    ):
        assert main(["witness", "add-log", *refused, "--config", str(config_file)]) == 1
        assert file.read_text() == before
    assert "Traceback" not in capsys.readouterr().err


def test_add_log_does_not_glue_lines_together(config_file: Path, log_signers: Signers) -> None:
    file = config_file.parent / "logs.txt"
    file.write_text(str(log_signers[0].verifier))
    new = SignerKey("log.example/2", KeyType.ED25519, bytes(32)).verifier
    assert main(["witness", "add-log", str(new), "--config", str(config_file)]) == 1
    assert file.read_text() == str(log_signers[0].verifier)
    file.unlink()
    assert main(["witness", "add-log", str(new), "--config", str(config_file)]) == 0
    assert [parse_vkey(line) for line in file.read_text().splitlines()] == [new]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["serve"], 2),
        (["serve", "--config", "absent.toml"], 2),
        (["add-log", "--config", "{config}"], 2),
        (["add-log", "x"], 2),
        (["nonsense"], 2),
        (["serve", "--config", "{config}", "--listen", "nowhere"], 1),
        (["--help"], 0),
    ],
)
def test_exit_codes(config_file: Path, arguments: list[str], code: int) -> None:
    filled = [each.replace("{config}", str(config_file)) for each in arguments]
    assert main(["witness", *filled]) == code


def test_a_bad_configuration_stops_the_start(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config_file.write_text(config_file.read_text() + 'unknown = "x"\n')
    assert main(["witness", "serve", "--config", str(config_file)]) == 1
    assert "unknown" in capsys.readouterr().err
