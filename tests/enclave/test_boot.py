"""Boots: the key lasts, the boot id does not, and nothing serves before the log has its registration."""

import pytest

from assay.attest import claims, entry, jcs, p256
from assay.attest.entry import EnclaveSubmission
from assay.attest.quote import sgx
from assay.enclave.boot import Boot, SealedState, open_state
from assay.enclave.log_link import LogLink, RefusedError
from assay.enclave.sealing import SealedFile
from assay.tlog.errors import LogError, MalformedError, UnavailableError, UntrustedError
from assay.tlog.merkle import Hash
from assay.tlog.strict import base64_bytes, base64_text


@pytest.fixture
def file(tmp_path):
    return SealedFile(tmp_path / "agent.sealed", seal_key=bytes(16))


@pytest.fixture
def boot(file, platform, make_measured):
    return Boot(make_measured(), platform, open_state(file))


@pytest.fixture
def link(fake_log, policy):
    return LogLink(fake_log.url, policy=policy)


def test_the_key_lasts_and_the_boot_id_does_not(boot_enclave):
    one, two = boot_enclave(), boot_enclave()
    assert one.boot.enclave_id == two.boot.enclave_id
    assert one.boot.boot_id != two.boot.boot_id
    assert one.registration.leaf_hash != two.registration.leaf_hash
    assert boot_enclave("another").boot.enclave_id != one.boot.enclave_id


def test_the_evidence_binds_key_claims_and_nonce(boot, make_measured, platform):
    nonce = bytes(range(32))
    attested = boot.attest(nonce)
    evidence, measured = attested.evidence, make_measured()
    claims.verify_possession(evidence)
    body = sgx.parse_quote(evidence.quote).body
    said = claims.verify_binding(evidence, quoted_report_data=body.report_data)
    assert body.mr_enclave == platform.mr_enclave
    assert (said.nonce, said.boot_id, said.log_origin) == (nonce, boot.boot_id, "log.example")
    assert (said.config_sha256, said.log_policy_sha256) == (
        measured.config_sha256,
        measured.log_policy_sha256,
    )
    assert said.hpke_public_key == attested.hpke_key.public_key().public_bytes_raw()


def test_neither_key_is_in_a_repr(boot):
    shown = repr(boot.attest(None)) + repr(boot._state)
    assert "PrivateKey" not in shown


@pytest.mark.parametrize(
    "change",
    [
        lambda quote: b"garbage" * 50,
        lambda quote: quote[:-1],
        lambda quote: quote[:400],
        lambda quote: quote + b"\0",
        lambda quote: quote[:368] + bytes(64) + quote[432:],
    ],
)
def test_a_platform_that_quotes_nothing_or_something_else_gives_no_quote(boot, platform, change):
    platform.change = change
    with pytest.raises(UnavailableError) as caught:
        boot.attest(None)
    assert caught.value.code == "no-quote"


def test_a_registration_without_nonce_is_submitted_and_comes_back_appraised(boot, link, fake_log, platform):
    logged = boot.register(link)
    (submitted,) = fake_log.submitted
    submission = entry.parse_entry(submitted)
    assert isinstance(submission, EnclaveSubmission)
    assert submission.evidence.claims.nonce is None
    assert entry.parse_entry(logged.leaf).evidence == submission.evidence
    assert boot.mr_enclave(logged.leaf) == platform.mr_enclave


class Clock:
    def __init__(self):
        self.now_s, self.pauses = 0.0, []

    def pause(self, duration_s):
        assert duration_s > 0
        self.pauses.append(duration_s)
        self.now_s += duration_s

    def monotonic_s(self):
        return self.now_s


def test_a_log_that_comes_back_in_time_is_waited_for_longer_and_longer(boot, link, fake_log):
    clock, failures = Clock(), [503] * 7
    fake_log.instead = lambda method, path, body: (failures.pop(), b"{}") if failures else None
    boot.register(link, pause=clock.pause, monotonic_s=clock.monotonic_s)
    assert clock.pauses == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    assert len(fake_log.submitted) == 1


def test_a_log_that_stays_away_is_unavailable_after_the_measured_wait(boot, link, fake_log):
    clock = Clock()
    fake_log.down()
    with pytest.raises(UnavailableError):
        boot.register(link, pause=clock.pause, monotonic_s=clock.monotonic_s)
    assert clock.now_s == pytest.approx(30)


def test_slow_failures_count_as_waiting(boot, link, fake_log):
    clock = Clock()

    def slow(method, path, body):
        clock.now_s += 20
        return 503, b"{}"

    fake_log.instead = slow
    with pytest.raises(UnavailableError):
        boot.register(link, pause=clock.pause, monotonic_s=clock.monotonic_s)
    assert len(fake_log.paths) == 2


def test_the_same_evidence_is_submitted_at_every_attempt(boot, link, fake_log):
    seen = []

    def watch(method, path, body):
        seen.append(body)
        return (503, b"{}") if len(seen) < 3 else None

    fake_log.instead = watch
    boot.register(link, pause=lambda _: None)
    assert len(seen) == 3
    assert len(set(seen)) == 1


def test_a_refused_registration_is_not_tried_again(boot, link, fake_log):
    fake_log.down(400, "wrong-root")
    with pytest.raises(RefusedError) as caught:
        boot.register(link)
    assert caught.value.code == "wrong-root"
    assert len(fake_log.paths) == 1


def test_another_boots_registration_is_not_ours(boot, boot_enclave, link, fake_log):
    other = boot_enclave("other").registration
    fake_log.tamper = lambda answer: {**answer, "leaf": base64_text(other.leaf), "proof": fake_log.prove(0)}
    with pytest.raises(UntrustedError) as caught:
        boot.register(link)
    assert caught.value.code == "other-entry"


def test_an_entry_that_is_no_registration_is_not_ours(boot, link, fake_log):
    def submission_itself(answer):
        fake_log.leaves = [fake_log.submitted[-1]]
        return {**answer, "leaf": base64_text(fake_log.leaves[0]), "proof": fake_log.prove(0)}

    fake_log.tamper = submission_itself
    with pytest.raises(UntrustedError) as caught:
        boot.register(link)
    assert caught.value.code == "other-entry"


def test_a_leaf_that_is_no_entry_is_refused(boot, link, fake_log):
    def nonsense(answer):
        fake_log.leaves = [b"nonsense"]
        return {**answer, "leaf": base64_text(b"nonsense"), "proof": fake_log.prove(0)}

    fake_log.tamper = nonsense
    with pytest.raises(LogError):
        boot.register(link)


def test_the_next_boot_names_the_last_receipt(boot_enclave):
    first = boot_enclave()
    assert entry.parse_entry(first.registration.leaf).evidence.claims.last_receipt is None
    peer = first.connect()
    peer.collect(*peer.ask(peer.hello()))
    second = boot_enclave()
    last = entry.parse_entry(second.registration.leaf).evidence.claims.last_receipt
    assert last == first.state.last_receipt is not None
    assert peer.hello().claims.last_receipt == last


def test_sealed_state_reads_back(file):
    state = open_state(file)
    assert (state.last_receipt, state.last_index) == (None, None)
    assert state.advance(7, Hash(b"a" * 32))
    state.save(file)
    again = open_state(file)
    assert p256.private_pem(again.key) == p256.private_pem(state.key)
    assert (again.last_receipt, again.last_index) == (b"a" * 32, 7)


def test_the_last_receipt_never_goes_back(p256_key):
    state = SealedState(p256_key, None, None)
    assert state.advance(5, Hash(b"5" * 32))
    for index in (0, 4, 5):
        assert not state.advance(index, Hash(b"x" * 32))
    assert (state.last_index, state.last_receipt) == (5, b"5" * 32)
    assert state.advance(6, Hash(b"6" * 32))


@pytest.mark.parametrize(
    "change",
    [
        {"key": None},
        {"key": ""},
        {"key": base64_text(b"no pem")},
        {"last_receipt": "00" * 31},
        {"last_receipt": "00" * 32},
        {"last_index": 3},
        {"last_index": -1, "last_receipt": "00" * 32},
        {"last_index": True, "last_receipt": "00" * 32},
        {"more": 1},
    ],
)
def test_other_state_is_refused_and_kept(file, change):
    open_state(file)
    value = jcs.parse_canonical(file.read(), what="state", max_bytes=10_000)
    assert base64_bytes(value["key"], what="key").startswith(b"-----BEGIN PRIVATE KEY")
    content = jcs.canonical({**value, **change})
    file.write(content)
    with pytest.raises(MalformedError):
        open_state(file)
    assert file.read() == content
