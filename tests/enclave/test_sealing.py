"""Sealed state: opens for the one measurement that sealed it, whole and unchanged; unreadable is never absent."""

import pytest

from assay.enclave import sealing
from assay.enclave.sealing import SealedFile
from assay.tlog.errors import LogError, MalformedError, UnavailableError, UntrustedError

KEY, OTHER = b"k" * 16, b"o" * 16
CONTENT = b"a private key, for instance"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "agent.sealed"


@pytest.mark.parametrize("key", [KEY, None])
@pytest.mark.parametrize("content", [CONTENT, b"", bytes(100_000)])
def test_what_is_written_is_read_back(path, key, content):
    file = SealedFile(path, seal_key=key)
    assert file.read() is None
    file.write(content)
    assert file.read() == content
    file.write(content + b"2")
    assert SealedFile(path, seal_key=key).read() == content + b"2"


def test_the_content_is_not_in_the_file_and_never_looks_the_same(path):
    file = SealedFile(path, seal_key=KEY)
    seen = set()
    for _ in range(3):
        file.write(CONTENT)
        assert CONTENT not in path.read_bytes()
        seen.add(path.read_bytes())
    assert len(seen) == 3


@pytest.mark.parametrize("key", [KEY, None])
def test_only_the_owner_may_read_it_and_nothing_else_is_left(path, key):
    SealedFile(path, seal_key=key).write(CONTENT)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_another_measurements_key_does_not_open_it(path):
    SealedFile(path, seal_key=KEY).write(CONTENT)
    with pytest.raises(UntrustedError) as caught:
        SealedFile(path, seal_key=OTHER).read()
    assert caught.value.code == "sealed"


def test_a_sealed_file_under_another_name_does_not_open(path):
    SealedFile(path, seal_key=KEY).write(CONTENT)
    path.rename(path.with_name("other.sealed"))
    with pytest.raises(UntrustedError):
        SealedFile(path.with_name("other.sealed"), seal_key=KEY).read()


def test_every_flipped_byte_is_refused(path):
    file = SealedFile(path, seal_key=KEY)
    file.write(CONTENT)
    data = path.read_bytes()
    for at in range(len(data)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        with pytest.raises((MalformedError, UntrustedError)):
            file.read()


def test_every_truncation_and_every_addition_is_refused(path):
    file = SealedFile(path, seal_key=KEY)
    file.write(CONTENT)
    data = path.read_bytes()
    for changed in [*(data[:length] for length in range(len(data))), data + b"\0", b"\0" + data, data + data]:
        path.write_bytes(changed)
        with pytest.raises((MalformedError, UntrustedError)):
            file.read()


@pytest.mark.parametrize("key", [KEY, None])
def test_a_file_beyond_the_bound_is_refused(path, key):
    path.write_bytes(bytes(sealing.MAX_STATE_SIZE + 1))
    with pytest.raises(MalformedError):
        SealedFile(path, seal_key=key).read()


def test_plain_state_is_no_sealed_state(path):
    SealedFile(path, seal_key=None).write(CONTENT)
    with pytest.raises(MalformedError):
        SealedFile(path, seal_key=KEY).read()


@pytest.mark.parametrize("key", [KEY, None])
def test_unreadable_is_not_absent(path, key):
    path.mkdir()
    with pytest.raises(UnavailableError) as caught:
        SealedFile(path, seal_key=key).read()
    assert caught.value.code == "state"


def test_a_path_through_a_file_is_not_absent(path):
    path.write_bytes(b"")
    with pytest.raises(UnavailableError):
        SealedFile(path / "inside", seal_key=KEY).read()


def test_a_failed_write_leaves_what_was_there(path, monkeypatch):
    file = SealedFile(path, seal_key=KEY)
    file.write(CONTENT)

    def fail(descriptor):
        raise OSError("the disk is full")

    monkeypatch.setattr(sealing.os, "fsync", fail)
    with pytest.raises(UnavailableError) as caught:
        file.write(b"newer")
    assert caught.value.code == "state"
    monkeypatch.undo()
    assert file.read() == CONTENT
    file.write(b"newer")
    assert file.read() == b"newer"


def test_state_that_cannot_be_opened_is_never_replaced_by_a_new_key(path):
    from assay.enclave.boot import open_state

    path.write_bytes(b"garbage")
    for key in (KEY, None):
        with pytest.raises(LogError):
            open_state(SealedFile(path, seal_key=key))
    assert path.read_bytes() == b"garbage"
