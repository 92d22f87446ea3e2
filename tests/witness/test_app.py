"""The witness over HTTP: exact statuses and content types, bounded bodies, no tracebacks."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from assay.tlog.cosignature import verify_cosignature
from assay.tlog.keys import SignerKey, parse_vkey
from assay.tlog.note import parse_note, verify_note
from assay.tlog.witness_protocol import origin_hash, parse_cosignature_lines, parse_size_body
from assay.witness.app import create_app
from assay.witness.core import Witness
from assay.witness.state import SqliteState

MakeLog = Callable[..., Any]
Signers = tuple[SignerKey, SignerKey]
TEXT = "text/plain; charset=utf-8"


@pytest.fixture
def client_of(tmp_path: Path, witness_signers: Signers) -> Any:
    states = []

    def make(keys: Sequence[Any]) -> FlaskClient:
        states.append(SqliteState(tmp_path / "state.db"))
        logs = {key.name: tuple(each for each in keys if each.name == key.name) for key in keys}
        return create_app(Witness(signers=witness_signers, logs=logs, state=states[-1])).test_client()

    yield make
    for state in states:
        state.close()


@pytest.fixture
def client(client_of: Callable[..., FlaskClient], log_signers: Signers) -> FlaskClient:
    return client_of([each.verifier for each in log_signers])


def test_vectors_get_their_statuses_and_bodies(vectors: Path, client_of: Callable[..., FlaskClient]) -> None:
    data = json.loads((vectors / "tlog/witness_add_checkpoint.json").read_text())
    client = client_of([parse_vkey(data["log_vkey"])])
    for step in data["steps"]:
        reply = client.post("/add-checkpoint", data=step["body"].encode())
        assert reply.status_code == step["status"], step["name"]
        if step["status"] == 409:
            assert (reply.text, reply.headers["Content-Type"]) == (step["reply_hint"], "text/x.tlog.size")
        elif step["status"] == 200:
            assert len(parse_cosignature_lines(reply.data)) == 2
        else:
            assert reply.headers["Content-Type"] == TEXT
            assert len(reply.data) < 200


def test_cosignatures_and_the_newest_checkpoint_are_served(
    client: FlaskClient, make_log: MakeLog, log_signers: Signers, witness_signers: Signers
) -> None:
    log = make_log()
    path = f"/{origin_hash(log.origin)}/checkpoint"
    assert client.get(path).status_code == 404
    reply = client.post("/add-checkpoint", data=log.request(0, 5))
    assert (reply.status_code, reply.headers["Content-Type"]) == (200, TEXT)
    for line, signer in zip(parse_cosignature_lines(reply.data), witness_signers, strict=True):
        assert verify_cosignature(log.checkpoint(5), line, signer.verifier).time_s > 1_700_000_000
    shown = client.get(path)
    assert (shown.status_code, shown.headers["Content-Type"]) == (200, TEXT)
    keys = [each.verifier for each in (*log_signers, *witness_signers)]
    assert verify_note(parse_note(shown.data), keys).keys == tuple(keys)
    assert shown.headers["Access-Control-Allow-Origin"] == "*"
    head = client.head(path)
    assert (head.status_code, head.data) == (200, b"")


def test_conflict_is_the_size_in_its_own_content_type(client: FlaskClient, make_log: MakeLog) -> None:
    client.post("/add-checkpoint", data=make_log().request(0, 5))
    reply = client.post("/add-checkpoint", data=make_log().request(0, 5))
    assert (reply.status_code, reply.headers["Content-Type"]) == (409, "text/x.tlog.size")
    assert parse_size_body(reply.data) == 5


@pytest.mark.parametrize("size", [128 * 1024 + 1, 1024 * 1024])
def test_too_large_bodies_are_413(client: FlaskClient, size: int) -> None:
    assert client.post("/add-checkpoint", data=b"x" * size).status_code == 413


def test_the_largest_body_is_read(client: FlaskClient) -> None:
    assert client.post("/add-checkpoint", data=b"x" * (128 * 1024)).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/add-checkpoint", 405),
        ("PUT", "/add-checkpoint", 405),
        ("DELETE", "/add-checkpoint", 405),
        ("POST", "/livez", 405),
        ("POST", f"/{'a' * 64}/checkpoint", 405),
        ("GET", "/", 404),
        ("GET", "/add-checkpoint/", 404),
        ("GET", "/checkpoint", 404),
        ("GET", f"/{'a' * 64}/checkpoint", 404),
        ("GET", "/../checkpoint", 404),
        ("GET", "/%00/checkpoint", 404),
        ("POST", "/sign-subtree", 404),
        ("GET", "/livez", 200),
        ("GET", "/vkeys", 200),
        ("OPTIONS", "/add-checkpoint", 200),
    ],
)
def test_other_methods_and_paths(client: FlaskClient, method: str, path: str, status: int) -> None:
    reply = client.open(path, method=method)
    assert reply.status_code == status
    assert b"<" not in reply.data
    if status == 405:
        assert reply.headers["Allow"]


def test_vkeys_are_the_witnesss_own(client: FlaskClient, witness_signers: Signers) -> None:
    assert client.get("/vkeys").text == "".join(f"{each.verifier}\n" for each in witness_signers)


def test_our_own_fault_is_a_fixed_sentence(tmp_path: Path, client: FlaskClient, make_log: MakeLog) -> None:
    """Stored bytes that do not parse stop the signing for that log; the other side learns nothing of them."""
    import sqlite3

    log = make_log()
    client.post("/add-checkpoint", data=log.request(0, 5))
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute("UPDATE cosigned SET note = ?", (b"junk",))
    connection.close()
    for reply in (
        client.post("/add-checkpoint", data=log.request(5, 6)),
        client.post("/add-checkpoint", data=log.request(0, 6)),
        client.get(f"/{origin_hash(log.origin)}/checkpoint"),
    ):
        assert (reply.status_code, reply.text) == (500, "the witness failed\n")
        assert reply.headers["Content-Type"] == TEXT


def test_a_split_view_is_refused_and_both_checkpoints_are_put_on_record(
    client: FlaskClient, make_log: MakeLog, capsys: pytest.CaptureFixture[str]
) -> None:
    log, other = make_log(), make_log(branch="b")
    client.post("/add-checkpoint", data=log.request(0, 5))
    body = b"old 5\n\n" + other.note(5)
    assert client.post("/add-checkpoint", data=body).status_code == 422
    record = capsys.readouterr().out
    for note in (log.note(5), other.note(5)):
        assert note.decode().split("\n")[2] in record
