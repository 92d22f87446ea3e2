"""The model's client: believes one CA and one name, reads a stream strictly, retries only before the first piece."""

import json
import os
import socket
import ssl
import threading
import time
from contextlib import contextmanager

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from assay.enclave import llm, standin_llm
from assay.enclave.standin_llm import LABEL, StandinServer
from assay.tlog.errors import LogError, UnavailableError, UntrustedError

REQUEST = {"max_tokens": 64, "messages": [{"content": "hello there", "role": "user"}], "model": "stand-in-1"}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@contextmanager
def standin(**options):
    with StandinServer(("127.0.0.1", 0), **options) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def raw(*answers, context=None, hold_s=0.0):
    """A TLS server with the stand-in's certificate that says these bytes, one answer a connection."""
    served, stopped = [], threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            for answer in answers:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                try:
                    with (context or standin_llm._tls_context()).wrap_socket(plain, server_side=True) as peer:
                        request = b""
                        while not request.endswith(b'"stream":true}'):
                            request += peer.recv(65_536)
                        served.append(request)
                        for piece in answer if isinstance(answer, list) else [answer]:
                            peer.sendall(piece)
                            stopped.wait(hold_s)
                except OSError:
                    plain.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], served
        stopped.set()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)


def event(**members):
    return b"event: x\ndata: " + json.dumps(members).encode() + b"\n\n"


def piece(text):
    return event(type="content_block_delta", index=0, delta={"type": "text_delta", "text": text})


STOP = event(type="message_stop")


def ask(model):
    pieces = []
    return model.answer(REQUEST, delta=pieces.append), pieces


def refused(model, kind=UnavailableError):
    pieces = []
    with pytest.raises(kind) as caught:
        model.answer(REQUEST, delta=pieces.append)
    assert "sk-very-secret" not in str(caught.value) + repr(caught.value)
    return caught.value.code, pieces


def test_an_answer_comes_in_pieces_and_whole(standin_model):
    with standin() as server:
        text, pieces = ask(standin_model(server.server_port))
    assert text.startswith(LABEL)
    assert len(pieces) > 1
    assert "".join(pieces) == text


@pytest.mark.parametrize("overloaded", [1, 2])
def test_an_overloaded_api_is_asked_again_after_the_pause_that_it_names(
    standin_model, monkeypatch, overloaded
):
    pauses = []
    monkeypatch.setattr(llm.time, "sleep", pauses.append)
    with standin(overloaded=overloaded) as server:
        text, _ = ask(standin_model(server.server_port))
    assert text.startswith(LABEL)
    assert pauses == [0.02] * overloaded


def test_an_api_that_stays_overloaded_is_unavailable_after_three_attempts(standin_model):
    with standin(overloaded=4) as server:
        assert refused(standin_model(server.server_port)) == ("model", [])
        assert server.overloaded == 1


@pytest.mark.parametrize(
    ("header", "pause_s"),
    [
        (b"retry-after: 2", 2.0),
        (b"retry-after-ms: 30", 0.03),
        (b"retry-after: 3600", 5.0),
        (b"retry-after: 99999999999999", 0.5),
        (b"retry-after: Wed, 21 Oct 2026 07:28:00 GMT", 0.5),
        (b"retry-after: -1", 0.5),
        (b"retry-after: \xb2", 0.5),
        (b"x: y", 0.5),
    ],
)
def test_pauses_are_bounded_and_read_strictly(standin_model, monkeypatch, header, pause_s):
    pauses = []
    monkeypatch.setattr(llm.time, "sleep", pauses.append)
    head = b"HTTP/1.1 529 Busy\r\n" + header + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    with raw(head, HEAD + piece("ok") + STOP) as (port, _):
        assert ask(standin_model(port))[0] == "ok"
    assert pauses[0] == pause_s


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
def test_these_answers_are_worth_another_attempt(standin_model, status):
    busy = b"HTTP/1.1 %d Busy\r\nretry-after-ms: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status
    with raw(busy, HEAD + piece("ok") + STOP) as (port, served):
        assert ask(standin_model(port))[0] == "ok"
        assert len(served) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 301, 307, 204, 418])
def test_a_refusal_is_final(standin_model, status):
    head = (
        b"HTTP/1.1 %d No\r\nlocation: https://127.0.0.1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        % status
    )
    with raw(head, HEAD + piece("ok") + STOP) as (port, served):
        assert refused(standin_model(port), UntrustedError) == ("model-refused", [])
        assert len(served) == 1


def test_no_attempt_begins_after_the_deadline(standin_model):
    busy = b"HTTP/1.1 529 Busy\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    with raw(busy, HEAD + piece("ok") + STOP) as (port, served):
        started = time.monotonic()
        assert refused(standin_model(port, timeout_s=1.0))[0] == "model"
        assert time.monotonic() - started < 1
        assert len(served) == 1


def test_the_request_carries_key_and_version_and_asks_for_a_stream(standin_model):
    with raw(HEAD + piece("ok") + STOP) as (port, served):
        ask(standin_model(port))
    (request,) = served
    assert request.startswith(b"POST /v1/messages HTTP/1.1\r\nHost: llm.standin.example\r\n")
    assert b"\r\nx-api-key: sk-very-secret\r\n" in request
    assert b"\r\nanthropic-version: 2023-06-01\r\n" in request
    assert b'"stream":true' in request


STREAMS = {
    "empty": b"",
    "no-stop": piece("a"),
    "cut-off-in-an-event": piece("a") + b'data: {"type":"mess',
    "stop-without-a-blank-line": piece("a") + STOP[:-1],
    "error-at-once": event(type="error", error={"type": "overloaded_error"}),
    "error-in-the-middle": piece("a") + event(type="error", error={}) + piece("b") + STOP,
    "no-json": piece("a") + b"data: hello\n\n" + STOP,
    "no-object": piece("a") + b"data: [1]\n\n" + STOP,
    "huge-integer": b"data: " + b"1" * 5000 + b"\n\n" + STOP,
    "deep": b"data: " + b"[" * 100_000 + b"\n\n" + STOP,
    "invalid-utf8": b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"\xff"}}\n\n'
    + STOP,
    "utf-16": b"data: " + json.dumps({"type": "message_stop"}).encode("utf-16") + b"\n\n",
    "surrogate": piece("\ud800") + STOP,
    "text-number": event(type="content_block_delta", delta={"type": "text_delta", "text": 1}) + STOP,
    "text-missing": event(type="content_block_delta", delta={"type": "text_delta"}) + STOP,
    "line-without-end": b"data: " + b"x" * (600 * 1024),
    "lines-without-end": b"data: x\n" * 300_000,
    "event-too-long": piece("x" * 300_000) + STOP,
    "answer-too-long": piece("x" * 100_000) * 6 + STOP,
    "answer-too-long-escaped": piece("\x00" * 30_000) * 4 + STOP,
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_malformed_stream_is_no_answer_and_is_not_asked_for_again(standin_model, name):
    with raw(HEAD + STREAMS[name], HEAD + piece("ok") + STOP) as (port, served):
        code, _ = refused(standin_model(port))
        assert code == "model"
        assert len(served) == 1


def test_every_truncation_of_a_stream_is_no_answer(standin_model):
    """Without TLS in between, since there are many."""
    whole = piece("a") + piece("b") + STOP
    for length in range(len(whole)):
        with pytest.raises(UnavailableError):
            llm._collect(llm._events(iter(whole[:length].split(b"\n")[:-1])), lambda text: None)
    assert llm._collect(llm._events(iter(whole.split(b"\n")[:-1])), lambda text: None) == "ab"


HEADS = {
    "no-http": b"hello\r\n\r\n",
    "nothing": b"",
    "cut-off": b"HTTP/1.1 200 OK\r\n",
    "long-header": b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
    "many-headers": b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200 + b"\r\n",
    "bad-chunk": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "chunk-cut-off": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n10\r\nabc",
    "length-cut-off": b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n" + piece("a"),
}


@pytest.mark.parametrize("name", HEADS)
def test_broken_http_is_unavailable(standin_model, name):
    with raw(HEADS[name]) as (port, _):
        assert refused(standin_model(port))[0] == "model"


def test_events_of_other_types_comments_and_line_ends_are_passed_over(standin_model):
    stream = (
        b": comment\n\nid: 7\nretry: 3\n\n"
        + event(type="ping")
        + event(type="message_start", message={"content": [{"type": "text", "text": "no"}]})
        + event(type="tomorrow", text="no")
        + event(nothing=1)
        + event(type="content_block_delta", delta={"type": "thinking_delta", "thinking": "no"})
        + piece("ye").replace(b"\n", b"\r\n")
        + b'data: {"type":"content_block_delta",\ndata:"delta":{"type":"text_delta","text":"s \xf0\x9f\x98\x80"}}\n\n'
        + STOP
        + piece("no")
    )
    with raw([HEAD, *(bytes([each]) for each in stream[:80]), stream[80:]]) as (port, _):
        assert ask(standin_model(port)) == ("yes \U0001f600", ["ye", "s \U0001f600"])


def test_a_chunked_stream_is_read(standin_model):
    body = piece("a") + STOP
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(body[at : at + 9]), body[at : at + 9]) for at in range(0, len(body), 9)
    )
    with raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n") as (port, _):
        assert ask(standin_model(port))[0] == "a"


@pytest.mark.parametrize("drip", [b": still here\n", b"x", b"data: y\n"])
def test_a_dripping_stream_ends_at_the_deadline(standin_model, drip):
    with raw([HEAD, *([drip] * 100)], hold_s=0.05) as (port, _):
        started = time.monotonic()
        assert refused(standin_model(port, timeout_s=0.6))[0] == "model"
        assert time.monotonic() - started < 2


def test_a_silent_server_ends_at_the_deadline(standin_model):
    with raw([HEAD, b""], hold_s=1.0) as (port, _):
        started = time.monotonic()
        assert refused(standin_model(port, timeout_s=0.4))[0] == "model"
        assert time.monotonic() - started < 0.9


def test_a_server_without_tls_is_unavailable(standin_model):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def leave():
            listener.accept()[0].close()

        threading.Thread(target=leave, daemon=True).start()
        assert refused(standin_model(listener.getsockname()[1]))[0] == "model"


def test_a_refused_connection_is_unavailable(standin_model):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert refused(standin_model(port))[0] == "model"


def test_a_callers_failure_is_not_the_models(standin_model):
    def leave(text):
        raise BrokenPipeError

    with raw(HEAD + piece("a") + STOP, HEAD + STOP) as (port, served):
        with pytest.raises(BrokenPipeError):
            standin_model(port).answer(REQUEST, delta=leave)
        assert len(served) == 1


def other_ca(monkeypatch, seed):
    with monkeypatch.context() as patch:
        patch.setattr(standin_llm, "_SEED", seed)
        return standin_llm.ca_certificate().public_bytes(Encoding.PEM).decode(), standin_llm._tls_context()


def test_another_ca_is_not_believed(standin_model, monkeypatch):
    pem, context = other_ca(monkeypatch, b"another seed")
    answer = HEAD + piece("evil") + STOP
    with raw(answer, context=context) as (port, served):
        assert refused(standin_model(port)) == ("model", [])
        assert not served
    with raw(answer, context=context) as (port, _):
        assert ask(standin_model(port, ca_pem=pem))[0] == "evil"


def test_another_name_is_not_believed(standin_model):
    with raw(HEAD + piece("evil") + STOP) as (port, served):
        assert refused(standin_model(port, host="llm.other.example")) == ("model", [])
        assert not served


def test_a_certificate_of_another_name_is_not_believed(standin_model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(standin_llm, "HOST", "127.0.0.1")
        context = standin_llm._tls_context()
    with raw(HEAD + piece("evil") + STOP, context=context) as (port, served):
        assert refused(standin_model(port)) == ("model", [])
        assert not served


def test_a_certificate_that_signs_itself_is_not_believed(standin_model, monkeypatch, tmp_path):
    key, certificate = standin_llm._key("ca"), standin_llm.ca_certificate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "x.pem").write_bytes(certificate.public_bytes(Encoding.PEM) + pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "x.pem")
    with raw(HEAD + piece("evil") + STOP, context=context) as (port, served):
        assert refused(standin_model(port)) == ("model", [])
        assert not served


def test_old_tls_is_refused(standin_model):
    context = standin_llm._tls_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with raw(HEAD + piece("old") + STOP, context=context) as (port, served):
        assert refused(standin_model(port)) == ("model", [])
        assert not served


def test_the_environment_changes_nothing(standin_model, monkeypatch, tmp_path):
    pem, context = other_ca(monkeypatch, b"another seed")
    (tmp_path / "ca.pem").write_text(pem)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "ANTHROPIC_BASE_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-of-the-environment")
    with raw(HEAD + piece("ok") + STOP) as (port, served):
        assert ask(standin_model(port))[0] == "ok"
    assert b"sk-of-the-environment" not in served[0]
    with raw(HEAD + piece("evil") + STOP, context=context) as (port, _):
        assert refused(standin_model(port)) == ("model", [])
    assert not (tmp_path / "keys").exists()
    assert os.environ["HTTPS_PROXY"]


def test_the_key_is_in_no_repr(standin_model):
    assert "sk-very-secret" not in repr(standin_model(1))


def test_all_refusals_are_of_the_house(standin_model):
    with raw(b"") as (port, _), pytest.raises(LogError):
        ask(standin_model(port))
