"""The witness's memory: forward only, durable, and never silently empty."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assay.tlog.errors import MalformedError
from assay.tlog.keys import KeyType, SignerKey
from assay.witness.core import Cosigned
from assay.witness.state import SqliteState


@pytest.fixture
def state(tmp_path: Path) -> Any:
    opened = SqliteState(tmp_path / "state.db")
    yield opened
    opened.close()


@pytest.fixture
def cosigned(make_log: Callable[..., Any]) -> Callable[..., Cosigned]:
    def make(size: int, branch: str = "a", **kwargs: Any) -> Cosigned:
        log = make_log(branch=branch, **kwargs)
        return Cosigned(log.checkpoint(size), log.note(size))

    return make


def test_what_is_stored_is_read_back_also_after_reopening(
    tmp_path: Path, cosigned: Callable[..., Cosigned]
) -> None:
    first = SqliteState(tmp_path / "state.db")
    origin = cosigned(3).checkpoint.origin
    assert first.newest(origin) is None
    three, five = cosigned(3), cosigned(5)
    assert first.advance(expected=None, new=three)
    assert first.newest(origin) == three
    assert first.advance(expected=three, new=five)
    first.close()
    second = SqliteState(tmp_path / "state.db")
    assert second.newest(origin) == five
    assert second.newest("other.example") is None
    second.close()


def test_swap_succeeds_only_from_exactly_what_stands_there(
    state: SqliteState, cosigned: Callable[..., Cosigned]
) -> None:
    three, other, five = cosigned(3), cosigned(3, "b"), cosigned(5)
    assert not state.advance(expected=three, new=five)
    assert state.newest(three.checkpoint.origin) is None
    assert state.advance(expected=None, new=three)
    assert not state.advance(expected=None, new=five)
    assert not state.advance(expected=other, new=five)
    assert not state.advance(expected=cosigned(4), new=five)
    assert state.newest(three.checkpoint.origin) == three
    assert state.advance(expected=three, new=five)
    assert not state.advance(expected=three, new=five)


def test_a_swap_backwards_or_to_another_log_is_our_own_fault(
    state: SqliteState, cosigned: Callable[..., Cosigned]
) -> None:
    three, five = cosigned(3), cosigned(5)
    state.advance(expected=None, new=five)
    name = "other.example"
    other = cosigned(9, origin=name, signers=(SignerKey(name, KeyType.ED25519, bytes(32)),))
    for new in (three, other):
        with pytest.raises(AssertionError):
            state.advance(expected=five, new=new)
    assert state.newest(five.checkpoint.origin) == five
    assert state.newest(name) is None


def test_logs_do_not_see_each_other(state: SqliteState, cosigned: Callable[..., Cosigned]) -> None:
    name = "other.example"
    other = cosigned(2, origin=name, signers=(SignerKey(name, KeyType.ED25519, bytes(32)),))
    assert state.advance(expected=None, new=cosigned(3))
    assert state.advance(expected=None, new=other)
    assert state.newest(name) == other


def test_two_openings_of_one_file_share_the_memory(tmp_path: Path, cosigned: Callable[..., Cosigned]) -> None:
    one, two = SqliteState(tmp_path / "state.db"), SqliteState(tmp_path / "state.db")
    three, five, seven = cosigned(3), cosigned(5), cosigned(7)
    assert one.advance(expected=None, new=three)
    assert two.advance(expected=three, new=five)
    assert not one.advance(expected=three, new=seven)
    assert one.newest(five.checkpoint.origin) == five
    one.close()
    two.close()


def test_unreadable_memory_is_an_error_and_not_an_empty_one(
    tmp_path: Path, state: SqliteState, cosigned: Callable[..., Cosigned]
) -> None:
    three = cosigned(3)
    state.advance(expected=None, new=three)
    for broken in (b"", b"junk", three.note[:-1], three.note.replace(b"\n3\n", b"\n03\n")):
        with sqlite3.connect(tmp_path / "state.db") as connection:
            connection.execute("UPDATE cosigned SET note = ?", (broken,))
        connection.close()
        with pytest.raises(MalformedError):
            state.newest(three.checkpoint.origin)


def test_every_connection_writes_through_to_the_disk(state: SqliteState) -> None:
    with state._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
