"""Rekor's write path over HTTP: lenient with requests, exact in answers, and gRPC's errors for everything else."""

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from assay.attest import dsse, entry
from assay.log_server import rekor
from assay.log_server.problem import FrozenError
from assay.log_server.routes import rekor as route
from assay.tlog import merkle
from assay.tlog.checkpoint import parse_signed_checkpoint, verify_checkpoint
from assay.tlog.errors import LogError, MalformedError, UnavailableError
from assay.tlog.merkle import Hash
from assay.tlog.proof import verify_inclusion

PATH = "/api/v2/log/entries"
KEY = ec.derive_private_key(8, ec.SECP256R1())
DETAILS = "PKIX_ECDSA_P256_SHA_256"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def spki(key=KEY) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def verifier(key=KEY):
    return {"publicKey": {"rawBytes": b64(spki(key))}, "keyDetails": DETAILS}


def hashed(message=b"artifact", key=KEY):
    signature = key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return {
        "hashedRekordRequestV002": {
            "digest": b64(hashlib.sha256(message).digest()),
            "signature": {"content": b64(signature), "verifier": verifier(key)},
        }
    }


def enveloped(payload=b'{"a":1}', payload_type="application/vnd.in-toto+json"):
    signature = KEY.sign(
        dsse.pae(payload_type, payload), ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    )
    return {
        "dsseRequestV002": {
            "envelope": {
                "payload": b64(payload),
                "payloadType": payload_type,
                "signatures": [{"sig": b64(signature), "keyid": ""}],
            },
            "verifiers": [verifier()],
        }
    }


def edited(request, path, change):
    """The request with the member at a path changed; change None takes it out."""
    copy = json.loads(json.dumps(request))
    place = copy
    for name in path[:-1]:
        place = place[name]
    if change is None:
        del place[path[-1]]
    else:
        place[path[-1]] = change(place.get(path[-1]) if isinstance(place, dict) else place[path[-1]])
    return copy


@pytest.fixture
def log(make_log):
    log = make_log()
    log.open()
    return log


@pytest.fixture
def client(log):
    return log.client()


def post(client, body, **kwargs):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(PATH, data=data, content_type="application/json", **kwargs)


def is_status(response, http, code):
    """Exactly a google.rpc.Status, and never a problem document."""
    assert response.status_code == http
    assert response.content_type == "application/json"
    value = json.loads(response.data)
    assert set(value) == {"code", "message", "details"}
    assert value["code"] == code
    assert value["details"] == []
    assert value["message"]
    assert "Traceback" not in value["message"]
    return value["message"]


# Answers


def check(answer, log, *, leaf=None):
    """What Sigstore's clients check, and what they should."""
    assert set(answer) == {
        "logIndex", "logId", "kindVersion", "integratedTime", "inclusionPromise", "inclusionProof", "canonicalizedBody",
    }  # fmt: skip
    proof = answer["inclusionProof"]
    assert set(proof) == {"logIndex", "rootHash", "treeSize", "hashes", "checkpoint"}
    assert set(proof["checkpoint"]) == {"envelope"}
    assert answer["kindVersion"] == {"kind": "hashedrekord", "version": "0.0.2"}
    assert answer["integratedTime"] == "0"
    assert answer["inclusionPromise"] is None
    assert answer["logIndex"] == proof["logIndex"] == str(int(proof["logIndex"]))
    body = base64.b64decode(answer["canonicalizedBody"], validate=True)
    if leaf is not None:
        assert body == leaf
    note = proof["checkpoint"]["envelope"]
    assert note.count("\n\n") == 1
    service = log.service
    assert service is not None
    keys = service.log_keys
    checkpoint = verify_checkpoint(note.encode(), log_keys=keys)
    assert checkpoint.origin == service.config.origin
    assert proof["treeSize"] == str(checkpoint.size)
    assert base64.b64decode(proof["rootHash"]) == checkpoint.root
    verify_inclusion(
        merkle.leaf_hash(body),
        index=int(answer["logIndex"]),
        size=checkpoint.size,
        proof=[Hash(base64.b64decode(each)) for each in proof["hashes"]],
        root=checkpoint.root,
    )
    key_id = base64.b64decode(answer["logId"]["keyId"])
    assert len(key_id) == 32
    hints = {signature.key_id for signature in parse_signed_checkpoint(note.encode()).note.signatures}
    assert key_id[:4] in hints
    (ed25519,) = (key for key in keys if key.type == 1)
    assert key_id == hashlib.sha256(ed25519.name.encode() + b"\n\x01" + ed25519.public_key).digest()
    return body


def test_an_entry_is_logged_and_proved(log, client):
    for number in range(5):
        request = hashed(b"%d" % number)
        response = post(client, request)
        assert response.status_code == 201
        assert response.content_type == "application/json"
        body = check(json.loads(response.data), log)
        assert (
            json.loads(body)["spec"]["hashedRekordV002"]["signature"]
            == request["hashedRekordRequestV002"]["signature"]
        )
        index = int(json.loads(response.data)["logIndex"])
        assert log.service.store.entry(index) == body


def test_the_same_entry_again_is_a_success_with_a_proof(log, client):
    first = json.loads(post(client, hashed()).data)
    post(client, hashed(b"another"))
    again = post(client, hashed())
    assert again.status_code == 201
    answer = json.loads(again.data)
    check(answer, log)
    assert answer["logIndex"] == first["logIndex"]
    assert answer["canonicalizedBody"] == first["canonicalizedBody"]
    assert int(answer["inclusionProof"]["treeSize"]) == 2


def test_an_envelope_is_logged_as_the_hash_of_what_was_signed(log, client):
    body = check(json.loads(post(client, enveloped()).data), log)
    digest = hashlib.sha256(dsse.pae("application/vnd.in-toto+json", b'{"a":1}')).digest()
    said = json.loads(body)["spec"]["hashedRekordV002"]
    assert said["data"] == {"algorithm": "SHA2_256", "digest": b64(digest)}
    signature = enveloped()["dsseRequestV002"]["envelope"]["signatures"][0]["sig"]
    assert said["signature"]["content"] == signature


def test_an_envelope_of_nothing_is_logged_too(log, client):
    request = enveloped(payload=b"")
    check(json.loads(post(client, request).data), log)
    assert post(client, edited(request, ("dsseRequestV002", "envelope", "payload"), None)).status_code == 201


def test_an_envelope_and_its_hash_are_one_entry(client):
    payload_type, payload = "text/plain", b"x"
    first = json.loads(post(client, enveloped(payload, payload_type)).data)
    again = json.loads(post(client, hashed(dsse.pae(payload_type, payload))).data)
    assert again["logIndex"] == first["logIndex"]


def test_a_witnessed_log_answers_with_the_witnesses(make_log):
    log = make_log(witnesses=2)
    log.open()
    answer = json.loads(post(log.client(), hashed()).data)
    check(answer, log)
    assert answer["inclusionProof"]["checkpoint"]["envelope"].count("— witness-") == 4


def test_without_its_witnesses_a_log_answers_with_its_own_checkpoint(make_log, monkeypatch):
    monkeypatch.setattr(route, "WITNESSED_TIMEOUT_S", 0.2)
    log = make_log(witnesses=1)
    log.witnesses[0].mode = "down"
    log.open()
    response = post(log.client(), hashed())
    assert response.status_code == 201
    check(json.loads(response.data), log)
    assert b"witness-" not in response.data


def test_an_entry_of_this_path_is_one_of_our_own_interface_too(client):
    answer = json.loads(post(client, hashed()).data)
    leaf = base64.b64decode(answer["canonicalizedBody"])
    again = client.post("/api/v1/entries", data=leaf)
    assert again.status_code == 200
    assert again.json["leaf_hash"] == merkle.leaf_hash(leaf).hex()
    digest = hashlib.sha256(b"artifact").hexdigest()
    signer = hashlib.sha256(spki()).hexdigest()
    for query in (f"sha256={digest}", f"signer={signer}", "kind=hashedrekord"):
        found = client.get(f"/api/v1/entries?{query}").json["entries"]
        assert [each["index"] for each in found] == [int(answer["logIndex"])]
    (shown,) = client.get("/api/v1/entries?kind=hashedrekord").json["entries"]
    assert shown["decoded"]["SHA2_256"] == digest
    assert shown["decoded"]["signed by"] == signer
    page = client.get(f"/entry/{answer['logIndex']}", headers={"Accept": "text/html"})
    assert page.status_code == 200
    assert digest in page.text


# Leniency


def url_safe(text):
    return text.replace("+", "-").replace("/", "_")


def snake(value):
    names = {
        "hashedRekordRequestV002": "hashed_rekord_request_v002",
        "dsseRequestV002": "dsse_request_v002",
        "publicKey": "public_key",
        "rawBytes": "raw_bytes",
        "keyDetails": "key_details",
        "payloadType": "payload_type",
    }
    if isinstance(value, dict):
        return {names.get(name, name): snake(item) for name, item in value.items()}
    return [snake(item) for item in value] if isinstance(value, list) else value


SIGNATURE = ("hashedRekordRequestV002", "signature")
LENIENT = {
    "snake case": snake,
    "enum by number": lambda r: edited(r, (*SIGNATURE, "verifier", "keyDetails"), lambda _: 5),
    "no padding": lambda r: edited(r, ("hashedRekordRequestV002", "digest"), lambda text: text.rstrip("=")),
    "URL-safe base64": lambda r: edited(r, (*SIGNATURE, "content"), url_safe),
    "URL-safe without padding": lambda r: edited(r, (*SIGNATURE, "content"), lambda t: url_safe(t).rstrip("=")),
    "spaces": lambda r: json.dumps(r, indent=4).encode() + b"\r\n\t ",
    "escapes": lambda r: json.dumps(r).replace("digest", "\\u0064igest").encode(),
    "null for what is absent": lambda r: edited(
        edited(r, ("dsseRequestV002",), lambda _: None), (*SIGNATURE, "verifier", "x509Certificate"), lambda _: None
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LENIENT)
def test_a_request_may_be_spelt_as_protobuf_allows(client, name):
    first = json.loads(post(client, hashed()).data)
    again = post(client, LENIENT[name](hashed()))
    assert again.status_code == 201
    assert json.loads(again.data)["canonicalizedBody"] == first["canonicalizedBody"]


def test_an_envelope_may_be_in_snake_case(client):
    first = json.loads(post(client, enveloped()).data)
    assert json.loads(post(client, snake(enveloped())).data)["logIndex"] == first["logIndex"]


# Refusals

BAD = [
    b"",
    b"{",
    b"null",
    b"[]",
    b"{}",
    b"1",
    b'"x"',
    b"\xff",
    b"NaN",
    b"[" * 100_000,
    json.dumps(hashed()).encode() + b"{}",
    json.dumps(hashed()).replace('"digest"', '"digest":"AA==","digest"').encode(),
    {**hashed(), **enveloped()},
    {"hashedRekordRequestV002": None},
    {"hashedRekordRequestV002": []},
    {"hashedRekordRequestV001": {}},
    {"apiVersion": "0.0.2", "kind": "hashedrekord", "spec": {}},
    edited(hashed(), ("extra",), lambda _: 1),
    edited(hashed(), ("hashed_rekord_request_v002",), lambda _: hashed()["hashedRekordRequestV002"]),
]  # fmt: skip

PATHS = [
    ("hashedRekordRequestV002", "digest"),
    ("hashedRekordRequestV002", "signature"),
    (*SIGNATURE, "content"),
    (*SIGNATURE, "verifier"),
    (*SIGNATURE, "verifier", "keyDetails"),
    (*SIGNATURE, "verifier", "publicKey"),
    (*SIGNATURE, "verifier", "publicKey", "rawBytes"),
]
ENVELOPE = ("dsseRequestV002", "envelope")
ENVELOPE_PATHS = [
    ENVELOPE,
    (*ENVELOPE, "payloadType"),
    (*ENVELOPE, "signatures"),
    (*ENVELOPE, "signatures", 0),
    (*ENVELOPE, "signatures", 0, "sig"),
    ("dsseRequestV002", "verifiers"),
    ("dsseRequestV002", "verifiers", 0),
]
WRONG = [None, lambda _: None, lambda _: "", lambda _: 1, lambda _: 1.5, lambda _: [], lambda _: {}, lambda _: True, lambda _: "*"]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_is_no_request_is_refused(client, number):
    is_status(post(client, BAD[number]), 400, 3)


@pytest.mark.parametrize("wrong", range(len(WRONG)))
def test_every_field_is_needed_and_of_its_type(client, wrong):
    for request, paths in ((hashed(), PATHS), (enveloped(), ENVELOPE_PATHS)):
        for path in paths:
            is_status(post(client, edited(request, path, WRONG[wrong])), 400, 3)


def with_unknown(value):
    """The value with one more member, once for each object in it."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            for other in with_unknown(item):
                yield [*value[:index], other, *value[index + 1 :]]
    elif isinstance(value, dict):
        yield {**value, "unknown": None}
        for name, item in value.items():
            for other in with_unknown(item):
                yield {**value, name: other}


def test_an_unknown_field_is_refused_anywhere(client):
    for request, objects in ((hashed(), 5), (enveloped(), 6)):
        others = list(with_unknown(request))
        assert len(others) == objects
        for other in others:
            is_status(post(client, other), 400, 3)


def twice(value):
    """The value with one field under both of its names, once for each field that has two."""
    other = snake(value)
    for name, spelling in zip(value, other, strict=True):
        if name != spelling:
            yield {**value, spelling: value[name]}
        if isinstance(value[name], dict):
            for item in twice(value[name]):
                yield {**value, name: item}


def test_a_field_under_both_of_its_names_is_refused(client):
    for request in [*twice(hashed()), *twice(enveloped())]:
        is_status(post(client, request), 400, 3)


def change_signature(text):
    data = bytearray(base64.b64decode(text))
    data[-1] ^= 1
    return b64(bytes(data))


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (("hashedRekordRequestV002", "digest"), lambda _: b64(bytes(32))),
        (("hashedRekordRequestV002", "digest"), lambda _: b64(bytes(48))),
        ((*SIGNATURE, "content"), change_signature),
        ((*SIGNATURE, "verifier", "keyDetails"), lambda _: "PKIX_ECDSA_P384_SHA_384"),
        ((*SIGNATURE, "verifier", "keyDetails"), lambda _: "PKIX_RSA_PKCS1V15_2048_SHA256"),
        ((*SIGNATURE, "verifier", "keyDetails"), lambda _: "PKIX_ED25519"),
        ((*SIGNATURE, "verifier", "keyDetails"), lambda _: "5"),
        ((*SIGNATURE, "verifier", "keyDetails"), lambda _: 12),
        ((*SIGNATURE, "verifier", "keyDetails"), lambda _: 7),
        ((*SIGNATURE, "verifier", "publicKey", "rawBytes"), lambda _: b64(spki(ec.derive_private_key(9, ec.SECP256R1())))),
        ((*SIGNATURE, "verifier", "publicKey", "rawBytes"), lambda text: text[:-4]),
        ((*SIGNATURE, "verifier", "x509Certificate"), lambda _: {"rawBytes": b64(spki())}),
    ],
)  # fmt: skip
def test_nothing_is_logged_that_does_not_verify(log, client, path, change):
    is_status(post(client, edited(hashed(), path, change)), 400, 3)
    assert log.service.newest().size == 0


def test_an_envelope_of_several_signatures_is_refused(client):
    request = enveloped()
    spec = request["dsseRequestV002"]
    for signatures, verifiers in ((2, 2), (2, 1), (1, 2), (0, 0), (0, 1), (1, 0)):
        spec["envelope"]["signatures"] = spec["envelope"]["signatures"][:1] * signatures
        is_status(
            post(client, edited(request, ("dsseRequestV002", "verifiers"), lambda v, n=verifiers: v * n)),
            400,
            3,
        )
        request = enveloped()
        spec = request["dsseRequestV002"]


def test_an_envelope_with_another_payload_or_type_is_refused(client):
    is_status(post(client, edited(enveloped(), (*ENVELOPE, "payload"), lambda _: b64(b"other"))), 400, 3)
    is_status(post(client, edited(enveloped(), (*ENVELOPE, "payloadType"), lambda _: "other")), 400, 3)


def test_a_body_beyond_the_limit_is_refused(client):
    is_status(post(client, b" " * (rekor.MAX_REQUEST_SIZE + 1)), 413, 3)
    assert post(client, json.dumps(hashed()).encode().ljust(rekor.MAX_REQUEST_SIZE)).status_code == 201


def test_a_verifier_beyond_the_limit_is_refused(client):
    path = (*SIGNATURE, "verifier", "publicKey", "rawBytes")
    is_status(post(client, edited(hashed(), path, lambda _: b64(bytes(60_000)))), 400, 3)


def test_a_query_is_refused(client):
    is_status(client.post(PATH + "?wait=witnessed", data=json.dumps(hashed())), 400, 3)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_refused_in_the_same_manner(client, method):
    response = client.open(PATH, method=method, headers={"Accept": "text/html"})
    is_status(response, 405, 12)
    assert "POST" in response.headers["Allow"]


def test_a_kind_that_is_not_admitted_is_forbidden(make_log):
    log = make_log(extra='[admission]\nkinds = ["receipt"]\n')
    log.open()
    is_status(post(log.client(), hashed()), 403, 7)


@pytest.mark.parametrize(
    ("error", "http", "code"),
    [
        (UnavailableError("full", code="queue-full"), 503, 14),
        (UnavailableError("not stored", code="not-stored"), 503, 14),
        (FrozenError("frozen"), 405, 12),
        (MalformedError("malformed"), 400, 3),
        (LogError("what"), 500, 13),
        (RuntimeError("a secret"), 500, 13),
    ],
)
def test_every_failure_is_a_status(log, client, monkeypatch, error, http, code):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(log.service, "submit", fail)
    response = post(client, hashed())
    message = is_status(response, http, code)
    assert "secret" not in message
    assert ("Retry-After" in response.headers) == (http == 503)
    if http == 405:
        assert message == "This log has been frozen, please switch to the latest log."


# The message formats alone


def test_rsa_is_logged_with_its_key_details(log, client):
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    request = hashed()
    spec = request["hashedRekordRequestV002"]["signature"]
    spec["content"] = b64(key.sign(b"artifact", PKCS1v15(), hashes.SHA256()))
    for details in ("PKIX_RSA_PKCS1V15_2048_SHA256", 9):
        spec["verifier"] = {"publicKey": {"rawBytes": b64(spki(key))}, "keyDetails": details}
        assert b"PKIX_RSA_PKCS1V15_2048_SHA256" in check(json.loads(post(client, request).data), log)


def test_a_hash_of_another_size_follows_from_the_key_details():
    key = ec.derive_private_key(8, ec.SECP384R1())
    request = enveloped()
    envelope = request["dsseRequestV002"]["envelope"]
    request["dsseRequestV002"]["verifiers"][0] = {
        "publicKey": {"rawBytes": b64(spki(key))},
        "keyDetails": "PKIX_ECDSA_P384_SHA_384",
    }
    signed = dsse.pae(envelope["payloadType"], b'{"a":1}')
    envelope["signatures"][0]["sig"] = b64(key.sign(signed, ec.ECDSA(hashes.SHA384())))
    rekord = rekor.parse_request(json.dumps(request).encode())
    assert rekord.digest == hashlib.sha384(signed).digest()
    assert entry.parse_entry(entry.format_entry(rekord)) == rekord
