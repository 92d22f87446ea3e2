"""What operators have around a log: tokens, limits, request names, metrics, health, several logs, freezing."""

import json
import re
import stat
import threading

import pytest
from werkzeug.test import Client

from assay import cli
from assay.log_server import health, worker
from assay.log_server.app import mount
from assay.log_server.front import Front, route_of
from assay.log_server.limits import RateLimit, RateLimitedError, client_address
from assay.log_server.service import now_ms
from assay.log_server.tokens import TokenError, TokenFile
from assay.tlog.errors import LogError, MalformedError, UnavailableError


def front(log, **sections):
    """The whole application, as a worker serves it, with other limits."""
    from assay.log_server.app import create_app

    config = log.service.config
    changed = config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    )
    tokens = TokenFile(log.folder / "tokens.toml")
    return Client(Front(create_app(log.service, tokens=tokens), config=changed, tokens=tokens))


@pytest.fixture
def log(make_log):
    log = make_log()
    log.open()
    return log


# --- tokens


def test_a_token_is_shown_once_and_kept_as_a_hash(tmp_path):
    file = TokenFile(tmp_path / "tokens.toml")
    text = file.create("ci", now_ms=5)
    kept = (tmp_path / "tokens.toml").read_text()
    assert text not in kept
    assert stat.S_IMODE((tmp_path / "tokens.toml").stat().st_mode) == 0o600
    assert file.verify(f"Bearer {text}").name == "ci"
    assert TokenFile(tmp_path / "tokens.toml").verify(f"bearer  {text}").name == "ci"


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Basic x", "Bearer assay_x", "Bearer \udce9"]
)
def test_what_is_no_token_is_refused(tmp_path, header):
    file = TokenFile(tmp_path / "tokens.toml")
    with pytest.raises(TokenError):
        file.verify(header)
    text = file.create("ci", now_ms=5)
    with pytest.raises(TokenError):
        file.verify(header)
    with pytest.raises(TokenError):
        file.verify(f"Bearer {text[:-1]}")


def test_a_revoked_token_is_refused_by_whoever_has_the_file_open(tmp_path):
    server, operator = TokenFile(tmp_path / "tokens.toml"), TokenFile(tmp_path / "tokens.toml")
    text, other = operator.create("ci", now_ms=5), operator.create("other", now_ms=6)
    assert server.verify(f"Bearer {text}").name == "ci"
    operator.revoke("ci")
    with pytest.raises(TokenError):
        server.verify(f"Bearer {text}")
    assert server.verify(f"Bearer {other}").name == "other"
    with pytest.raises(MalformedError):
        operator.revoke("ci")
    with pytest.raises(MalformedError):
        operator.create("other", now_ms=7)


@pytest.mark.parametrize("name", ["", "x" * 65, "a\nb", "a\x00"])
def test_a_token_has_a_printable_name(tmp_path, name):
    with pytest.raises(MalformedError):
        TokenFile(tmp_path / "tokens.toml").create(name, now_ms=1)


@pytest.mark.parametrize(
    "text", ["nonsense", "[[token]]\nname = 'x'\n", "[[token]]\nname='x'\nsha256='00'\ncreated=1\n"]
)
def test_a_token_file_that_cannot_be_read_lets_nobody_in(tmp_path, text):
    (tmp_path / "tokens.toml").write_text(text)
    with pytest.raises(LogError):
        TokenFile(tmp_path / "tokens.toml").verify("Bearer assay_x")


def test_writes_need_a_token_where_the_operator_says_so(log, entry_maker):
    client = front(log, access={"require_token": True})
    text = TokenFile(log.folder / "tokens.toml").create("ci", now_ms=1)
    for path in ("/api/v1/entries", "/api/v1/entries/batch"):
        refused = client.post(path, data=entry_maker(0))
        assert (refused.status_code, refused.json["code"]) == (401, "token")
        assert "Bearer" in refused.headers["WWW-Authenticate"]
    rekor = client.post("/api/v2/log/entries", data=b"{}")
    assert (rekor.status_code, rekor.json["code"], rekor.json["details"]) == (401, 16, [])
    assert client.get("/checkpoint").status_code == 200
    bearer = {"Authorization": f"Bearer {text}"}
    assert client.post("/api/v1/entries", data=entry_maker(0), headers=bearer).status_code == 201
    wrong = {"Authorization": f"Bearer {text}x"}
    assert client.post("/api/v1/entries", data=entry_maker(0), headers=wrong).status_code == 401


def test_a_wrong_token_is_refused_even_where_none_is_needed(log, entry_maker):
    client = front(log)
    assert client.post("/api/v1/entries", data=entry_maker(0)).status_code == 201
    wrong = {"Authorization": "Bearer assay_wrong"}
    assert client.post("/api/v1/entries", data=entry_maker(1), headers=wrong).status_code == 401


def test_tokens_on_the_command_line(log, capsys):
    at = ["--dir", str(log.folder)]
    assert cli.main(["log", "token", "new", "ci", *at, "--json"]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert TokenFile(log.folder / "tokens.toml").verify(f"Bearer {made['token']}").name == "ci"
    assert cli.main(["log", "token", "new", "ci", *at]) == 1
    assert cli.main(["log", "token", "list", *at]) == 0
    assert "ci" in capsys.readouterr().out
    assert cli.main(["log", "token", "revoke", "ci", *at]) == 0
    assert cli.main(["log", "token", "revoke", "ci", *at]) == 1


# --- blobs


def test_evidence_is_put_with_a_token_under_its_own_hash(log):
    import hashlib

    client = front(log)
    data = b"evidence"
    path = f"/api/v1/blobs/sha256/{hashlib.sha256(data).hexdigest()}"
    assert client.put(path, data=data).status_code == 401
    text = TokenFile(log.folder / "tokens.toml").create("ci", now_ms=1)
    bearer = {"Authorization": f"Bearer {text}"}
    assert client.put(path, data=b"other", headers=bearer).json["code"] == "blob-hash"
    assert client.put(path, data=b"x" * (1 << 20) + b"x", headers=bearer).status_code == 413
    assert client.get(path).status_code == 404
    assert client.put(path, data=data, headers=bearer).status_code == 201
    assert client.put(path, data=data, headers=bearer).status_code == 200
    assert client.get(path).data == data


# --- limits


def test_each_client_has_its_own_allowance(log, entry_maker):
    client = front(log, limits={"writes_per_minute": 3, "trusted_proxies": 1})
    for address in ("10.0.0.1", "10.0.0.2"):
        forwarded = {"X-Forwarded-For": f"9.9.9.9, {address}"}
        answers = [client.post("/api/v1/entries", data=entry_maker(0), headers=forwarded) for _ in range(5)]
        assert [each.status_code for each in answers].count(429) == 2
        assert answers[-1].json["code"] == "rate-limited"
        assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert client.get("/checkpoint").status_code == 200
    rekor = client.post("/api/v2/log/entries", data=b"{}", headers={"X-Forwarded-For": "10.0.0.1"})
    assert (rekor.status_code, rekor.json["code"]) == (429, 8)


def test_reads_have_a_limit_of_their_own(log, entry_maker):
    client = front(log, limits={"reads_per_minute": 2})
    assert [client.get("/checkpoint").status_code for _ in range(3)] == [200, 200, 429]
    assert client.post("/api/v1/entries", data=entry_maker(0)).status_code == 201


def test_a_token_is_a_client_wherever_it_comes_from(log, entry_maker):
    client = front(log, limits={"writes_per_minute": 1, "token_writes_per_minute": 2, "trusted_proxies": 1})
    text = TokenFile(log.folder / "tokens.toml").create("ci", now_ms=1)
    answers = [
        client.post(
            "/api/v1/entries",
            data=entry_maker(0),
            headers={"Authorization": f"Bearer {text}", "X-Forwarded-For": f"10.0.0.{number}"},
        ).status_code
        for number in range(4)
    ]
    assert answers == [201, 200, 429, 429]


def test_what_keeps_count_is_bounded_and_strangers_share_what_is_left():
    limit = RateLimit(2, max_clients=10)
    for number in range(10):
        limit.spend(f"known {number}")
    refused = 0
    for number in range(20):
        try:
            limit.spend(f"stranger {number}")
        except RateLimitedError:
            refused += 1
    assert refused == 18
    limit.spend("known 3")
    with pytest.raises(RateLimitedError):
        limit.spend("known 3")
    RateLimit(0).spend("anybody")


@pytest.mark.parametrize(
    ("remote", "forwarded", "proxies", "expected"),
    [
        ("1.2.3.4", None, 0, "1.2.3.4"),
        ("1.2.3.4", "5.6.7.8", 0, "1.2.3.4"),
        ("1.2.3.4", "5.6.7.8", 1, "5.6.7.8"),
        ("1.2.3.4", "6.6.6.6, 5.6.7.8", 1, "5.6.7.8"),
        ("1.2.3.4", "9.9.9.9, 6.6.6.6, 5.6.7.8", 2, "6.6.6.6"),
        ("1.2.3.4", "5.6.7.8", 3, "5.6.7.8"),
        ("1.2.3.4", "nonsense", 1, "1.2.3.4"),
        ("1.2.3.4", None, 1, "1.2.3.4"),
        ("2001:db8::1:2:3:4", None, 0, "2001:db8::/64"),
        ("1.2.3.4", "2001:db8:0:0:ffff::1", 1, "2001:db8::/64"),
    ],
)
def test_a_client_is_whom_the_trusted_proxies_saw(remote, forwarded, proxies, expected):
    assert client_address(remote, forwarded, trusted_proxies=proxies) == expected


# --- requests


def test_every_request_has_a_name_that_the_answer_bears(log):
    client = front(log)
    made = client.get("/livez").headers["X-Request-Id"]
    assert re.fullmatch(r"[0-9a-f]{16}", made)
    assert (
        client.get("/livez", headers={"X-Request-Id": "my-request.1"}).headers["X-Request-Id"]
        == "my-request.1"
    )
    for forged in ("x", "a b c d e f g h", "x" * 65, "<script>alert</script>"):
        assert client.get("/livez", headers={"X-Request-Id": forged}).headers["X-Request-Id"] != forged


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", "/"),
        ("/checkpoint", "/checkpoint"),
        ("/api/v2/checkpoint", "/checkpoint"),
        ("/tile/0/x001/000", "/tile"),
        ("/tile/entries/000", "/tile/entries"),
        ("/api/v1/entries", "/api/v1/entries"),
        ("/api/v1/entries/7/proof", "/api/v1/entries"),
        ("/api/v1/entries/batch", "/api/v1/entries/batch"),
        ("/api/v2/log/entries", "/api/v2/log/entries"),
        ("/livez", "/livez"),
        ("/entry/3", "/entry"),
        ("/wp-login.php", "other"),
        ("/api/v1/entriesx", "other"),
    ],
)
def test_routes_are_few_whatever_is_asked(path, route):
    assert route_of(path) == route


# --- metrics and health


def figure(client, name):
    text = client.get("/metrics").data.decode()
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(f"{name}{{"))


def test_what_happens_is_counted(log, entry_maker):
    client = front(log)
    before = figure(client, "assay_log_batches_total")
    client.post("/api/v1/entries", data=entry_maker(0))
    client.post("/api/v1/entries", data=entry_maker(0))
    client.post("/api/v1/entries", data=b"nonsense")
    text = client.get("/metrics").data.decode()
    assert figure(client, "assay_log_batches_total") == before + 2
    assert figure(client, "assay_log_size") == 1
    for line in ('kind="attestation",origin="log.test.example",result="new"', 'result="malformed"'):
        assert any("assay_log_submissions_total{" in each and line in each for each in text.splitlines())
    assert 'assay_http_requests_total{method="POST",route="/api/v1/entries",status="201"}' in text
    assert "assay_build_info" in text


def test_a_log_in_service_is_ready(log):
    answer = log.client().get("/readyz")
    assert answer.status_code == 200
    assert [check["result"] for check in answer.json["checks"]] == ["pass"] * 4


def test_a_log_whose_witnesses_are_quiet_is_not_ready(make_log, entry_maker):
    log = make_log(witnesses=1)
    log.witnesses[0].mode = "down"
    log.open()
    answer = log.client().get("/readyz")
    assert answer.status_code == 503
    failed = {check["name"] for check in answer.json["checks"] if check["result"] == "fail"}
    assert failed == {"checkpoint", "quorum"}


def test_a_checkpoint_that_does_not_verify_is_not_ready(log, entry_maker):
    from sqlalchemy import text

    log.service.submit(entry_maker(0), witnessed=False)
    with log.service.store.engine.begin() as connection:
        connection.execute(text("UPDATE checkpoint SET note = :note WHERE size = 1"), {"note": b"nonsense"})
    answer = log.client().get("/readyz")
    assert answer.status_code == 503
    assert {check["name"] for check in answer.json["checks"] if check["result"] == "fail"} == {"checkpoint"}


def disk_full(*args, **kwargs):
    raise OSError("disk full")


def test_a_log_that_cannot_commit_is_not_ready_until_it_can(log, entry_maker, monkeypatch):
    from assay.log_server import sequencer
    from assay.log_server.batch import Batch
    from assay.log_server.store import Store

    monkeypatch.setattr(sequencer, "_TRY_AGAIN_S", 0)
    client = log.client()
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "sign", disk_full)
        patch.setattr(Store, "verify_writable", disk_full)
        assert client.post("/api/v1/entries", data=entry_maker(0)).status_code == 503
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json["ready"]) == (503, False)
        assert {each["name"] for each in answer.json["checks"] if each["result"] == "fail"} == {"sequencing"}
    # Whoever sends it no entries while it is not ready still learns that it is again.
    assert client.get("/readyz").status_code == 200
    assert client.post("/api/v1/entries", data=entry_maker(0)).status_code == 201


def test_a_log_that_cannot_commit_is_tried_once_a_while_and_not_at_every_question(
    log, entry_maker, monkeypatch
):
    from assay.log_server import sequencer
    from assay.log_server.batch import Batch
    from assay.log_server.store import Store

    monkeypatch.setattr(sequencer, "_TRY_AGAIN_S", 3600)
    tried = []
    monkeypatch.setattr(Store, "verify_writable", lambda store: tried.append(store) or disk_full())
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "sign", disk_full)
        log.client().post("/api/v1/entries", data=entry_maker(0))
    assert [log.client().get("/readyz").status_code for _ in range(5)] == [503] * 5
    assert len(tried) == 1


def test_an_anchor_that_stands_still_is_not_ready_until_it_moves(log, entry_maker, monkeypatch):
    from assay.log_server import sequencer
    from assay.log_server.anchor import AnchorFile

    monkeypatch.setattr(sequencer, "_TRY_AGAIN_S", 0)
    with monkeypatch.context() as patch:
        patch.setattr(AnchorFile, "swap", disk_full)
        assert log.client().post("/api/v1/entries", data=entry_maker(0)).status_code == 503
        assert log.client().get("/readyz").status_code == 503
    assert log.client().get("/readyz").status_code == 200


def test_trying_whether_the_database_takes_writes_leaves_nothing_in_it(log):
    from sqlalchemy import text

    store = log.service.store
    store.verify_writable()
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM blob")).scalar_one() == 0
        connection.execute(text("PRAGMA query_only = ON"))
    from sqlalchemy.exc import SQLAlchemyError

    with pytest.raises(SQLAlchemyError):
        store.verify_writable()


def cosigned_at(log, times):
    """Another cosignature of each witness, made at its time; what the witness made itself is replaced."""
    from assay.log_server.store import StoredCosignature
    from assay.tlog.checkpoint import parse_signed_checkpoint
    from assay.tlog.cosignature import cosign

    store = log.service.store
    published = store.published()
    checkpoint = parse_signed_checkpoint(published.note).checkpoint
    kept = []
    for witness, time_s in zip(log.witnesses, times, strict=True):
        for signer in witness.signers:
            line = cosign(checkpoint, signer, time_s=time_s).line
            kept.append(StoredCosignature(signer.name, signer.verifier.key_id, line, time_s))
    store.keep_cosignatures(published.size, kept, published_ms=None)


@pytest.mark.parametrize(
    ("quorum", "times", "ready"),
    [
        ("all", (1000, 1000, 1000), True),
        ("all", (820, 1000, 1000), True),
        ("all", (819, 1000, 1000), False),
        ("2", (0, 1000, 1000), True),
        ("2", (10, 10, 1000), False),
        ("any", (10, 10, 1000), True),
        ("any", (10, 10, 10), False),
    ],
)
def test_a_quorum_must_be_fresh_and_one_busy_witness_is_none(make_log, entry_maker, quorum, times, ready):
    log = make_log(witnesses=3)
    policy = log.folder / "witnesses.txt"
    policy.write_text(policy.read_text().replace("group all all", f"group all {quorum}"))
    service = log.open()
    service.submit(entry_maker(0), witnessed=True)
    service.publisher.stop()
    cosigned_at(log, times)
    report = health.report(service, now_ms=1_000_000)
    failed = [check.name for check in report.checks if not check.passed]
    assert failed == ([] if ready else ["quorum"])
    (age,) = [
        each
        for each in health.gauges(service, now_ms=1_000_000)
        if each.name == "assay_log_checkpoint_age_seconds"
    ]
    assert (age.value <= 180) is ready


def test_a_cosignature_that_does_not_verify_is_not_ready(make_log, entry_maker):
    from sqlalchemy import text

    log = make_log(witnesses=1)
    log.open().submit(entry_maker(0), witnessed=True)
    log.service.publisher.stop()
    log.witnesses[0].mode = "down"
    with log.service.store.engine.begin() as connection:
        connection.execute(
            text("UPDATE cosignature SET line = replace(line, substr(line, 80, 8), 'AAAAAAAA')")
        )
    answer = log.client().get("/readyz")
    assert answer.status_code == 503
    assert {check["name"] for check in answer.json["checks"] if check["result"] == "fail"} == {"quorum"}


def test_a_database_that_is_away_is_not_ready_and_no_fault_of_the_program(log, monkeypatch):
    from sqlalchemy.exc import OperationalError

    def away(*args, **kwargs):
        raise OperationalError("SELECT", {"leaf": b"secret"}, Exception("gone"))

    for name in (
        "latest",
        "published",
        "published_mark",
        "tile",
        "entry",
        "entries",
        "frozen_ms",
        "find_terms",
    ):
        monkeypatch.setattr(log.service.store, name, away)
    client = front(log)
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "fail" in {check["result"] for check in answer.json["checks"]}
    for path in (
        "/checkpoint",
        "/tile/0/000.p/1",
        "/tile/entries/000",
        "/api/v1/entries/0",
        "/api/v1/entries",
    ):
        answer = client.get(path)
        assert (answer.status_code, answer.json["code"]) == (503, "storage"), path
        assert answer.headers["Retry-After"]
        assert b"secret" not in answer.data
    answer = client.post("/api/v2/log/entries", data=b"{}")
    assert (answer.status_code, answer.json["code"], answer.json["details"]) == (503, 14, [])


@pytest.mark.parametrize("path", ["/checkpoint", "/tile/0/000.p/1", "/api/v1/log", "/api/v2/tile/0/000.p/1"])
def test_a_fault_of_ours_has_a_name_and_an_answer_everywhere(log, monkeypatch, path):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("secret")

    for name in ("latest", "published", "published_mark", "tile"):
        monkeypatch.setattr(log.service.store, name, broken)
    answer = front(log).get(path)
    assert (answer.status_code, answer.json["code"]) == (500, "internal")
    assert answer.json["request_id"] == answer.headers["X-Request-Id"]
    assert b"secret" not in answer.data
    assert "no-store" in answer.headers["Cache-Control"]


# --- freezing, checking


def test_freezing_on_the_command_line(log, entry_maker, capsys):
    log.service.submit(entry_maker(0), witnessed=False)
    assert cli.main(["log", "freeze", "--dir", str(log.folder), "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (first["origin"], first["size"]) == ("log.test.example", 1)
    assert cli.main(["log", "freeze", "--dir", str(log.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first
    client = front(log)
    assert client.post("/api/v1/entries", data=entry_maker(1)).status_code == 405
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json["frozen"]) == (200, first["frozen"])
    assert figure(client, "assay_log_frozen") == 1


def test_a_frozen_log_refuses_every_write_whatever_is_in_it_and_answers_every_read(log, entry_maker):
    import hashlib

    log.service.submit(entry_maker(0), witnessed=False)
    client = front(log)
    bearer = {"Authorization": f"Bearer {TokenFile(log.folder / 'tokens.toml').create('ci', now_ms=1)}"}
    before = client.get("/checkpoint").data
    log.service.store.freeze(now_ms=1)
    for body in (entry_maker(0), entry_maker(1), b"nonsense", b"", b"x" * 300_000):
        for path in ("/api/v1/entries", "/api/v1/entries?wait=nonsense", "/api/v1/entries/batch"):
            answer = client.post(path, data=body)
            assert (answer.status_code, answer.json["code"]) == (405, "frozen"), (path, body[:9])
            assert "GET" in answer.headers["Allow"]
            assert "POST" not in answer.headers["Allow"]
        rekor = client.post("/api/v2/log/entries", data=body)
        assert (rekor.status_code, rekor.json["code"]) == (405, 12)
        assert "POST" not in rekor.headers["Allow"]
    blob = f"/api/v1/blobs/sha256/{hashlib.sha256(b'x').hexdigest()}"
    answer = client.put(blob, data=b"x", headers=bearer)
    assert (answer.status_code, answer.json["code"]) == (405, "frozen")
    for path in ("/checkpoint", "/tile/0/000.p/1", "/api/v1/entries/0", "/api/v1/entries/0/proof", "/readyz"):
        assert client.get(path).status_code == 200, path
    assert client.get("/checkpoint").data == before


def test_what_was_accepted_before_freezing_is_not_called_frozen(make_log, entry_maker, monkeypatch):
    log = make_log(witnesses=1)
    service = log.open()

    def freeze_meanwhile(index, *, timeout_s):
        service.store.freeze(now_ms=1)

    monkeypatch.setattr(service, "wait_published", freeze_meanwhile)
    answer = log.client().post("/api/v1/entries?wait=witnessed", data=entry_maker(0))
    assert (answer.status_code, answer.json["code"], answer.json["index"]) == (503, "quorum-unavailable", 0)


def test_checking_says_what_a_start_would_say(log, entry_maker, capsys):
    log.service.submit(entry_maker(0), witnessed=False)
    log.close()
    assert cli.main(["log", "check", "--dir", str(log.folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["size"] == 1
    log.anchor.unlink()
    assert cli.main(["log", "check", "--dir", str(log.folder)]) == 1


# --- several logs in one process


def test_several_logs_live_under_their_own_prefixes(tmp_path, entry_maker):
    files = []
    for name, origin in (("a", "one.example"), ("b", "one.example/two")):
        assert cli.main(["log", "init", str(tmp_path / name), "--origin", origin]) == 0
        files.append(tmp_path / name / "log.toml")
    configs = worker.read_configs(files)
    assert [config.path_prefix for config in configs] == ["", "/two"]
    logs = [worker.open_log(file, config) for file, config in zip(files, configs, strict=True)]
    from assay.log_server.app import create_app

    client = Client(
        mount({config.path_prefix: create_app(log) for config, log in zip(configs, logs, strict=True)})
    )
    for log in logs:
        log.start()
    try:
        assert client.post("/two/api/v1/entries", data=entry_maker(0)).status_code == 201
        assert client.get("/api/v1/log").json["size"] == 0
        assert client.get("/two/api/v1/log").json["origin"] == "one.example/two"
        assert client.get("/two/checkpoint").data.startswith(b"one.example/two\n1\n")
        page = client.get("/two/", headers={"Accept": "text/html"}).data.decode()
        assert 'href="/two/entry/0"' in page
        assert client.get("/two/tile/0/000.p/1").status_code == 200
        assert client.get("/tile/0/000.p/1").status_code == 404
    finally:
        for log in logs:
            log.stop()


@pytest.mark.parametrize("same", ["origin", "key", "database"])
def test_two_logs_of_a_process_share_nothing(tmp_path, same, capsys):
    for name, origin in (("a", "one.example"), ("b", "two.example/x")):
        assert cli.main(["log", "init", str(tmp_path / name), "--origin", origin]) == 0
    file = tmp_path / "b" / "log.toml"
    change = {
        "origin": ('"two.example/x"', '"one.example"'),
        "key": ('"log.key"', f'"{tmp_path / "a" / "log.key"}"'),
        "database": ('"log.db"', f'"{tmp_path / "a" / "log.db"}"'),
    }[same]
    file.write_text(file.read_text().replace(*change))
    assert cli.main(["log", "serve", "--dir", str(tmp_path / "a"), "--dir", str(tmp_path / "b")]) == 1
    assert f"the same {same}" in capsys.readouterr().err


def test_two_plain_host_names_cannot_share_a_process(tmp_path, capsys):
    for name in ("a", "b"):
        assert cli.main(["log", "init", str(tmp_path / name), "--origin", f"{name}.example"]) == 0
    assert cli.main(["log", "serve", "--dir", str(tmp_path / "a"), "--dir", str(tmp_path / "b")]) == 1
    assert "the same path prefix" in capsys.readouterr().err


def test_a_clock_is_used_that_ticks_in_milliseconds():
    assert 1_700_000_000_000 < now_ms() < 10_000_000_000_000
    assert threading.active_count() >= 1


@pytest.mark.parametrize("path", ["/checkpoint", "/tile/0/000.p/1", "/api/v1/entries/0", "/api/v1/log"])
def test_a_database_that_does_not_answer_is_unavailable_and_not_a_fault(log, monkeypatch, path):
    from sqlalchemy.exc import OperationalError

    def fail(*args):
        raise OperationalError("select", {}, Exception("a secret address"))

    monkeypatch.setattr(log.service.store._database, "reading", fail)
    answer = front(log).get(path)
    assert (answer.status_code, answer.json["code"]) == (503, "storage")
    assert answer.headers["Retry-After"]
    assert b"secret" not in answer.data


def test_a_fault_of_ours_says_nothing_of_itself(log, monkeypatch, entry_maker):
    def fail(*args, **kwargs):
        raise RuntimeError("a secret")

    monkeypatch.setattr(log.service, "submit", fail)
    for path in ("/api/v1/entries", "/api/v2/log/entries"):
        answer = front(log).post(path, data=entry_maker(0))
        assert answer.status_code in (400, 500)
        assert b"secret" not in answer.data
    assert front(log).post("/api/v1/entries", data=entry_maker(0)).json["code"] == "internal"


def test_too_many_parameters_are_refused(log):
    query = "&".join(f"a{number}=1" for number in range(100))
    assert front(log).get(f"/checkpoint?{query}").json["code"] == "query"


def test_a_worker_that_starts_while_storage_is_away_waits_for_it(make_log, monkeypatch):
    log = make_log()
    opened, waited = worker.open_log, []

    def open_log(file, config):
        if len(waited) < 3:
            raise UnavailableError("the database is away", code="storage")
        log.service = opened(file, config)  # which the fixture stops
        return log.service

    monkeypatch.setattr(worker, "open_log", open_log)
    monkeypatch.setattr(worker.time, "sleep", waited.append)
    client = Client(worker.open_logs([log.file]))
    assert client.get("/livez").status_code == 200
    assert len(waited) == 3


def test_a_worker_whose_log_must_not_run_does_not_wait(make_log, monkeypatch):
    log = make_log()
    log.anchor.unlink()
    monkeypatch.setattr(worker.time, "sleep", lambda seconds: pytest.fail("it waits"))
    with pytest.raises(LogError) as refused:
        worker.open_logs([log.file])
    assert refused.value.code == "no-anchor"
