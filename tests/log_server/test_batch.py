"""Batches over HTTP: a line for a line, in order, and one bad entry harms no other."""

import json

import pytest

from assay.log_server.routes import batch
from assay.tlog import merkle


@pytest.fixture
def client(make_log):
    log = make_log()
    log.open()
    return log.client()


def post(client, entries, *, end=b"\n"):
    answer = client.post("/api/v1/entries/batch", data=b"\n".join(entries) + end)
    if answer.status_code != 200:
        return answer
    assert answer.content_type == "application/x-ndjson"
    return [json.loads(line) for line in answer.data.splitlines()]


def test_each_line_has_its_answer_in_order(client, entry_maker):
    good = [entry_maker(number) for number in range(5)]
    results = post(client, [good[0], b"nonsense", good[1], good[0], b"", good[2]])
    assert [each["status"] for each in results] == [201, 400, 201, 200, 400, 201]
    assert [each.get("index") for each in results] == [0, None, 1, 0, None, 2]
    assert results[2]["leaf_hash"] == merkle.leaf_hash(good[1]).hex()
    assert all(each["code"] and each["detail"] for each in results if each["status"] == 400)
    again = post(client, good, end=b"")
    assert [each["status"] for each in again] == [200, 200, 200, 201, 201]
    assert client.get("/api/v1/log").json["size"] == 5


def test_what_is_admitted_alone_is_admitted_in_a_batch_and_nothing_else(client, entry_maker):
    bad = [b"{}", b"null", entry_maker(0)[:-1], entry_maker(0) + b" ", b"x" * 65_536, b"[" * 5000]
    alone = [client.post("/api/v1/entries", data=item) for item in bad]
    assert [(each["status"], each["code"]) for each in post(client, bad)] == [
        (each.status_code, each.json["code"]) for each in alone
    ]
    assert client.get("/api/v1/log").json["size"] == 0


@pytest.mark.parametrize("body", [b"", b"\n" * 4097, b"{}\n" * 4097])
def test_a_batch_has_at_least_one_entry_and_at_most_a_bounded_number(client, body):
    answer = client.post("/api/v1/entries/batch", data=body)
    assert (answer.status_code, answer.json["code"]) == (400, "batch-size")


def test_a_batch_that_is_too_large_is_not_read(client):
    length = {"CONTENT_LENGTH": str(batch.MAX_BODY_SIZE + 1)}
    answer = client.post("/api/v1/entries/batch", environ_overrides=length)
    assert (answer.status_code, answer.json["code"]) == (413, "too-large")


def test_a_full_batch_fits(client, entry_maker):
    results = post(client, [entry_maker(number) for number in range(batch.MAX_ENTRIES)])
    assert [each["index"] for each in results] == list(range(batch.MAX_ENTRIES))


def test_only_posts_are_batches(client):
    for method in ("GET", "PUT", "DELETE"):
        answer = client.open("/api/v1/entries/batch", method=method)
        assert answer.status_code in (400, 405)


def test_a_frozen_log_refuses_the_whole_batch(make_log, entry_maker):
    log = make_log()
    log.open().store.freeze(now_ms=1)
    answer = post(log.client(), [entry_maker(0)])
    assert (answer.status_code, answer.json["code"]) == (405, "frozen")
