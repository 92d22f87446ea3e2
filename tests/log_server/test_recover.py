"""recover: a log's database made anew from a copy, the same tree or nothing."""

import pytest

from assay import cli
from assay.attest.index import index_leaf
from assay.log_server import config as configuration
from assay.log_server import migrations, wiring
from assay.log_server.anchor import AnchorFile
from assay.log_server.sequencer import initialise


@pytest.fixture
def log(make_log):
    log = make_log()
    log.open()
    return log


def recover(log, copy):
    return cli.main(["log", "recover", "--from", str(copy), "--dir", str(log.folder)])


def corrupt(folder, path, change):
    file = folder / path
    file.chmod(0o644)
    file.write_bytes(change(file.read_bytes()))


@pytest.mark.parametrize("size", [0, 1, 256, 700])
def test_a_lost_database_comes_back_the_same(log, entry_maker, tmp_path, size, capsys):
    if size:
        log.grow(size)
    log.export(tmp_path / "copy")
    before = log.service.newest()
    terms = log.service.store.term_count(size=size)
    log.lose_database()
    assert recover(log, tmp_path / "copy") == 0
    assert cli.main(["log", "fsck", str(log.folder), *log.key_options]) == 0
    service = log.open()
    assert (service.newest().size, service.newest().root) == (before.size, before.root)
    assert service.store.term_count(size=size) == terms
    if size:
        leaf = entry_maker(size - 1)
        assert service.submit(leaf, witnessed=False).index == size - 1
        assert service.store.find_terms(dict(index_leaf(leaf).terms))[0] == size - 1
    assert service.submit(entry_maker(size), witnessed=False).index == size
    log.export(tmp_path / "copy")
    assert log.check(tmp_path / "copy").faults == []


def test_a_copy_older_than_the_anchor_is_not_recovered_from(log, tmp_path, capsys):
    log.grow(3)
    log.export(tmp_path / "copy")
    log.grow(2)
    log.lose_database()
    assert recover(log, tmp_path / "copy") == 1
    assert "error[behind-anchor]" in capsys.readouterr().err
    assert not (log.folder / "log.db").exists()


def test_a_database_with_entries_is_never_replaced(log, tmp_path, capsys):
    log.grow(3)
    log.export(tmp_path / "copy")
    log.close()
    before = (log.folder / "log.db").read_bytes()
    assert recover(log, tmp_path / "copy") == 1
    assert "error[exists]" in capsys.readouterr().err
    assert (log.folder / "log.db").read_bytes() == before


@pytest.mark.parametrize(
    "path", ["tile/0/000", "tile/entries/000", "tile/1/000.p/1", "tile/entries/001.p/44"]
)
def test_a_corrupt_copy_recovers_nothing(log, tmp_path, path):
    log.grow(300)
    log.export(tmp_path / "copy")
    log.lose_database()
    good = (tmp_path / "copy" / path).read_bytes()
    corrupt(tmp_path / "copy", path, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert recover(log, tmp_path / "copy") == 1
    assert not (log.folder / "log.db").exists()
    corrupt(tmp_path / "copy", path, lambda data: good)  # and what was interrupted can be done again
    assert recover(log, tmp_path / "copy") == 0


def test_without_an_anchor_nothing_tells_whether_the_copy_is_the_newest(log, tmp_path, capsys):
    log.grow(3)
    log.export(tmp_path / "copy")
    log.lose_database()
    log.anchor.unlink()
    assert recover(log, tmp_path / "copy") == 1
    assert "error[no-anchor]" in capsys.readouterr().err
    assert not (log.folder / "log.db").exists()


def test_a_database_that_a_server_runs_on_is_not_replaced(log, tmp_path, capsys):
    log.grow(3)
    log.export(tmp_path / "copy")
    log.lose_database()
    anchored = log.anchor.read_bytes()
    log.anchor.unlink()
    config = configuration.load(log.file)
    store = wiring.open_store(config, folder=log.folder)  # somebody made it anew, and serves it
    migrations.upgrade(store.engine)
    signers = wiring.read_signers(log.folder / config.key, origin=config.origin)
    initialise(store, AnchorFile(log.anchor), signers=signers, now_ms=1, published=True)
    store.close()
    log.open()
    log.anchor.write_bytes(anchored)
    assert recover(log, tmp_path / "copy") == 1
    assert "error[serving]" in capsys.readouterr().err
    log.close()
    assert recover(log, tmp_path / "copy") == 0
    assert log.open().newest().size == 3


def test_after_a_recovery_older_copies_go_on(log, tmp_path):
    log.grow(3)
    log.export(tmp_path / "old")
    log.grow(3)
    log.export(tmp_path / "new")
    log.lose_database()
    assert recover(log, tmp_path / "new") == 0
    log.open()
    assert log.export(tmp_path / "old").new_size == 6
    assert log.check(tmp_path / "old").faults == []


def test_what_no_quorum_cosigned_is_recovered_but_not_published(make_log, tmp_path):
    log = make_log(witnesses=1)
    for witness in log.witnesses:
        witness.mode = "down"
    log.open()
    log.grow(3)
    log.export(tmp_path / "copy")
    log.lose_database()
    assert recover(log, tmp_path / "copy") == 0
    store = wiring.open_store(configuration.load(log.file), folder=log.folder)
    assert (store.latest().size, store.published()) == (3, None)
    store.close()


def test_a_log_on_postgresql_is_recovered_into_an_empty_database(make_log, postgres, tmp_path):
    log = make_log(database=postgres.create("recover_from"))
    log.open()
    log.grow(300)
    log.export(tmp_path / "copy")
    root = log.service.newest().root
    log.close()
    old = log.file.read_text()
    log.file.write_text(old.replace("recover_from", "recover_to"))
    postgres.create("recover_to")
    assert recover(log, tmp_path / "copy") == 0
    assert log.open().newest().root == root
    log.close()
    assert recover(log, tmp_path / "copy") == 1
