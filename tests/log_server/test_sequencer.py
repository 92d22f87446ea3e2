"""Many sequencers on one tree, groups, bad entries among good ones, freezing, and databases that do not belong."""

import shutil
import sqlite3
import threading
import time
from dataclasses import replace

import pytest

from assay import cli
from assay.log_server import config as configuration
from assay.log_server.anchor import AnchorMovedError, open_anchor
from assay.log_server.batch import Batch
from assay.log_server.hashes import TileHashes
from assay.log_server.roles import Role
from assay.log_server.service import BatchItem, LogService
from assay.tlog import merkle, proof
from assay.tlog.errors import InconsistentError, LogError, UnavailableError
from assay.tlog.merkle import Hash, Node


def second_service(log):
    service = LogService(configuration.load(log.file), folder=log.folder)
    service.start()
    return service


def fetcher(client):
    def fetch(path):
        response = client.get(path)
        assert response.status_code == 200, path
        return response.data

    return fetch


def test_servers_that_submit_at_once_share_one_tree(make_log, database, entry_maker, audit):
    log = make_log(database=database)
    services = [log.open(), second_service(log), second_service(log)]
    found = {}

    def submit(service, numbers):
        for number in numbers:
            found[number] = service.submit(entry_maker(number), witnessed=False)

    threads = [
        threading.Thread(target=submit, args=(services[turn % 3], range(turn * 20, turn * 20 + 20)))
        for turn in range(9)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(each.index for each in found.values()) == list(range(180))
        client = log.client()
        entries = audit.check(fetcher(client), fetcher(client)("/checkpoint"), log.vkeys)[2]
        assert all(entries[each.index] == entry_maker(number) for number, each in found.items())
        for stored in services[1].store.checkpoints(before=None, limit=500):
            audit.check(fetcher(client), stored.note, log.vkeys)
        assert services[2].newest().size == 180
    finally:
        for service in services[1:]:
            service.stop()


def test_one_entry_sent_to_two_servers_at_once_is_one_entry(make_log, database, entry_maker):
    log = make_log(database=database)
    services = [log.open(), second_service(log)]
    try:
        for number in range(15):
            results = []

            def submit(service, number=number, results=results):
                results.append(service.submit(entry_maker(number), witnessed=False))

            threads = [threading.Thread(target=submit, args=(service,)) for service in services * 3]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert {each.index for each in results} == {number}
            assert sum(each.new for each in results) == 1
    finally:
        services[1].stop()


def test_a_group_is_one_commit_and_each_item_has_its_own_fate(make_log, database, entry_maker):
    log = make_log(database=database)
    service = log.open()
    service.submit(entry_maker(3), witnessed=False)
    items = [entry_maker(number) for number in range(300)] + [b"nonsense", entry_maker(5), b"{}"]
    results = service.submit_many(items)
    assert [isinstance(each, BatchItem) for each in results] == [True] * 300 + [False, True, False]
    placed = {each.index for each in results if isinstance(each, BatchItem)}
    assert placed == set(range(300))
    assert results[3] == BatchItem(0, merkle.leaf_hash(entry_maker(3)).hex(), new=False)
    assert results[301].index == results[5].index
    assert not results[301].new
    assert len(service.store.checkpoints(before=None, limit=10)) == 3
    assert service.submit_many([]) == []
    assert all(isinstance(each, LogError) for each in service.submit_many([b"", b"x"]))


def test_an_entry_that_no_database_takes_holds_up_nobody_else(make_log, entry_maker, monkeypatch):
    log = make_log()
    service = log.open()
    append = Batch.append
    poison = entry_maker(1)

    def picky(self, start, admitted, *, now_ms):
        if any(item.leaf == poison for item in admitted):
            raise ValueError("cannot be stored")
        return append(self, start, admitted, now_ms=now_ms)

    monkeypatch.setattr(Batch, "append", picky)
    gate = service.store.write()
    results = {}

    def submit(number):
        try:
            results[number] = service.submit(entry_maker(number), witnessed=False).index
        except UnavailableError as error:
            results[number] = error.code

    threads = [threading.Thread(target=submit, args=(number,)) for number in range(4)]
    with gate:  # all four wait for one batch
        for thread in threads:
            thread.start()
        while service.sequencer.queued < 4:
            time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert results.pop(1) == "not-stored"
    assert sorted(results.values()) == [0, 1, 2]


def test_a_frozen_log_answers_reads_and_refuses_writes(make_log, database, entry_maker):
    log = make_log(database=database)
    service = log.open()
    service.submit(entry_maker(0), witnessed=False)
    assert service.store.frozen_ms() is None
    assert service.store.freeze(now_ms=1234) == 1234
    assert service.store.freeze(now_ms=9999) == 1234
    client = log.client()
    for body in (entry_maker(1), entry_maker(0)):
        answer = client.post("/api/v1/entries", data=body)
        assert (answer.status_code, answer.json["code"]) == (405, "frozen")
        assert "GET" in answer.headers["Allow"]
    assert client.get("/checkpoint").status_code == 200
    assert client.get("/api/v1/entries/0").status_code == 200
    assert service.newest().size == 1
    log.close()
    log.open()  # still frozen after a restart
    assert log.client().post("/api/v1/entries", data=entry_maker(1)).status_code == 405


def test_the_clock_may_go_back_but_the_log_does_not(make_log, entry_maker, monkeypatch):
    log = make_log()
    service = log.open()
    service.submit(entry_maker(0), witnessed=False)
    signed_ms = service.newest().signed_ms
    monkeypatch.setattr(service.sequencer, "_now_ms", lambda: signed_ms - 3_600_000)
    service.submit(entry_maker(1), witnessed=False)
    assert service.newest().size == 2
    assert service.newest().signed_ms == signed_ms


def test_a_server_with_another_database_but_the_same_anchor_signs_no_more(make_log, entry_maker, tmp_path):
    log = make_log()
    first = log.open()
    first.submit(entry_maker(0), witnessed=False)
    copy = tmp_path / "copy"
    log.close()
    shutil.copytree(log.folder, copy)
    first = log.open()
    config = configuration.load(copy / "log.toml").model_copy(update={"anchor": str(log.anchor)})
    rival = LogService(config, folder=copy)  # not behind yet: it starts
    rival.start()
    try:
        first.submit(entry_maker(1), witnessed=False)
        with pytest.raises(InconsistentError) as refused:
            rival.submit(entry_maker(2), witnessed=False)
        assert refused.value.code == "behind-anchor"
        with pytest.raises(InconsistentError):
            rival.submit(entry_maker(0), witnessed=False)
        assert first.submit(entry_maker(3), witnessed=False).index == 2
    finally:
        rival.stop()


def test_an_anchor_is_swapped_or_left_alone(make_log):
    log = make_log()
    anchor = open_anchor(str(log.anchor), folder=log.folder)
    held = anchor.read()
    with pytest.raises(AnchorMovedError) as moved:
        anchor.swap(b"something else", b"new")
    assert moved.value.current == held
    assert anchor.read() == held
    with pytest.raises(FileExistsError):
        anchor.create(b"new")
    anchor.swap(held, b"new")
    assert anchor.read() == b"new"


@pytest.mark.parametrize("place", ["http://x/y", "s3://", "s3://bucket", "s3://bucket/", "file:///x"])
def test_an_anchor_is_a_file_or_an_object(place, tmp_path):
    with pytest.raises(LogError) as refused:
        open_anchor(place, folder=tmp_path)
    assert refused.value.code == "config"


def test_keys_of_another_log_do_not_open_the_database(make_log, entry_maker, capsys):
    log, other = make_log(), make_log()
    shutil.copy(other.folder / "log.key", log.folder / "log.key")
    assert cli.main(["log", "serve", "--dir", str(log.folder)]) == 1
    assert "error[log-identity]" in capsys.readouterr().err


def test_a_database_from_before_identities_is_adopted_once_its_checkpoint_verifies(
    make_log, entry_maker, capsys
):
    log, other = make_log(), make_log()
    log.open().submit(entry_maker(0), witnessed=False)
    log.close()
    database = sqlite3.connect(log.folder / "log.db")
    database.execute("DELETE FROM log")
    database.commit()
    database.close()
    keys = (log.folder / "log.key").read_bytes()
    shutil.copy(other.folder / "log.key", log.folder / "log.key")
    assert cli.main(["log", "serve", "--dir", str(log.folder)]) == 1
    (log.folder / "log.key").write_bytes(keys)
    identity = log.open().store.identity()
    assert identity.origin == "log.test.example"
    assert list(identity.vkeys) == log.vkeys


def test_a_database_that_was_never_initialised_is_refused(make_log, capsys):
    log = make_log()
    (log.folder / "log.db").unlink()
    assert cli.main(["log", "serve", "--dir", str(log.folder)]) == 1
    assert "error[log-identity]" in capsys.readouterr().err


def test_a_role_has_one_holder_and_passes_on(make_log, database):
    log = make_log(database=database)
    first, second = log.open(), second_service(log)
    events = []
    taken = [threading.Event(), threading.Event()]

    def role(number, service):
        def begin():
            events.append(("begin", number))
            taken[number].set()

        return Role(service.store.database, "test", begin=begin, end=lambda: events.append(("end", number)))

    roles = [role(0, first), role(1, second)]
    try:
        roles[0].start()
        assert taken[0].wait(10)
        roles[1].start()
        assert not taken[1].wait(1.5)
        roles[0].stop()
        assert taken[1].wait(10)
        roles[1].stop()
        assert events == [("begin", 0), ("end", 0), ("begin", 1), ("end", 1)]
    finally:
        second.stop()


def test_hashes_are_those_of_the_tree_whatever_is_asked_first():
    leaves = [merkle.leaf_hash(bytes([number % 256, number // 256])) for number in range(700)]
    tiles = {(0, index): b"".join(leaves[index * 256 : index * 256 + 256]) for index in range(3)}
    tiles[1, 0] = b"".join(merkle.root_of(leaves[index * 256 : index * 256 + 256]) for index in range(2))
    for size in (1, 2, 255, 256, 257, 511, 512, 513, 700):
        hashes = TileHashes(lambda level, index: tiles.get((level, index)))
        assert proof.tree_root(size, hashes) == merkle.root_of(leaves[:size])
        for index in {0, size // 2, size - 1}:
            path = proof.prove_inclusion(index=index, size=size, reader=hashes)
            root = merkle.root_of(leaves[:size])
            proof.verify_inclusion(leaves[index], index=index, size=size, proof=path, root=root)


@pytest.mark.parametrize("node", [Node(0, 3), Node(1, 1), Node(8, 0), Node(2, 0)])
def test_a_node_that_the_tiles_do_not_hold_is_never_made_up(node):
    tile = b"".join([Hash(bytes([number]) * 32) for number in range(3)])
    hashes = TileHashes(lambda level, index: tile if (level, index) == (0, 0) else None)
    with pytest.raises(InconsistentError):
        hashes.read_hashes([node])


def test_many_threads_fold_one_tile_to_the_same_hashes():
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(256)]
    hashes = TileHashes(lambda level, index: b"".join(leaves) if level == 0 else None)
    results = []
    threads = [
        threading.Thread(
            target=lambda n=n: results.append((n, proof.prove_inclusion(index=n, size=256, reader=hashes)))
        )
        for n in range(64)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    root = merkle.root_of(leaves)
    for number, path in results:
        proof.verify_inclusion(leaves[number], index=number, size=256, proof=path, root=root)
    assert len(results) == 64


def test_a_proof_that_is_given_is_of_the_answer(make_log, entry_maker):
    log = make_log()
    service = log.open()
    (sequenced,) = service.sequencer.submit([service._admission.admit(entry_maker(0), now_ms=1)]).result()
    changed = replace(sequenced, index=5)
    with pytest.raises(AssertionError):
        changed.prove()
