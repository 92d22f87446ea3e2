"""The log over HTTP: every path, what it answers, and that nonsense gets a problem document and never a traceback."""

import base64
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import dsse, entry, p256, statement
from assay.attest.entry import Attestation
from assay.attest.statement import Digests, Rebuild, Statement, Verdict, build_subjects
from assay.tlog import merkle, tlog_proof


@pytest.fixture
def grown(make_log, entry_maker):
    log = make_log()
    service = log.open()
    for number in range(3):
        service.submit(entry_maker(number), witnessed=False)
    return log


@pytest.fixture
def client(grown):
    return grown.client()


REFUSED = [
    ("GET", "/tile/0/001", 404),
    ("GET", "/tile/0/000.p/4", 404),
    ("GET", "/tile/0/000", 404),
    ("GET", "/tile/1/000.p/1", 404),
    ("GET", "/tile/00/000.p/1", 404),
    ("GET", "/tile/0/0.p/1", 404),
    ("GET", "/tile/0/000.p/0", 404),
    ("GET", "/tile/0/000.p/256", 404),
    ("GET", "/tile/0/000.p/01", 404),
    ("GET", "/tile/-1/000", 404),
    ("GET", "/tile/64/000", 404),
    ("GET", "/tile/99999999999999999999/000", 404),
    ("GET", "/tile/0/x001", 404),
    ("GET", "/tile/0/../0/000.p/1", 404),
    ("GET", "/tile/entries/000", 404),
    ("GET", "/tile/entries/000.p/4", 404),
    ("GET", "/tile/entries/x999/x999/x999/x999/x999/x999/999", 404),
    ("GET", "/tile/0/000.p/1?x=1", 400),
    ("GET", "/checkpoint?x=1", 400),
    ("GET", "/api/v1/entries/3", 404),
    ("GET", "/api/v1/entries/03", 400),
    ("GET", "/api/v1/entries/-1", 400),
    ("GET", "/api/v1/entries/abc", 400),
    ("GET", "/api/v1/entries/9223372036854775808", 400),
    ("GET", "/api/v1/entries/9223372036854775807", 404),
    ("GET", "/api/v1/entries/٣", 400),
    ("GET", "/api/v1/entries/3/proof", 404),
    ("GET", "/api/v1/entries/0/proof?size=4", 404),
    ("GET", "/api/v1/entries/2/proof?size=2", 404),
    ("GET", "/api/v1/entries/0/proof?size=x", 400),
    ("GET", "/api/v1/entries/0/proof?size=1&size=2", 400),
    ("GET", "/api/v1/entries/0/proof?nonsense=1", 400),
    ("GET", "/api/v1/leaves/00", 400),
    ("GET", "/api/v1/leaves/" + "00" * 32, 404),
    ("GET", "/api/v1/leaves/" + "AA" * 32, 400),
    ("GET", "/api/v1/consistency", 400),
    ("GET", "/api/v1/consistency?from=2&to=1", 400),
    ("GET", "/api/v1/consistency?from=1&to=4", 404),
    ("GET", "/api/v1/consistency?from=+1&to=2", 400),
    ("GET", "/api/v1/entries?nonsense=1", 400),
    ("GET", "/api/v1/entries?kind=", 400),
    ("GET", "/api/v1/entries?limit=1001", 400),
    ("GET", "/api/v1/entries?before=x", 400),
    ("GET", "/api/v1/checkpoints?before=x", 400),
    ("GET", "/api/v1/blobs/sha256/00", 400),
    ("GET", "/api/v1/blobs/sha256/" + "00" * 32, 404),
    ("GET", "/api/v1/nothing", 404),
    ("GET", "/nothing", 404),
    ("GET", "/entry/3", 404),
    ("GET", "/entry/x", 400),
    ("GET", "/entry/3.json", 404),
    ("GET", "/?before=x", 400),
    ("GET", "/?nonsense=1", 400),
    ("POST", "/checkpoint", 405),
    ("POST", "/tile/0/000.p/1", 405),
    ("DELETE", "/api/v1/entries", 405),
    ("PUT", "/api/v1/entries/0", 405),
    ("POST", "/api/v1/log", 405),
    ("POST", "/api/v1/entries?wait=for-ever", 400),
]


@pytest.mark.parametrize(("method", "path", "status"), REFUSED, ids=[f"{m} {p}" for m, p, _ in REFUSED])
def test_nonsense_is_a_problem_document(client, method, path, status):
    response = client.open(path, method=method)
    assert response.status_code == status
    assert response.content_type == "application/problem+json"
    assert response.json["status"] == status
    assert response.json["code"]
    assert "immutable" not in response.headers.get("Cache-Control", "")
    if status == 405:
        assert "GET" in response.headers["Allow"] or "POST" in response.headers["Allow"]


BODIES = [
    (b"", 400, "malformed"),
    (b"{", 400, "malformed"),
    (b"\xff\xfe", 400, "malformed"),
    (b"null", 400, "malformed"),
    (b"[]", 400, "malformed"),
    (b"{}", 400, "malformed"),
    (b"[" * 60_000, 400, "malformed"),
    (b'{"apiVersion":"0.1.0","kind":"attestation","kind":"receipt","spec":{}}', 400, "malformed"),
    (b'{"apiVersion":"0.1.0","kind":"nonsense","spec":{}}', 400, "unknown-kind"),
    (b'{"apiVersion":"9.9.9","kind":"attestation","spec":{}}', 400, "unknown-version"),
    (b'{"apiVersion":"0.1.0","kind":"attestation","spec":{"x":1.5}}', 400, "malformed"),
    (b'{ "apiVersion":"0.1.0","kind":"attestation","spec":{}}', 400, "not-canonical"),
    (b'{"apiVersion":"0.1.0","kind":"attestation","spec":{}}', 400, "malformed"),
    (b'{"apiVersion":"0.1.0","kind":"enclave","spec":{}}', 400, "malformed"),
    (b'{"apiVersion":"0.1.0","kind":"receipt","spec":{"cose":"AA=="}}', 400, "malformed"),
    (b"x" * 65_536, 413, "too-large"),
    (b"x" * (256 * 1024 + 1), 413, "too-large"),
]


@pytest.mark.parametrize(
    ("body", "status", "code"), BODIES, ids=[repr(body[:40]) + str(len(body)) for body, _, _ in BODIES]
)
def test_what_is_no_entry_is_refused_and_not_logged(client, body, status, code):
    response = client.post("/api/v1/entries", data=body)
    assert (response.status_code, response.json["code"]) == (status, code)
    assert client.get("/api/v1/log").json["size"] == 3


def test_a_bad_signature_is_refused(client, entry_maker):
    good = entry.parse_entry(entry_maker(9))
    assert isinstance(good, Attestation)
    signature = bytearray(good.envelope.signatures[0])
    signature[5] ^= 1
    changed = dsse.Envelope(good.envelope.payload_type, good.envelope.payload, (bytes(signature),))
    response = client.post("/api/v1/entries", data=entry.format_entry(Attestation(changed, good.verifiers)))
    assert (response.status_code, response.json["code"]) == (403, "signature")


def test_a_kind_that_the_operator_does_not_admit_is_refused(make_log, entry_maker):
    log = make_log(extra='[admission]\nkinds = ["receipt"]\n')
    log.open()
    response = log.client().post("/api/v1/entries", data=entry_maker(0))
    assert (response.status_code, response.json["code"]) == (403, "kind-not-admitted")


def test_reads_have_the_headers_of_the_specification(client):
    tile = client.get("/tile/0/000.p/3")
    assert tile.content_type == "application/octet-stream"
    assert tile.headers["Access-Control-Allow-Origin"] == "*"
    assert tile.headers["X-Content-Type-Options"] == "nosniff"
    assert len(tile.data) == 96
    assert client.get("/tile/0/000.p/2").data == tile.data[:64]
    checkpoint = client.get("/checkpoint")
    assert checkpoint.content_type == "text/plain; charset=utf-8"
    assert "immutable" not in checkpoint.headers["Cache-Control"]
    assert client.get("/checkpoint", headers={"If-None-Match": checkpoint.headers["ETag"]}).status_code == 304
    assert client.head("/checkpoint").status_code == 200
    assert client.get("/api/v2/checkpoint").data == checkpoint.data
    assert client.get("/api/v2/tile/0/000.p/3").data == tile.data


def test_entries_leaves_and_proofs_agree(client, entry_maker):
    shown = client.get("/api/v1/entries/1").json
    leaf = base64.b64decode(shown["leaf"])
    assert leaf == entry_maker(1)
    assert client.get(f"/api/v1/leaves/{merkle.leaf_hash(leaf).hex()}").json == shown
    parsed = tlog_proof.parse_proof(client.get("/api/v1/entries/1/proof").data)
    assert parsed.index == 1
    assert (
        tlog_proof.parse_proof(client.get("/api/v1/entries/1/proof?size=2").data).checkpoint.split(b"\n")[1]
        == b"2"
    )


def test_search_is_paged_newest_first_and_says_its_size(client):
    first = client.get("/api/v1/entries?kind=attestation&limit=2").json
    assert [each["index"] for each in first["entries"]] == [2, 1]
    assert first["size"] == 3
    rest = client.get(f"/api/v1/entries?kind=attestation&limit=2&before={first['before']}").json
    assert [each["index"] for each in rest["entries"]] == [0]
    assert rest["before"] is None
    assert client.get("/api/v1/entries?kind=receipt").json["entries"] == []


def test_pages_escape_what_strangers_wrote(grown, entry_maker):
    hostile = "<script>alert(1)</script>"
    digests = Digests(bytes(32), bytes(32), bytes(32), bytes(32))
    said = Rebuild(
        product=hostile,
        release="1",
        release_leaf=merkle.Hash(bytes(32)),
        verdict=Verdict.DIFFERENT,
        expected=digests,
        observed=replace(digests, mr_enclave=b"\1" * 32),
        differences=(hostile,),
        log_tail=hostile,
        log_sha256=bytes(32),
        started_ms=1,
        finished_ms=2,
    )
    key = ec.derive_private_key(99, ec.SECP256R1())
    envelope = dsse.sign(statement.PAYLOAD_TYPE, Statement(build_subjects(digests), said).payload(), [key])
    grown.service.submit(
        entry.format_entry(Attestation(envelope, (p256.spki(key.public_key()),))), witnessed=False
    )
    client = grown.client()
    for path in ("/", "/entry/3", f"/?product={hostile}", "/entry/<script>"):
        page = client.get(path, headers={"Accept": "text/html"})
        assert b"<script" not in page.data.lower(), path
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_every_page_has_a_json_twin_and_needs_no_script(client):
    for page, twin in (
        ("/", "/index.json"),
        ("/entry/0", "/entry/0.json"),
        ("/checkpoints", "/checkpoints.json"),
    ):
        html = client.get(page, headers={"Accept": "text/html"})
        assert html.status_code == 200
        assert html.content_type.startswith("text/html")
        assert b"<script" not in html.data
        assert client.get(twin).content_type == "application/json"


def test_a_browser_gets_a_page_where_a_program_gets_a_problem(client):
    page = client.get("/entry/99", headers={"Accept": "text/html,*/*"})
    assert page.status_code == 404
    assert page.content_type.startswith("text/html")


def test_our_own_fault_is_a_fixed_sentence(grown, client, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(grown.service.store, "entry", fail)
    response = client.get("/api/v1/entries/0")
    assert (response.status_code, response.json["code"]) == (500, "internal")
    assert b"secret" not in response.data


def test_operators_see_that_it_lives(client):
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200
    assert b"assay_log_size" in client.get("/metrics").data
