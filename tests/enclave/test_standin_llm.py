"""The stand-in model: says what it is, in every answer, and its CA is the same bytes everywhere."""

import http.client
import json
import ssl
import threading

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from assay.enclave import standin_llm
from assay.enclave.standin_llm import HOST, LABEL, StandinServer

MESSAGES = [{"role": "user", "content": "one two three"}]


@pytest.fixture
def server():
    with StandinServer(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def connection(server, standin_ca):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=standin_ca)
    context.check_hostname = False
    return http.client.HTTPSConnection("127.0.0.1", server.server_port, context=context, timeout=10)


def post(server, standin_ca, body, path="/v1/messages", headers=None):
    client = connection(server, standin_ca)
    try:
        client.request("POST", path, body=body, headers=headers or {})
        response = client.getresponse()
        return response.status, response.getheader("content-type"), response.read()
    finally:
        client.close()


def test_the_ca_is_the_one_of_the_recipe_whenever_it_is_made(standin_ca):
    for _ in range(2):
        assert standin_llm.ca_certificate().public_bytes(Encoding.PEM).decode() == standin_ca


def test_the_servers_certificate_is_issued_by_the_ca_for_its_name_only():
    certificate = standin_llm._server_certificate()
    certificate.verify_directly_issued_by(standin_llm.ca_certificate())
    names = certificate.extensions.get_extension_for_class(standin_llm.x509.SubjectAlternativeName).value
    assert names.get_values_for_type(standin_llm.x509.DNSName) == [HOST]
    assert "trust nothing" in certificate.subject.rfc4514_string()


def test_json_and_stream_say_the_same_and_what_they_are(server, standin_ca):
    request = {"model": "m", "max_tokens": 9, "messages": MESSAGES}
    status, kind, body = post(server, standin_ca, json.dumps(request))
    assert (status, kind) == (200, "application/json")
    (content,) = json.loads(body)["content"]
    assert content["text"].startswith(LABEL)
    assert "3 words" in content["text"]
    status, kind, body = post(server, standin_ca, json.dumps({**request, "stream": True}))
    assert (status, kind) == (200, "text/event-stream")
    events = [json.loads(line[6:]) for line in body.decode().split("\n") if line.startswith("data: ")]
    assert [events[0]["type"], events[-1]["type"]] == ["message_start", "message_stop"]
    text = "".join(each["delta"]["text"] for each in events if each["type"] == "content_block_delta")
    assert text == content["text"]


def test_answers_depend_on_the_prompt():
    answers = {standin_llm.answer_to({"messages": [{"content": text}]}) for text in ("a", "b", "a b")}
    assert len(answers) == 3
    assert standin_llm.answer_to({"messages": [{"content": [{"type": "text", "text": "a"}]}]}).startswith(
        LABEL
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"\xff",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b"{}",
        b'{"messages":[]}',
        b'{"messages":{}}',
        b'{"messages":7}',
        b'{"messages":["a"]}',
        b'{"messages":[{}]}',
        b"[" * 100_000,
    ],
)
def test_malformed_requests_are_answered_with_an_error_and_the_label(server, standin_ca, body):
    status, _, answer = post(server, standin_ca, body)
    assert status == 400
    assert json.loads(answer)["error"] == {"type": "invalid_request_error", "message": LABEL}


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {}),
        ("/v1/messages/", {}),
        ("/v1/messages?x", {}),
        ("/v1/messages", {"content-length": "\xb2"}),
        ("/v1/messages", {"content-length": "-1"}),
        ("/v1/messages", {"content-length": "+1"}),
        ("/v1/messages", {"content-length": "99999999999"}),
        ("/v1/messages", {"transfer-encoding": "chunked"}),
    ],
)
def test_other_paths_and_lengths_are_not_found(server, standin_ca, path, headers):
    status, _, answer = post(server, standin_ca, b"{}", path, headers)
    assert status == 404
    assert LABEL in answer.decode()


def test_a_connection_goes_on_after_an_error(server, standin_ca):
    server.overloaded = 1
    client = connection(server, standin_ca)
    seen = []
    for _ in range(3):
        client.request("POST", "/v1/messages", body=json.dumps({"messages": MESSAGES}))
        response = client.getresponse()
        seen.append((response.status, response.getheader("retry-after-ms")))
        assert LABEL in response.read().decode()
    client.close()
    assert seen == [(529, "20"), (200, None), (200, None)]
