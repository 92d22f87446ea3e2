"""Publishing: nothing below the quorum, nobody waits for the slow, and what comes late is added."""

import random
import threading
import time

import pytest

from assay.log_server import config as configuration
from assay.log_server.publishing import Publications, Publisher
from assay.log_server.service import LogService
from assay.log_server.witnessing import WitnessClient, witnesses_of
from assay.tlog import tlog_proof
from assay.tlog.checkpoint import parse_signed_checkpoint
from assay.tlog.cosignature import verify_cosignature
from assay.tlog.errors import LogError, UnavailableError
from assay.tlog.policy import parse_policy, verify_cosigned_checkpoint


def quorum(log, threshold):
    """Ask for so many of the log's witnesses."""
    file = log.folder / "witnesses.txt"
    text = file.read_text()
    names = " ".join(f"g{number}" for number in range(len(log.witnesses)))
    file.write_text(text.replace(f"group all all {names}", f"group all {threshold} {names}"))


def wait_until(condition, *, timeout_s=15):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never came to that")


def cosigners(log):
    """Whose cosignatures the published checkpoint shows."""
    answer = log.client().get("/checkpoint")
    if answer.status_code != 200:
        return set()
    policy = parse_policy((log.folder / "witnesses.txt").read_bytes())
    return {each.key.name for each in verify_cosigned_checkpoint(answer.data, policy).cosignatures}


def test_extra_cosignatures_within_the_grace_are_published_at_once(make_log, entry_maker):
    log = make_log(witnesses=3)
    quorum(log, 1)
    log.file.write_text(log.file.read_text() + "grace_s = 2.0\n")
    service = log.open()
    service.submit(entry_maker(0), witnessed=True)
    assert len(cosigners(log)) == 3


def test_a_hanging_witness_delays_nobody_and_is_added_when_it_comes(make_log, entry_maker):
    log = make_log(witnesses=3)
    quorum(log, 2)
    log.file.write_text(log.file.read_text().replace("request_timeout_s = 1.0", "request_timeout_s = 20.0"))
    log.witnesses[2].mode = "slow"  # three seconds
    service = log.open()
    submitted = service.submit(entry_maker(0), witnessed=True)
    assert submitted.index == 0
    assert log.witnesses[2].name not in cosigners(log)
    wait_until(lambda: log.witnesses[2].name in cosigners(log))


def test_a_restarted_log_knows_what_its_witnesses_have_cosigned(make_log, entry_maker):
    log = make_log(witnesses=1)
    log.open().submit(entry_maker(0), witnessed=True)
    log.service.submit(entry_maker(1), witnessed=True)
    policy = log.service.policy
    client = WitnessClient(witnesses_of(policy)[0], store=log.service.store, timeout_s=1)
    assert client._cosigned_size == 2


@pytest.mark.parametrize("behind", [True, False])
def test_a_witness_that_was_set_back_or_is_ahead_of_our_memory_is_asked_again(make_log, entry_maker, behind):
    log = make_log(witnesses=1)
    service = log.open()
    service.submit(entry_maker(0), witnessed=True)
    service.submit(entry_maker(1), witnessed=True)
    service._clients[0]._cosigned_size = 1 if behind else 0
    assert service.submit(entry_maker(2), witnessed=True).index == 2


def test_under_constant_growth_and_slow_witnesses_publication_goes_on(make_log, entry_maker):
    log = make_log(witnesses=2)
    service = log.open()
    stop = threading.Event()
    for number, witness in enumerate(log.witnesses):
        answer = witness.answer
        witness.answer = lambda body, a=answer, n=number: (time.sleep(0.1 + 0.15 * n), a(body))[1]

    def grow():
        number = 0
        while not stop.is_set():
            service.submit(entry_maker(number), witnessed=False)
            number += 1

    thread = threading.Thread(target=grow)
    thread.start()
    seen = set()
    try:
        deadline = time.monotonic() + 20
        while len(seen) < 5 and time.monotonic() < deadline:
            published = service.store.published()
            seen.add(published.size if published else None)
            time.sleep(0.05)
    finally:
        stop.set()
        thread.join()
    assert len(seen - {None}) >= 4


def test_another_process_sees_what_the_publisher_publishes(make_log, entry_maker):
    log = make_log(witnesses=1)
    first = log.open()
    second = LogService(configuration.load(log.file), folder=log.folder)
    second.start()
    try:
        for number in range(6):
            service = (first, second)[number % 2]
            assert service.submit(entry_maker(number), witnessed=True).index == number
    finally:
        second.stop()


def test_no_thread_is_left(make_log, entry_maker):
    before = set(threading.enumerate())
    log = make_log(witnesses=2)
    own = set(threading.enumerate()) - before  # the witnesses' own servers
    log.open().submit(entry_maker(0), witnessed=True)
    log.close()
    left = [each for each in threading.enumerate() if each not in before | own and each.name != "Thread-1"]
    assert [each.name for each in left if "process_request" not in each.name] == []


def test_the_log_re_cosigns_without_growing(make_log, entry_maker):
    log = make_log(witnesses=1)
    log.file.write_text(log.file.read_text() + "recosign_interval_s = 1.0\n")
    service = log.open()
    service.submit(entry_maker(0), witnessed=True)
    first = service.store.published_mark()
    wait_until(lambda: service.store.published_mark()[1] > first[1])
    assert service.store.published_mark()[0] == 1


def test_one_witness_that_lies_about_its_size_does_not_stop_the_log(make_log, entry_maker):
    log = make_log(witnesses=2)
    quorum(log, 1)
    log.witnesses[0].mode = "conflict"
    service = log.open()
    assert service.submit(entry_maker(0), witnessed=True).index == 0
    log.close()
    assert log.open().submit(entry_maker(1), witnessed=True).index == 1


def test_a_cosignature_of_another_time_is_none(make_log, entry_maker):
    log = make_log(witnesses=1)
    witness = log.witnesses[0]

    def answer_of_the_past(body, when):
        return 200, witness.witness.add_checkpoint(body, now_s=lambda: when)

    for when in (1, int(time.time()) - 3600, int(time.time()) + 3600):
        witness.answer = lambda body, when=when: answer_of_the_past(body, when)
        client = None
        service = log.open()
        client = service._clients[0]
        signed = service.newest()
        from assay.tlog.checkpoint import Checkpoint

        checkpoint = Checkpoint("log.test.example", signed.size, signed.root)
        with pytest.raises(LogError):
            client.cosign(signed, checkpoint, now_ms=time.time_ns() // 1_000_000)
        assert service.store.published() is None
        log.close()


class Scripted:
    """A client that answers as it is told, with real cosignatures."""

    def __init__(self, client, chance):
        self.witness = client.witness
        self._client, self._chance = client, chance
        self.recall = client.recall

    def cosign(self, signed, checkpoint, *, now_ms):
        time.sleep(self._chance.choice([0, 0, 0.01, 0.03]))
        if self._chance.random() < 0.5:
            raise UnavailableError("not now")
        return self._client.cosign(signed, checkpoint, now_ms=now_ms)


class Counted:
    def __init__(self):
        self.sizes = []

    def witness_answered(self, name, result):
        pass

    def published(self, size, seconds):
        self.sizes.append(size)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_witnesses_answer_nothing_below_the_quorum_is_published(make_log, entry_maker, seed):
    chance = random.Random(seed)
    log = make_log(witnesses=3)
    quorum(log, 2)
    service = log.open()
    for role in service._roles:
        role.stop()
    counted = Counted()
    publisher = Publisher(
        store=service.store,
        policy=service.policy,
        clients=[Scripted(client, chance) for client in service._clients],
        newest=service.newest,
        limits=service.config.witnesses.model_copy(update={"round_timeout_s": 0.2, "retry_interval_s": 0.02}),
        now_ms=lambda: time.time_ns() // 1_000_000,
        publications=Publications(service.store),
        observer=counted,
    )
    publisher.start()
    try:
        for number in range(12):
            service.submit(entry_maker(number), witnessed=False)
            publisher.offer()
            time.sleep(chance.random() * 0.1)
        wait_until(lambda: 12 in counted.sizes)
    finally:
        publisher.stop()
    for stored in service.store.checkpoints(before=None, limit=100):
        if stored.published_ms is None:
            continue
        lines = "".join(each.line for each in service.store.cosignatures(stored.size))
        verify_cosigned_checkpoint(stored.note + lines.encode(), service.policy)
    assert counted.sizes == sorted(counted.sizes)
    service._roles = []


def cosigned_times(note, log):
    """The times at which the witnesses of a note cosigned it, by key."""
    signed = parse_signed_checkpoint(note)
    return {
        signer.verifier.key_id: verify_cosignature(signed.checkpoint, line, signer.verifier).time_s
        for witness in log.witnesses
        for signer in witness.signers
        for line in signed.note.signatures
        if line.is_by(signer.verifier)
    }


def test_a_checkpoint_shows_its_newest_cosignatures_and_a_proof_the_first(make_log, entry_maker):
    log = make_log(witnesses=1)
    log.file.write_text(log.file.read_text() + "recosign_interval_s = 1.0\n")
    log.open()
    client = log.client()
    assert client.post("/api/v1/entries?wait=witnessed", data=entry_maker(0)).status_code == 201

    def shown():
        proof = tlog_proof.parse_proof(client.get("/api/v1/entries/0/proof").data)
        return cosigned_times(proof.checkpoint, log), cosigned_times(client.get("/checkpoint").data, log)

    first, _ = shown()
    assert len(first) == 2
    wait_until(lambda: min(shown()[1].values()) > max(first.values()))
    assert shown()[0] == first
