"""The log keeps its word: what is acknowledged stays, there is one history, and anyone can re-read all of it."""

import json
import random
import shutil
import threading
import time

import pytest
from sqlalchemy import create_engine, text

from assay import cli
from assay.log_server import config as configuration
from assay.log_server.batch import Batch
from assay.log_server.service import LogService
from assay.tlog import merkle, tlog_proof
from assay.tlog.errors import InconsistentError, LogError, MalformedError, UnavailableError, UntrustedError
from assay.tlog.policy import parse_policy


def fetcher(client):
    def fetch(path):
        response = client.get(path)
        assert response.status_code == 200, (path, response.data)
        return response.data

    return fetch


def submit_all(log, numbers, make):
    """Submit concurrently, as clients do; returns index by number."""
    indices = {}

    def one(number):
        indices[number] = log.service.submit(make(number), witnessed=False).index

    threads = [threading.Thread(target=one, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return indices


def test_an_independent_reader_reads_every_size_it_is_grown_to(make_log, database, entry_maker, audit):
    log = make_log(database=database)
    log.open()
    client, chance = log.client(), random.Random(7)
    fetch, submitted = fetcher(client), 0
    while submitted < 600:
        grown = min(chance.choice([1, 1, 2, 7, 40, 120]), 600 - submitted)
        indices = submit_all(log, range(submitted, submitted + grown), entry_maker)
        assert sorted(indices.values()) == list(range(submitted, submitted + grown))
        submitted += grown
        size, _, entries = audit.check(fetch, fetch("/checkpoint"), log.vkeys)
        assert size == submitted
        for number, index in indices.items():
            assert entries[index] == entry_maker(number)


def test_partial_tiles_of_every_earlier_checkpoint_stay_readable(make_log, database, entry_maker, audit):
    log = make_log(database=database)
    log.open()
    client = log.client()
    for number in range(20):
        log.service.submit(entry_maker(number), witnessed=False)
    for stored in log.service.store.checkpoints(before=None, limit=100):
        audit.check(fetcher(client), stored.note, log.vkeys)


def test_the_same_entry_again_is_success_with_the_same_index(make_log, database, entry_maker):
    log = make_log(database=database)
    log.open()
    client = log.client()
    first = client.post("/api/v1/entries", data=entry_maker(1))
    again = client.post("/api/v1/entries", data=entry_maker(1))
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json["index"] == again.json["index"]
    assert tlog_proof.parse_proof(again.json["proof"].encode()).index == first.json["index"]


def test_twenty_identical_submissions_at_once_are_one_entry(make_log, database, entry_maker):
    log = make_log(database=database)
    log.open()
    results = []

    def one():
        results.append(log.service.submit(entry_maker(5), witnessed=False))

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {each.index for each in results} == {0}
    assert sum(each.new for each in results) == 1
    assert log.service.newest().size == 1


@pytest.mark.parametrize("step", ["append", "sign"])
def test_a_failed_commit_acknowledges_nothing_and_the_next_works(
    make_log, entry_maker, audit, monkeypatch, step
):
    log = make_log()
    log.open()
    log.service.submit(entry_maker(0), witnessed=False)

    def fail(*args, **kwargs):
        raise OSError("disk")

    with monkeypatch.context() as patch:
        patch.setattr(Batch, step, fail)
        with pytest.raises(UnavailableError) as refused:
            log.service.submit(entry_maker(1), witnessed=False)
    assert refused.value.code == "not-stored"
    assert log.service.submit(entry_maker(2), witnessed=False).index == 1
    client = log.client()
    assert len(audit.check(fetcher(client), fetcher(client)("/checkpoint"), log.vkeys)[2]) == 2


def test_no_proof_leaves_before_its_anchor(make_log, database, entry_maker, monkeypatch):
    log = make_log(database=database)
    service = log.open()
    anchored = log.anchor.read_bytes()

    def fail(expected, new):
        raise OSError("anchor's disk")

    with monkeypatch.context() as patch:
        patch.setattr(service._anchoring._anchor, "swap", fail)
        for _ in range(2):  # the second is a duplicate, and must not get a proof either
            with pytest.raises(UnavailableError):
                service.submit(entry_maker(0), witnessed=False)
        assert service.newest().size == 0
    assert log.anchor.read_bytes() == anchored
    assert service.submit(entry_maker(0), witnessed=False).index == 0
    assert b"\n1\n" in log.anchor.read_bytes()


def test_a_start_lets_the_anchor_catch_up_with_the_database(make_log, database, entry_maker):
    log = make_log(database=database)
    before = log.anchor.read_bytes()
    log.open().submit(entry_maker(0), witnessed=False)
    log.close()
    log.anchor.write_bytes(before)  # as if the crash had come between commit and anchor
    log.open()
    assert b"\n1\n" in log.anchor.read_bytes()


def test_a_restored_backup_is_refused(make_log, entry_maker, tmp_path, capsys):
    log = make_log()
    log.open().submit(entry_maker(0), witnessed=False)
    log.close()
    shutil.copytree(log.folder, tmp_path / "backup")
    log.open().submit(entry_maker(1), witnessed=False)
    log.close()
    shutil.rmtree(log.folder)
    shutil.copytree(tmp_path / "backup", log.folder)
    with pytest.raises(InconsistentError) as refused:
        log.open()
    assert refused.value.code == "behind-anchor"
    assert set(refused.value.evidence) == {"known", "database"}
    assert cli.main(["log", "serve", "--dir", str(log.folder)]) == 1
    assert "behind-anchor" in capsys.readouterr().err


def test_another_history_of_the_same_size_is_refused(make_log, entry_maker, tmp_path):
    log = make_log()
    log.open()
    log.close()
    shutil.copytree(log.folder, tmp_path / "twin")
    log.open().submit(entry_maker(0), witnessed=False)
    log.close()
    anchored = log.anchor.read_bytes()
    shutil.rmtree(log.folder)
    shutil.copytree(tmp_path / "twin", log.folder)
    log.anchor.write_bytes(
        (tmp_path / "twin" / "x").read_bytes() if (tmp_path / "twin" / "x").exists() else b""
    )
    with pytest.raises(LogError):
        log.open()
    log.anchor.write_bytes(anchored)
    with pytest.raises(InconsistentError):
        log.open()


def test_a_missing_anchor_is_not_a_fresh_log(make_log, database):
    log = make_log(database=database)
    log.anchor.unlink()
    with pytest.raises(UntrustedError) as refused:
        log.open()
    assert refused.value.code == "no-anchor"
    assert cli.main(["log", "serve", "--dir", str(log.folder)]) == 1


def test_a_witness_that_saw_more_stops_the_start(make_log, entry_maker, tmp_path):
    log = make_log(witnesses=1)
    log.open().submit(entry_maker(0), witnessed=True)
    log.close()
    shutil.copytree(log.folder, tmp_path / "backup")
    anchored = log.anchor.read_bytes()
    log.open().submit(entry_maker(1), witnessed=True)
    log.close()
    shutil.rmtree(log.folder)
    shutil.copytree(tmp_path / "backup", log.folder)
    log.anchor.write_bytes(anchored)  # the anchor was restored with the database: only the witness knows
    with pytest.raises(InconsistentError) as refused:
        log.open()
    assert "the witness" in str(refused.value)


def test_without_a_reachable_witness_it_starts_and_publishes_nothing_new(make_log, entry_maker):
    log = make_log(witnesses=1, extra="witnessed_timeout_s = 0.3\n")
    log.witnesses[0].mode = "down"
    service = log.open()
    assert service.submit(entry_maker(0), witnessed=False).index == 0
    assert log.client().get("/checkpoint").status_code == 404


def witness_policy(log):
    return parse_policy((log.folder / "witnesses.txt").read_text())


@pytest.mark.parametrize("mode", ["down", "garbage", "conflict", "empty", "forged", "slow"])
def test_a_witness_that_fails_means_503_the_entry_stays_and_a_retry_succeeds(make_log, entry_maker, mode):
    log = make_log(witnesses=2, extra="witnessed_timeout_s = 0.6\n")
    log.open()
    client = log.client()
    assert client.post("/api/v1/entries?wait=witnessed", data=entry_maker(0)).status_code == 201
    log.witnesses[1].mode = mode
    began = time.monotonic()
    refused = client.post("/api/v1/entries?wait=witnessed", data=entry_maker(1))
    assert refused.status_code == 503
    assert time.monotonic() - began < 5
    problem = refused.json
    assert problem["code"] == "quorum-unavailable"
    assert refused.content_type == "application/problem+json"
    assert refused.headers["Retry-After"]
    integrated = tlog_proof.parse_proof(problem["proof"].encode())
    leaf = merkle.leaf_hash(entry_maker(1))
    assert (problem["index"], problem["leaf_hash"]) == (1, leaf.hex())
    with pytest.raises(LogError):  # proves inclusion to the log's own signature, not to a quorum
        tlog_proof.verify_proof(integrated, leaf=leaf, policy=witness_policy(log))
    assert client.get("/api/v1/entries/1").status_code == 200
    log.witnesses[1].mode = "good"
    deadline = time.monotonic() + 20
    while (again := client.post("/api/v1/entries?wait=witnessed", data=entry_maker(1))).status_code == 503:
        assert time.monotonic() < deadline
    assert again.status_code == 200
    proof = tlog_proof.parse_proof(again.json["proof"].encode())
    verified = tlog_proof.verify_proof(proof, leaf=leaf, policy=witness_policy(log))
    assert verified.index == 1


def test_witnessed_proofs_are_against_the_smallest_published_checkpoint_that_covers(make_log, entry_maker):
    log = make_log(witnesses=1)
    log.open()
    client = log.client()
    sizes = []
    for number in range(3):
        answer = client.post("/api/v1/entries?wait=witnessed", data=entry_maker(number)).json
        sizes.append(tlog_proof.parse_proof(answer["proof"].encode()).checkpoint.split(b"\n")[1])
    again = client.post("/api/v1/entries?wait=witnessed", data=entry_maker(0)).json
    assert tlog_proof.parse_proof(again["proof"].encode()).checkpoint.split(b"\n")[1] == sizes[0] == b"1"


def test_without_witnesses_there_is_no_quorum_to_wait_for(make_log, entry_maker):
    log = make_log()
    log.open()
    answer = log.client().post("/api/v1/entries?wait=witnessed", data=entry_maker(0))
    assert (answer.status_code, answer.json["code"]) == (400, "no-quorum")


def test_a_full_queue_pushes_back(make_log, entry_maker, monkeypatch):
    log = make_log(extra="[sequencer]\nmax_queue = 1\n")
    service = log.open()
    gate = threading.Event()
    commit = service.sequencer._commit

    def slow(admitted):
        gate.wait(10)
        return commit(admitted)

    monkeypatch.setattr(service.sequencer, "_commit", slow)
    threads = [
        threading.Thread(target=lambda n=n: service.submit(entry_maker(n), witnessed=False), daemon=True)
        for n in range(1)
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    answer = log.client().post("/api/v1/entries", data=entry_maker(9))
    gate.set()
    assert (answer.status_code, answer.json["code"]) == (503, "queue-full")
    assert answer.headers["Retry-After"]
    for thread in threads:
        thread.join()


def test_two_services_on_one_database_take_turns_and_never_fork(make_log, database, entry_maker, audit):
    log = make_log(database=database)
    first = log.open()
    second = LogService(configuration.load(log.file), folder=log.folder)
    second.start()
    try:
        for number in range(30):
            service = (first, second)[number % 2]
            assert service.submit(entry_maker(number), witnessed=False).index == number
        client = log.client()
        for stored in second.store.checkpoints(before=None, limit=100):
            audit.check(fetcher(client), stored.note, log.vkeys)
    finally:
        second.stop()


def test_a_changed_leaf_in_the_database_is_found_by_the_reader(make_log, entry_maker, audit):
    log = make_log()
    log.open()
    for number in range(3):
        log.service.submit(entry_maker(number), witnessed=False)
    engine = create_engine(f"sqlite:///{log.folder / 'log.db'}")
    with engine.begin() as connection:
        connection.execute(text('UPDATE entry SET leaf = :leaf WHERE "index" = 1'), {"leaf": entry_maker(77)})
    engine.dispose()
    client = log.client()
    with pytest.raises(AssertionError):
        audit.check(fetcher(client), fetcher(client)("/checkpoint"), log.vkeys)


@pytest.mark.parametrize(
    "line",
    ["nonsense = 1", "[witnesses]\nnonsense = 1", "threads = 0", "listen = 5", "[sequencer]\nmax_batch = 0"],
)
def test_a_configuration_with_a_wrong_key_or_value_is_refused(make_log, line):
    log = make_log(extra=line + "\n") if not line.startswith("listen") else make_log()
    if line.startswith("listen"):
        log.file.write_text(log.file.read_text().replace('listen = "127.0.0.1:8080"', line))
    with pytest.raises(MalformedError) as refused:
        configuration.load(log.file)
    assert refused.value.code == "config"


def test_a_log_is_initialised_once(make_log):
    log = make_log()
    before = (log.folder / "log.key").read_bytes()
    assert cli.main(["log", "init", str(log.folder), "--origin", "other.example"]) == 1
    assert (log.folder / "log.key").read_bytes() == before
    assert (log.folder / "log.key").stat().st_mode & 0o077 == 0


def test_init_says_the_keys_that_clients_need(tmp_path, capsys):
    assert cli.main(["log", "init", str(tmp_path / "l"), "--origin", "a.example", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [vkey.split("+")[0] for vkey in said["vkeys"]] == ["a.example", "a.example"]
