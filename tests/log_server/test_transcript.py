"""The read side as one transcript: every path, its headers and every way to get it wrong (as Sunlight tests its own).

What a cache in front may keep, what a web page may read, and that nothing redirects.
"""

import re

import pytest
from werkzeug.test import Client

from assay.log_server.app import create_app
from assay.log_server.front import Front
from assay.log_server.tokens import TokenFile
from assay.tlog import merkle

FOR_EVER = "public, max-age=31536000, immutable"
A_MINUTE = "public, max-age=60"
A_MOMENT = "public, max-age=1, must-revalidate"
ASK_AGAIN = "no-cache"
NEVER = "no-store"
BYTES = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
HTML = "text/html; charset=utf-8"
PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def grown(tmp_path_factory, request):
    """A log of 257 entries: one full tile of each kind and the beginning of the next."""
    from assay import cli
    from assay.log_server import config, worker

    folder = tmp_path_factory.mktemp("transcript") / "log"
    assert cli.main(["log", "init", str(folder), "--origin", "log.test.example"]) == 0
    service = worker.open_log(folder / "log.toml", config.load(folder / "log.toml"))
    service.start()
    make_entry = request.getfixturevalue("entry_maker")
    results = service.submit_many([make_entry(number) for number in range(257)])
    assert [each.index for each in results] == list(range(257))
    tokens = TokenFile(folder / "tokens.toml")
    yield Client(Front(create_app(service, tokens=tokens), config=service.config, tokens=tokens))
    service.stop()


READS = [
    ("/checkpoint", TEXT, A_MOMENT, None),
    ("/tile/0/000", BYTES, FOR_EVER, 8192),
    ("/tile/0/000.p/1", BYTES, A_MINUTE, 32),
    ("/tile/0/000.p/255", BYTES, A_MINUTE, 8160),
    ("/tile/0/001.p/1", BYTES, A_MINUTE, 32),
    ("/tile/1/000.p/1", BYTES, A_MINUTE, 32),
    ("/tile/entries/000", BYTES, FOR_EVER, None),
    ("/tile/entries/000.p/255", BYTES, A_MINUTE, None),
    ("/tile/entries/001.p/1", BYTES, A_MINUTE, None),
    ("/api/v1/entries/0", JSON, FOR_EVER, None),
    ("/api/v1/entries/256", JSON, FOR_EVER, None),
    ("/api/v1/entries/0/proof", TEXT, ASK_AGAIN, None),
    ("/api/v1/entries/256/proof?size=257", TEXT, ASK_AGAIN, None),
    ("/api/v1/consistency?from=0&to=257", JSON, ASK_AGAIN, None),
    ("/api/v1/checkpoints", JSON, ASK_AGAIN, None),
    ("/api/v1/entries", JSON, ASK_AGAIN, None),
    ("/api/v1/entries?kind=attestation&limit=3&before=9", JSON, ASK_AGAIN, None),
    ("/api/v1/log", JSON, ASK_AGAIN, None),
    ("/index.json", JSON, ASK_AGAIN, None),
    ("/entry/0.json", JSON, ASK_AGAIN, None),
    ("/checkpoints.json", JSON, ASK_AGAIN, None),
    ("/openapi.json", JSON, ASK_AGAIN, None),
]
C2SP = [path for path, *_ in READS if path.startswith(("/checkpoint", "/tile/")) and "json" not in path]
READS += [(f"/api/v2{path}", *rest) for path, *rest in READS if path in C2SP]
PAGES = [
    ("/", HTML, ASK_AGAIN),
    ("/entry/0", HTML, ASK_AGAIN),
    ("/checkpoints", HTML, ASK_AGAIN),
    ("/livez", TEXT, ASK_AGAIN),
    ("/readyz", JSON, NEVER),
    ("/health", JSON, NEVER),
]


def has_security_headers(answer):
    return (
        answer.headers["X-Content-Type-Options"] == "nosniff"
        and answer.headers["Referrer-Policy"] == "no-referrer"
        and answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        and re.fullmatch("[0-9a-f]{16}", answer.headers["X-Request-Id"]) is not None
    )


@pytest.mark.parametrize(("path", "kind", "caching", "length"), READS, ids=[path for path, *_ in READS])
def test_what_is_read(grown, path, kind, caching, length):
    answer = grown.get(path)
    assert (answer.status_code, answer.content_type) == (200, kind)
    assert answer.headers["Cache-Control"] == caching
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
    assert has_security_headers(answer)
    assert length is None or len(answer.data) == length
    assert int(answer.headers["Content-Length"]) == len(answer.data)
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("path", [path for path, *_ in READS] + [path for path, *_ in PAGES])
def test_a_head_is_an_answer_without_its_body(grown, path):
    answer, head = grown.get(path), grown.head(path)
    assert (head.status_code, head.data) == (200, b"")
    differing = {"X-Request-Id"} | ({"Content-Length"} if "z" in path else set())
    for name, value in answer.headers.items():
        assert name in differing or head.headers.get(name) == value, name


@pytest.mark.parametrize("path", [path for path, *_ in READS if not path.startswith("/api/v1/entries?")])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "NONSENSE"])
def test_what_is_for_reading_is_not_for_writing(grown, path, method):
    if method == "POST" and path == "/api/v1/entries":
        return
    answer = grown.open(path, method=method, data=b"x")
    assert (answer.status_code, answer.json["code"]) == (405, "method")
    assert {"GET", "HEAD", "OPTIONS"} <= set(answer.headers["Allow"].split(", "))
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert answer.headers["Cache-Control"] == NEVER


def test_only_submissions_and_blobs_are_allowed_beside_reading(grown):
    beside = {
        "/api/v1/entries": "POST",
        "/api/v1/entries/batch": "POST",
        "/api/v1/blobs/sha256/" + "0" * 64: "PUT",
        "/api/v2/log/entries": "POST",
    }
    for path, method in beside.items():
        assert method in grown.delete(path).headers["Allow"].split(", ")
        assert method in grown.options(path).headers["Allow"].split(", ")


@pytest.mark.parametrize("path", [path for path, *_ in READS])
def test_a_page_elsewhere_may_ask_before_it_reads(grown, path):
    asked = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "GET"}
    answer = grown.options(path, headers=asked)
    assert (answer.status_code, answer.data) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, HEAD"
    assert "If-None-Match" in answer.headers["Access-Control-Allow-Headers"]
    assert "Content-Type" not in answer.headers
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/api/v1/entries/batch", "/api/v2/log/entries"])
def test_a_page_elsewhere_may_not_write(grown, path):
    for answer in (grown.options(path), grown.post(path, data=b"x")):
        assert "Access-Control-Allow-Origin" not in answer.headers
        assert "Access-Control-Allow-Methods" not in answer.headers


@pytest.mark.parametrize(("path", "kind", "caching"), PAGES, ids=[path for path, *_ in PAGES])
def test_pages_and_what_operators_ask_are_for_this_site_only(grown, path, kind, caching):
    answer = grown.get(path, headers={"Accept": "text/html,*/*"})
    assert (answer.status_code, answer.content_type) == (200, kind)
    assert answer.headers["Cache-Control"] == caching
    assert "Access-Control-Allow-Origin" not in answer.headers
    assert has_security_headers(answer)


ERRORS = [
    ("/tile/0/002", 404),
    ("/tile/0/001", 404),
    ("/tile/0/001.p/2", 404),
    ("/tile/1/000", 404),
    ("/tile/1/000.p/2", 404),
    ("/tile/2/000.p/1", 404),
    ("/tile/entries/001", 404),
    ("/tile/entries/001.p/2", 404),
    ("/tile/0/000.p/256", 404),
    ("/tile/0/000.p/0", 404),
    ("/tile/0/000.p/", 404),
    ("/tile/0/000.p", 404),
    ("/tile/0/000/", 404),
    ("/tile/0//000", 404),
    ("/tile/0/0", 404),
    ("/tile/0/x000/000", 404),
    ("/tile/0/%30%30%30/", 404),
    ("/tile/0/000%2ep%2f1x", 404),
    ("/tile/entries", 404),
    ("/tile/", 404),
    ("/tile/0/000?x=1", 400),
    ("/tile/0/000?", None),
    ("/checkpoint?x=1", 400),
    ("/checkpoint?=", 400),
    ("/api/v2/tile/0/002", 404),
    ("/api/v2/tile", 404),
    ("/api/v2/", 404),
    ("/api/v2", 404),
    ("/api//v1/log", 404),
    ("/api/v1//log", 404),
    ("/api/v1/log/", 404),
    ("/api/v1/entries/", 404),
    ("/api/v1/entries/257", 404),
    ("/api/v1/entries/0/", 404),
    ("/api/v1/entries/00", 400),
    ("/api/v1/entries/0/proof?size=256", 404),
    ("/api/v1/consistency?from=0&to=258", 404),
    ("/api/v1/blobs/sha256/" + "0" * 64, 404),
    ("/entry/257.json", 404),
]


@pytest.mark.parametrize(("path", "status"), ERRORS, ids=[path for path, _ in ERRORS])
def test_an_error_is_never_kept_by_a_cache_and_a_page_can_tell_it_from_a_broken_network(grown, path, status):
    answer = grown.get(path)
    if status is None:  # an empty query is no query
        assert answer.status_code == 200
        return
    assert (answer.status_code, answer.content_type) == (status, PROBLEM)
    assert answer.headers["Cache-Control"] == NEVER
    assert "ETag" not in answer.headers
    assert "Content-Encoding" not in answer.headers
    assert answer.headers.get("Access-Control-Allow-Origin") == "*" or path == "/api/v2"
    assert has_security_headers(answer)
    assert answer.json["request_id"] == answer.headers["X-Request-Id"]
    assert grown.head(path).data == b""


@pytest.mark.parametrize(
    "path",
    [
        "/checkpoint/",
        "/tile/0/000/",
        "/api//v1/log",
        "/api/v1/log/",
        "/static",
        "/static/",
        "/static/../log.toml",
        "/static/%2e%2e/app.py",
        "/entry/0/",
        "/livez/",
        "/entry",
        "/tile/../checkpoint",
        "/%2e%2e/log.key",
    ],
)
def test_nothing_redirects_lists_or_climbs(grown, path):
    answer = grown.get(path)
    assert answer.status_code in (400, 404)
    assert "Location" not in answer.headers


@pytest.mark.parametrize("path", C2SP)
def test_what_a_reader_has_already_is_not_sent_again(grown, path):
    first = grown.get(path)
    tag = first.headers["ETag"]
    assert re.fullmatch(r'"[0-9a-f]{64}"', tag)
    for asked in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        again = grown.get(path, headers={"If-None-Match": asked})
        assert (again.status_code, again.data) == (304, b""), asked
        for name in ("ETag", "Cache-Control", "Access-Control-Allow-Origin"):
            assert again.headers[name] == first.headers[name]
        assert "Content-Type" not in again.headers
        assert grown.head(path, headers={"If-None-Match": asked}).status_code == 304
    for other in ('"x"', tag.strip('"'), ""):
        assert grown.get(path, headers={"If-None-Match": other}).status_code == 200, other


def test_both_prefixes_serve_the_same_bytes(grown):
    for path in C2SP:
        if not path.startswith("/api/"):
            assert grown.get(path).data == grown.get(f"/api/v2{path}").data


def test_the_tiles_are_the_tree_of_the_bundles(grown):
    first, second = (grown.get(f"/tile/entries/{name}").data for name in ("000", "001.p/1"))
    leaves, data = [], first + second
    while data:
        length = int.from_bytes(data[:2], "big")
        leaves.append(data[2 : 2 + length])
        data = data[2 + length :]
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    assert grown.get("/tile/0/000").data == b"".join(hashes[:256])
    assert grown.get("/tile/0/001.p/1").data == hashes[256]
    assert grown.get("/tile/1/000.p/1").data == merkle.root_of(hashes[:256])
    assert grown.get("/checkpoint").data.split(b"\n")[1] == b"257"


def test_an_entry_that_is_not_published_yet_is_not_for_ever(make_log, entry_maker):
    log = make_log(witnesses=1)
    log.witnesses[0].mode = "down"
    log.open().submit(entry_maker(0), witnessed=False)
    client = log.client()
    assert client.get("/api/v1/entries/0").headers["Cache-Control"] == ASK_AGAIN
    missing = client.get("/checkpoint")
    assert (missing.status_code, missing.json["code"]) == (404, "not-published")
    assert missing.headers["Cache-Control"] == NEVER
