"""The agent's log: whatever does not verify under the measured policy is not believed, and says why."""

import contextlib
import json

import pytest

from assay.enclave.log_link import LogLink, RefusedError
from assay.tlog.checkpoint import parse_signed_checkpoint
from assay.tlog.errors import (
    InconsistentError,
    LogError,
    MalformedError,
    UnavailableError,
    UntrustedError,
)
from assay.tlog.merkle import leaf_hash
from assay.tlog.policy import parse_policy, verify_cosigned_checkpoint
from assay.tlog.strict import base64_text


@pytest.fixture
def link(fake_log, policy):
    return LogLink(fake_log.url + "/", policy=policy, monotonic_s=iter(range(0, 10**9, 100)).__next__)


def test_an_entry_is_submitted_and_its_proof_verified(fake_log, link):
    for n in range(5):
        logged = link.submit(b"entry %d" % n)
        assert (logged.index, logged.leaf) == (n, b"entry %d" % n)
        assert logged.leaf_hash == leaf_hash(logged.leaf)
    assert set(fake_log.paths) == {"/api/v1/entries?wait=witnessed"}


def test_submitting_twice_is_harmless(link):
    assert link.submit(b"x").index == link.submit(b"x").index == 0


def test_without_a_quorum_no_witness_is_waited_for(fake_log, policy):
    from assay.tlog.policy import format_policy

    none = parse_policy(format_policy(policy).replace("quorum q", "quorum none"))
    fake_log.witnesses = ()
    link = LogLink(fake_log.url, policy=none)
    link.submit(b"x")
    assert fake_log.paths == ["/api/v1/entries?wait=integrated"]
    assert link.head().cosigned_at_s == 0


def other_leaf(log, answer):
    log.leaves += [b"more", b"even more"]
    return {**answer, "proof": log.prove(1)}


def other_log(log, answer):
    keys = log.log_keys
    log.log_keys = tuple(type(key)(key.name, key.type, bytes(32)) for key in keys)
    return {**answer, "proof": log.prove(0)}


def one_witness(log, answer):
    log.witnesses = log.witnesses[:1]
    return {**answer, "proof": log.prove(0)}


def one_log_key(log, answer):
    log.log_keys = log.log_keys[:1]
    return {**answer, "proof": log.prove(0)}


def no_leaf_of_ours(log, answer):
    return {**answer, "leaf": base64_text(b"another leaf")}


UNTRUSTED = {f.__name__: f for f in (other_leaf, other_log, one_witness, one_log_key, no_leaf_of_ours)}


@pytest.mark.parametrize("name", UNTRUSTED)
def test_what_proves_something_else_is_untrusted(fake_log, link, name):
    fake_log.tamper = lambda answer: UNTRUSTED[name](fake_log, answer)
    with pytest.raises(UntrustedError) as caught:
        link.submit(b"entry")
    assert not isinstance(caught.value, RefusedError)


@pytest.mark.parametrize(
    "change",
    [
        {"proof": None},
        {"proof": 7},
        {"proof": ""},
        {"proof": "nonsense"},
        {"leaf": None},
        {"leaf": [1]},
        {"leaf": "AB=="},
        {"leaf": "!"},
    ],
)
def test_answers_without_leaf_and_proof_are_malformed(fake_log, link, change):
    fake_log.tamper = lambda answer: {**answer, **change}
    with pytest.raises(MalformedError):
        link.submit(b"entry")


def test_every_hundredth_flip_of_an_answer_is_no_proof_of_the_entry(fake_log, link):
    """A flip within an unused field, or one that makes a cosignature another's, need not matter to the entry."""
    fake_log.leaves += [b"one", b"two"]
    body = json.dumps(fake_log.submit(b"entry"), separators=(",", ":")).encode()
    for at in range(0, len(body), 97):
        changed = body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]
        fake_log.instead = lambda method, path, data, changed=changed: (201, changed)
        with contextlib.suppress(MalformedError, UntrustedError, UnavailableError):
            assert link.submit(b"entry").leaf == b"entry"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b'"x"',
        b"\xff",
        b'{"proof":"\\ud800","leaf":""}',
        b"[" * 100_000,
        b'{"a":1.5}',
    ],
)
@pytest.mark.parametrize("status", [200, 201, 400, 409, 500, 503])
def test_what_is_no_json_of_a_log_is_unavailable(fake_log, link, status, body):
    fake_log.instead = lambda method, path, data: (status, body)
    with pytest.raises(UnavailableError):
        link.submit(b"entry")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_log_that_may_do_better_later_is_unavailable(fake_log, link, status):
    fake_log.down(status)
    with pytest.raises(UnavailableError):
        link.submit(b"entry")


@pytest.mark.parametrize("status", [400, 403, 409, 422])
def test_a_refusal_passes_the_logs_code_on(fake_log, link, status):
    fake_log.down(status, "unknown-boot")
    with pytest.raises(RefusedError) as caught:
        link.submit(b"entry")
    assert caught.value.code == "unknown-boot"
    assert isinstance(caught.value, UntrustedError)


@pytest.mark.parametrize("code", [None, 7, "", "UPPER", "a b", "a\nb", "x" * 65, ["a"]])
def test_a_refusal_without_a_code_is_not_the_logs(fake_log, link, code):
    fake_log.instead = lambda method, path, body: (400, json.dumps({"code": code}).encode())
    with pytest.raises(UnavailableError):
        link.submit(b"entry")


def test_a_refusals_words_are_quoted_short_and_in_one_line(fake_log, link):
    answer = json.dumps({"code": "no", "detail": "a\nb" * 1000}).encode()
    fake_log.instead = lambda method, path, body: (400, answer)
    with pytest.raises(RefusedError) as caught:
        link.submit(b"entry")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_nobody_there_is_unavailable(fake_log, link):
    fake_log.close()
    with pytest.raises(UnavailableError):
        link.submit(b"entry")
    with pytest.raises(UnavailableError):
        link.head()


def test_the_head_is_the_newest_verified_checkpoint(fake_log, link):
    for size in (0, 1, 2, 5, 5, 9):
        fake_log.leaves = [b"%d" % n for n in range(size)]
        fake_log.time_s += 1
        head = link.head()
        checkpoint = parse_signed_checkpoint(fake_log.checkpoint()).checkpoint
        assert (head.size, head.root, head.cosigned_at_s) == (size, checkpoint.root, fake_log.time_s)


def test_a_head_is_used_again_for_two_seconds(fake_log, policy):
    now = [0.0]
    link = LogLink(fake_log.url, policy=policy, monotonic_s=lambda: now[0])
    assert link.head().size == 0
    fake_log.leaves.append(b"x")
    now[0] = 1.9
    assert link.head().size == 0
    now[0] = 2.1
    assert link.head().size == 1


@pytest.mark.parametrize("name", ["other_log", "one_witness", "one_log_key"])
def test_a_head_that_the_policy_does_not_vouch_for_is_untrusted_and_not_kept(fake_log, link, name):
    before = fake_log.log_keys, fake_log.witnesses
    fake_log.leaves = [b"a"]
    UNTRUSTED[name](fake_log, {})
    with pytest.raises(UntrustedError):
        link.head()
    fake_log.log_keys, fake_log.witnesses = before
    assert link.head().size == 1


def test_a_shrunken_log_is_not_followed(fake_log, link):
    fake_log.leaves = [b"a", b"b", b"c"]
    assert link.head().size == 3
    fake_log.leaves = [b"a", b"b"]
    with pytest.raises(UnavailableError):
        link.head()
    fake_log.leaves = [b"a", b"b", b"c", b"d"]
    assert link.head().size == 4


@pytest.mark.parametrize("size", [3, 4, 7])
def test_a_fork_is_shown_with_both_signed_checkpoints(fake_log, link, policy, size):
    served, checkpoint = [], fake_log.checkpoint

    def serve():
        served.append(checkpoint())
        return served[-1]

    fake_log.checkpoint = serve
    fake_log.leaves = [b"a", b"b", b"c"]
    link.head()
    fake_log.leaves = [b"%d" % n for n in range(size)]
    for _ in range(2):
        with pytest.raises(InconsistentError) as caught:
            link.head()
        assert caught.value.evidence == {"seen": served[0], "new": served[-1]}
    one, two = (
        verify_cosigned_checkpoint(data, policy).checkpoint for data in caught.value.evidence.values()
    )
    assert one.root != two.root


@pytest.mark.parametrize(
    "answer",
    [
        b"{}",
        b'{"hashes":7}',
        b'{"hashes":["AA=="]}',
        b'{"hashes":[null]}',
        json.dumps({"hashes": [""] * 65}).encode(),
    ],
)
def test_a_growth_without_a_proof_is_not_followed(fake_log, link, answer):
    fake_log.leaves = [b"a", b"b", b"c"]
    link.head()
    fake_log.leaves.append(b"d")
    fake_log.instead = lambda method, path, body: (200, answer) if "consistency" in path else None
    with pytest.raises(LogError):
        link.head()
    fake_log.up()
    assert link.head().size == 4


def test_a_consistency_proof_that_does_not_come_leaves_the_old_head(fake_log, link):
    fake_log.leaves = [b"a"]
    link.head()
    fake_log.leaves.append(b"b")
    fake_log.instead = lambda method, path, body: (503, b"") if "consistency" in path else None
    with pytest.raises(UnavailableError):
        link.head()


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\xff", b"\n" * 100])
def test_a_checkpoint_that_is_none_is_malformed(fake_log, link, data):
    fake_log.instead = lambda method, path, body: (200, data)
    with pytest.raises(MalformedError):
        link.head()


def test_a_url_that_is_none_is_malformed(policy):
    for url in ("", "log.example", "ftp://log.example", "file:///etc/passwd", "http://a:b@log.example"):
        with pytest.raises(MalformedError):
            LogLink(url, policy=policy).submit(b"x")
