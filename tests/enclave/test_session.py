"""Sessions: what a peer may say, what it gets, and that nothing else ever leaves."""

import json
import socket
import threading
import time

import pytest

from assay.attest import channel, entry, jcs, output, receipt
from assay.attest.output import Output
from assay.enclave import session
from assay.enclave.session import RequestMemory
from assay.tlog import merkle
from assay.tlog.errors import UnavailableError, UntrustedError
from assay.tlog.strict import base64_text
from assay.tlog.tlog_proof import parse_proof, verify_proof

PROMPT = "the very secret prompt"
REQUEST = {"max_tokens": 64, "messages": [{"content": PROMPT, "role": "user"}], "model": "a-model"}


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def ended(peer) -> bool:
    """The agent closed the connection, and its thread is gone."""
    closed = peer.receive() is None
    peer.thread.join(5)
    return closed and not peer.thread.is_alive()


def test_an_answer_comes_with_its_receipt_its_signature_and_its_proof(enclave, policy):
    peer = enclave.connect()
    nonce = bytes(range(32))
    evidence = peer.hello(nonce)
    assert evidence.claims.nonce == nonce
    ask, sealed = peer.ask(evidence)
    pieces, answer, after = peer.collect(ask, sealed)
    assert pieces == ["an ", "answer"]
    assert answer.result == "an answer"
    signed = receipt.parse_receipt(answer.cose)
    said = receipt.verify_receipt(signed, public_key=evidence.public_key)
    assert (said.sequence, said.previous) == (0, None)
    assert said.registration == enclave.registration.leaf_hash
    assert said.boot_id == evidence.claims.boot_id
    output.verify_output(
        enclave.boot.key.public_key(),
        answer.signature,
        Output(
            output.prompt_bytes(ask.request), answer.result, answer.timestamp_ms, enclave.platform.mr_enclave
        ),
    )
    assert after["type"] == "logged"
    leaf = merkle.leaf_hash(entry.format_entry(entry.ReceiptEntry(signed)))
    verified = verify_proof(parse_proof(after["proof"].encode()), leaf=leaf, policy=policy)
    assert (verified.index, leaf.hex()) == (after["index"], after["leaf_hash"])


def test_a_connection_serves_one_ask_after_the_other_each_with_its_hello(enclave):
    peer = enclave.connect()
    sequences = []
    for _ in range(3):
        ask, sealed = peer.ask(peer.hello())
        _, answer, _ = peer.collect(ask, sealed)
        sequences.append(receipt.parse_receipt(answer.cose).receipt.sequence)
    assert sequences == [0, 1, 2]


def test_every_hello_gets_a_key_of_its_own(enclave):
    peer = enclave.connect()
    keys = {peer.hello().claims.hpke_public_key for _ in range(3)}
    assert len(keys) == 3


def test_status_says_load_and_region_only(enclave):
    peer = enclave.connect()
    peer.send(type="status")
    assert peer.receive() == {"type": "state", "load": 1, "region": "here"}


SEALED = base64_text(b"x" * 100)
MALFORMED = {
    "length-0": b"\0\0\0\0",
    "length-too-large": b"\0\x10\0\x01",
    "length-4GiB": b"\xff\xff\xff\xff",
    "no-json": frame(b"hello"),
    "not-utf8": frame(b'{"type":"\xff"}'),
    "not-canonical": frame(b'{"type": "hello"}'),
    "key-twice": frame(b'{"type":"hello","type":"hello"}'),
    "list": frame(b"[]"),
    "number": frame(b"1"),
    "no-type": frame(b"{}"),
    "type-null": frame(b'{"type":null}'),
    "type-list": frame(b'{"type":[]}'),
    "unknown-type": frame(b'{"type":"goodbye"}'),
    "unknown-member": frame(b'{"type":"hello","x":1}'),
    "float": frame(b'{"nonce":1.5,"type":"hello"}'),
    "deep": frame(b'{"nonce":' + b"[" * 5000 + b"]" * 5000 + b',"type":"hello"}'),
    "surrogate": frame(b'{"nonce":"\\ud800","type":"hello"}'),
    "nonce-null": frame(b'{"nonce":null,"type":"hello"}'),
    "nonce-short": frame(jcs.canonical({"type": "hello", "nonce": base64_text(bytes(31))})),
    "nonce-long": frame(jcs.canonical({"type": "hello", "nonce": base64_text(bytes(33))})),
    "nonce-no-base64": frame(b'{"nonce":"!!","type":"hello"}'),
    "ask-no-base64": frame(b'{"sealed":"AB==","type":"ask"}'),
    "ask-number": frame(b'{"sealed":7,"type":"ask"}'),
    "ask-without": frame(b'{"type":"ask"}'),
    "status-with-more": frame(b'{"load":1,"type":"status"}'),
    "delta": frame(jcs.canonical({"type": "delta", "sealed": SEALED})),
    "answer": frame(jcs.canonical({"type": "answer", "sealed": SEALED})),
    "logged": frame(jcs.canonical({"type": "logged", "index": 0, "leaf_hash": "", "proof": ""})),
    "state": frame(jcs.canonical({"type": "state", "load": 0, "region": ""})),
    "error": frame(jcs.canonical({"type": "error", "code": "full", "detail": ""})),
    "attestation": frame(
        jcs.canonical({"type": "attestation", "evidence": {}, "registration": "", "proof": ""})
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_frame_is_answered_with_a_code_and_ends_the_connection(enclave, name, capfd):
    peer = enclave.connect()
    peer.raw(MALFORMED[name])
    assert peer.refused() == ("too-large" if name.startswith("length-") else "malformed")
    assert ended(peer)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("length", range(1, 4))
def test_a_peer_that_leaves_within_a_head_is_let_go(enclave, length):
    peer = enclave.connect()
    peer.raw(b"\0\0\0\x10"[:length])
    peer.socket.shutdown(socket.SHUT_WR)
    assert ended(peer)


def test_a_frame_cut_off_is_malformed(enclave):
    whole = channel.format_frame({"type": "status"})
    for length in range(5, len(whole)):
        peer = enclave.connect()
        peer.raw(whole[:length])
        peer.socket.shutdown(socket.SHUT_WR)
        assert peer.refused() == "malformed"
        assert ended(peer)


def test_an_ask_without_hello_is_out_of_order(enclave):
    peer = enclave.connect()
    peer.send(type="ask", sealed=SEALED)
    assert peer.refused() == "order"


def test_a_hello_is_good_for_one_ask(enclave):
    peer = enclave.connect()
    evidence = peer.hello()
    peer.collect(*peer.ask(evidence))
    peer.ask(evidence, request_id=bytes(16))
    assert peer.refused() == "order"
    assert len(enclave.model.asked) == 1


def test_a_failed_ask_uses_its_hello_up(enclave):
    peer = enclave.connect()
    evidence = peer.hello()
    peer.send(type="ask", sealed=SEALED)
    assert peer.refused() == "unsealable"
    peer.ask(evidence)
    assert peer.refused() == "order"


def test_a_key_ends_after_its_lifetime(enclave, monkeypatch):
    peer = enclave.connect()
    evidence = peer.hello()
    monkeypatch.setattr(session, "KEY_LIFETIME_S", 0.0)
    peer.ask(evidence)
    assert peer.refused() == "order"


def test_an_ask_sealed_to_another_connections_key_does_not_open(enclave):
    first, second = enclave.connect(), enclave.connect()
    evidence = first.hello()
    second.hello()
    second.ask(evidence)
    assert second.refused() == "unsealable"
    first.collect(*first.ask(evidence))


def test_an_earlier_hellos_key_is_gone(enclave):
    peer = enclave.connect()
    evidence = peer.hello()
    peer.hello()
    peer.ask(evidence)
    assert peer.refused() == "unsealable"


@pytest.mark.parametrize("length", [0, 1, 31, 32, 47, 48, 49, 1000])
def test_whatever_is_not_sealed_to_the_key_is_refused_alike(enclave, length):
    peer = enclave.connect()
    peer.hello()
    peer.send(type="ask", sealed=base64_text(bytes(length)))
    assert peer.refused() == "unsealable"


def test_every_flipped_byte_of_a_sealed_ask_is_refused(enclave):
    peer = enclave.connect()
    evidence = peer.hello()
    _, sealed = peer.ask(evidence)
    while (said := peer.receive())["type"] != "logged":
        assert said["type"] in ("delta", "answer")
    for at in range(0, len(sealed), 7):
        peer.hello()
        peer.send(type="ask", sealed=base64_text(sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]))
        assert peer.refused() == "unsealable"


def test_a_request_id_is_answered_once_per_boot(enclave):
    first, second = enclave.connect(), enclave.connect()
    first.collect(*first.ask(first.hello(), request_id=b"0123456789abcdef"))
    second.ask(second.hello(), request_id=b"0123456789abcdef")
    assert second.refused() == "replayed"
    assert len(enclave.model.asked) == 1


def test_request_ids_are_never_forgotten_to_make_room():
    memory = RequestMemory(2)
    memory.take(b"a")
    memory.take(b"b")
    with pytest.raises(UnavailableError) as caught:
        memory.take(b"c")
    assert caught.value.code == "full"
    for known in (b"a", b"b"):
        with pytest.raises(UntrustedError) as refused:
            memory.take(known)
        assert refused.value.code == "replayed"


def test_one_of_many_racing_threads_gets_a_request_id():
    memory, won, lost = RequestMemory(10), [], []

    def race():
        try:
            memory.take(b"id")
            won.append(1)
        except UntrustedError:
            lost.append(1)

    threads = [threading.Thread(target=race) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 15)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"request": {**REQUEST, "model": "c-model"}}, "not-allowed"),
        ({"request": {**REQUEST, "model": "A-MODEL"}}, "not-allowed"),
        ({"request": {**REQUEST, "max_tokens": 101}}, "not-allowed"),
        ({"auth": "somebody"}, "auth"),
        ({"request": {**REQUEST, "tools": []}}, "malformed"),
        ({"request": {**REQUEST, "stream": True}}, "malformed"),
        ({"request": {**REQUEST, "messages": []}}, "malformed"),
        ({"request": {**REQUEST, "max_tokens": True}}, "malformed"),
        ({"request": {"model": "a-model"}}, "malformed"),
        ({"request": []}, "malformed"),
        ({"request_id": bytes(15)}, "malformed"),
        ({"reply_secret": bytes(31)}, "malformed"),
    ],
)
def test_what_is_not_allowed_reaches_no_model_and_makes_no_receipt(enclave, changes, code):
    peer = enclave.connect()
    peer.ask(peer.hello(), **changes)
    assert peer.refused() == code
    assert not enclave.model.asked
    assert not enclave.log.receipts()


def test_a_refused_request_leaves_its_id_unused(enclave):
    peer = enclave.connect()
    peer.ask(peer.hello(), request_id=bytes(16), auth="me")
    assert peer.refused() == "auth"
    peer.collect(*peer.ask(peer.hello(), request_id=bytes(16)))


def test_without_a_quote_there_is_no_attestation(enclave):
    peer = enclave.connect()
    enclave.platform.broken = True
    peer.send(type="hello")
    assert peer.refused() == "no-quote"
    enclave.platform.broken = False
    peer.hello()


def test_a_log_that_is_down_at_posting_gets_the_receipt_later(enclave):
    peer = enclave.connect()
    evidence = peer.hello()
    enclave.model.before = lambda: setattr(
        enclave.log,
        "instead",
        lambda method, path, body: (503, b'{"code":"quorum-unavailable"}') if method == "POST" else None,
    )
    _, answer, after = peer.collect(*peer.ask(evidence))
    assert (after["type"], after["code"]) == ("error", "log-unavailable")
    assert not enclave.log.receipts()
    enclave.log.up()
    assert enclave.receipts.post_waiting() == 1
    assert [each.signed.cose for each in enclave.log.receipts()] == [answer.cose]
    assert not list((enclave.folder / "outbox").iterdir())


@pytest.mark.parametrize("status", [503, 404, 500])
def test_no_model_is_asked_while_the_log_shows_no_head(enclave, status):
    peer = enclave.connect()
    evidence = peer.hello()
    enclave.log.down(status)
    peer.ask(evidence)
    assert peer.refused() == "log-unavailable"
    assert not enclave.model.asked
    assert not list((enclave.folder / "outbox").iterdir())


def test_a_log_whose_head_does_not_verify_is_no_fault_of_the_caller(enclave):
    peer = enclave.connect()
    for bad in (b"", b"nonsense\n", enclave.log.checkpoint()[:-10]):
        evidence = peer.hello()
        enclave.log.instead = lambda method, path, body, bad=bad: (200, bad)
        peer.ask(evidence)
        assert peer.refused() == "log-unavailable"
    enclave.log.up()
    peer.collect(*peer.ask(peer.hello()))


def test_a_clock_behind_the_log_is_said_and_reaches_no_model(enclave):
    peer = enclave.connect()
    evidence = peer.hello()
    enclave.now_ms[0] = (enclave.log.time_s - 1) * 1000
    peer.ask(evidence)
    assert peer.refused() == "clock-behind"
    assert not enclave.model.asked


@pytest.mark.parametrize("code", ["model", "model-refused"])
def test_a_failing_model_uses_no_sequence_number(enclave, code):
    peer = enclave.connect()
    kind = UnavailableError if code == "model" else UntrustedError
    enclave.model.error = kind("no", code=code)
    peer.ask(peer.hello())
    assert peer.refused() == code
    assert not list((enclave.folder / "outbox").iterdir())
    enclave.model.error = None
    _, answer, _ = peer.collect(*peer.ask(peer.hello()))
    assert receipt.parse_receipt(answer.cose).receipt.sequence == 0


def test_a_peer_that_leaves_while_the_model_speaks_harms_nobody(enclave):
    peer = enclave.connect()
    evidence = peer.hello()
    gone = threading.Event()

    def leave():
        peer.socket.close()
        gone.set()
        time.sleep(0.1)

    enclave.model.before = leave
    enclave.model.pieces = ["x" * 10_000] * 50
    peer.ask(evidence)
    assert gone.wait(5)
    peer.thread.join(5)
    assert not peer.thread.is_alive()
    enclave.model.before, enclave.model.pieces = (lambda: None), ["ok"]
    other = enclave.connect()
    other.collect(*other.ask(other.hello()))


def test_a_silent_peer_is_let_go(enclave, monkeypatch):
    monkeypatch.setattr(session, "IDLE_TIMEOUT_S", 0.1)
    peer = enclave.connect()
    assert ended(peer)


def test_a_dripping_peer_is_let_go_after_one_deadline(enclave, monkeypatch):
    monkeypatch.setattr(session, "IDLE_TIMEOUT_S", 0.3)
    peer = enclave.connect()
    peer.raw(b"\0\0\x01\0")
    started = time.monotonic()
    with pytest.raises(OSError):  # noqa: PT012  # one of the two fails when the agent has closed
        for _ in range(200):
            peer.raw(b"x")
            time.sleep(0.02)
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "result",
    ["\x00" * 80_000, '"' * 250_000, "é" * 200_000, "\U0001f600" * 120_000],
    ids=["nul", "quote", "e", "smile"],
)
def test_the_longest_answers_that_a_model_may_give_fit_into_a_frame(enclave, result):
    peer = enclave.connect()
    enclave.model.pieces = [result[at : at + 10_000] for at in range(0, len(result), 10_000)]
    _, answer, after = peer.collect(*peer.ask(peer.hello()))
    assert answer.result == result
    assert after["type"] == "logged"


def test_neither_prompt_nor_answer_is_ever_on_standard_error_or_in_the_state(enclave, capfd):
    secret = "the very secret answer"
    enclave.model.pieces = [secret]
    peer = enclave.connect()
    ask, sealed = peer.ask(peer.hello())
    _, answer, _ = peer.collect(ask, sealed)
    peer.ask(peer.hello(), auth=PROMPT)
    peer.refused()
    enclave.log.down()
    peer.ask(peer.hello(), request_id=bytes(16))
    peer.refused()
    kept = b"".join(path.read_bytes() for path in enclave.folder.rglob("*") if path.is_file())
    shown = capfd.readouterr()
    for hidden in (PROMPT, secret, *(salt.hex() for salt in answer.salts.values())):
        assert hidden not in shown.err + shown.out
        assert hidden.encode() not in kept
    for salt in answer.salts.values():
        assert salt not in kept
        assert base64_text(salt).encode() not in kept


def test_every_code_that_a_caller_can_get_has_a_short_sentence():
    for code, detail in session._DETAILS.items():
        message = channel.format_frame({"type": "error", "code": code, "detail": detail})
        assert len(message) < 200
        assert code == code.lower()


def test_notes_are_one_line_whatever_they_quote(capfd):
    session.note("a\nb\x1b[31mc\u2028d\ud800é")
    assert capfd.readouterr().err == "agent: a?b?[31mc?d?\\xe9\n"


def test_a_peer_without_a_place_is_told_so():
    ours, theirs = socket.socketpair()
    session.turn_away(theirs)
    with ours, ours.makefile("rb") as stream:
        data = stream.read()
    assert json.loads(data[4:])["code"] == "full"
    assert int.from_bytes(data[:4], "big") == len(data[4:])
