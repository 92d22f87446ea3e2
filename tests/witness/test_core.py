"""What a witness cosigns and what it refuses, in the order in which it looks."""

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.tlog.checkpoint import Checkpoint, parse_signed_checkpoint, verify_checkpoint
from assay.tlog.cosignature import cosign, verify_cosignature
from assay.tlog.keys import KeyType, SignerKey, VerifierKey, parse_vkey
from assay.tlog.merkle import EMPTY_ROOT, Hash, leaf_hash
from assay.tlog.note import Note, NoteSignature, format_note, parse_note, verify_note
from assay.tlog.proof import verify_consistency
from assay.tlog.witness_protocol import (
    AddCheckpoint,
    format_add_checkpoint,
    origin_hash,
    parse_cosignature_lines,
)
from assay.witness.core import ConflictError, Cosigned, RefusedError, SplitViewError, Witness
from assay.witness.state import SqliteState

NOW_S = 1_750_000_000
MakeLog = Callable[..., Any]
Signers = tuple[SignerKey, SignerKey]


class Memory:
    """A state in memory that remembers every checkpoint it ever held."""

    def __init__(self) -> None:
        self.rows: dict[str, Cosigned] = {}
        self.history: list[Cosigned] = []

    def newest(self, origin: str) -> Cosigned | None:
        return self.rows.get(origin)

    def advance(self, *, expected: Cosigned | None, new: Cosigned) -> bool:
        if self.rows.get(new.checkpoint.origin) != expected:
            return False
        self.rows[new.checkpoint.origin] = new
        self.history.append(new)
        return True


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def witness(memory: Memory, log_signers: Signers, witness_signers: Signers) -> Witness:
    return witness_of(memory, log_signers, witness_signers)


def witness_of(state: Any, log_signers: Sequence[SignerKey], signers: Sequence[SignerKey]) -> Witness:
    keys = tuple(signer.verifier for signer in log_signers)
    return Witness(signers=signers, logs={keys[0].name: keys}, state=state)


def add(witness: Witness, body: bytes) -> bytes:
    return witness.add_checkpoint(body, now_s=lambda: NOW_S)


def status_of(witness: Witness, body: bytes) -> int:
    """The status that the request gets: 200, or that of the refusal."""
    try:
        add(witness, body)
    except RefusedError as refusal:
        return refusal.status
    return 200


def body_of(old: int, note: bytes, proof: Sequence[Hash] = ()) -> bytes:
    return format_add_checkpoint(AddCheckpoint(old, tuple(proof), note))


def signed(text: str, *signers: SignerKey) -> bytes:
    """A note on any text, with plain and with cosignature-typed log keys."""
    lines = []
    for signer in signers:
        if signer.type is KeyType.ED25519:
            lines.append(NoteSignature(signer.name, signer.verifier.key_id, signer.sign(text.encode())))
        else:
            lines.append(
                cosign(parse_signed_checkpoint(signed(text, stranger())).checkpoint, signer, time_s=1)
            )
    return format_note(Note(text, tuple(lines)))


def stranger() -> SignerKey:
    return SignerKey("stranger.example", KeyType.ED25519, bytes(32))


def test_vectors_get_their_statuses_in_order(vectors: Path, memory: Memory, witness_signers: Signers) -> None:
    data = json.loads((vectors / "tlog/witness_add_checkpoint.json").read_text())
    key = parse_vkey(data["log_vkey"])
    witness = Witness(signers=witness_signers, logs={key.name: (key,)}, state=memory)
    for step in data["steps"]:
        body, before = step["body"].encode(), memory.newest(key.name)
        if step["status"] != 200:
            with pytest.raises(RefusedError) as caught:
                add(witness, body)
            assert caught.value.status == step["status"], step["name"]
            assert memory.newest(key.name) == before
            if isinstance(caught.value, ConflictError):
                assert f"{caught.value.size}\n" == step["reply_hint"]
            continue
        reply = add(witness, body)
        checkpoint = parse_signed_checkpoint(body.partition(b"\n\n")[2]).checkpoint
        for line, signer in zip(parse_cosignature_lines(reply), witness_signers, strict=True):
            assert verify_cosignature(checkpoint, line, signer.verifier).time_s == NOW_S


@pytest.mark.parametrize(
    ("old", "new"), [(0, 0), (0, 1), (0, 7), (1, 1), (1, 2), (3, 8), (4, 8), (7, 9), (8, 8)]
)
def test_growth_is_cosigned_by_both_keys_with_the_time(
    witness: Witness, make_log: MakeLog, witness_signers: Signers, old: int, new: int
) -> None:
    log = make_log()
    if old:
        add(witness, log.request(0, old))
    lines = parse_cosignature_lines(add(witness, log.request(old, new)))
    assert len(lines) == 2
    for line, signer in zip(lines, witness_signers, strict=True):
        assert verify_cosignature(log.checkpoint(new), line, signer.verifier).time_s == NOW_S


def test_a_tree_can_grow_from_a_cosigned_size_of_zero(witness: Witness, make_log: MakeLog) -> None:
    for old, new in ((0, 0), (0, 0), (0, 3), (3, 3), (3, 5)):
        assert status_of(witness, make_log().request(old, new)) == 200


def test_the_same_size_again_refreshes_the_time(
    witness: Witness, memory: Memory, make_log: MakeLog, witness_signers: Signers
) -> None:
    log = make_log()
    for now_s in (NOW_S, NOW_S + 60):
        lines = parse_cosignature_lines(
            witness.add_checkpoint(
                log.request(0 if now_s == NOW_S else 5, 5), now_s=lambda now_s=now_s: now_s
            )
        )
        assert verify_cosignature(log.checkpoint(5), lines[0], witness_signers[0].verifier).time_s == now_s
    stored = memory.newest(log.origin)
    assert stored is not None
    assert lines[1] in parse_note(stored.note).signatures


def test_what_is_shown_is_the_logs_lines_and_our_own(
    witness: Witness, make_log: MakeLog, log_signers: Signers, witness_signers: Signers
) -> None:
    log = make_log()
    name, key_id = witness_signers[0].name, witness_signers[0].verifier.key_id
    forged = [
        NoteSignature(name, key_id, bytes(72)),
        NoteSignature(name, witness_signers[1].verifier.key_id, bytes(2428)),
        NoteSignature(name, b"\x01\x02\x03\x04", b"x"),
        NoteSignature("w.example", key_id, b"x"),
    ]
    replies = parse_cosignature_lines(add(witness, log.request(0, 4, *forged)))
    shown = witness.checkpoint(origin_hash(log.origin))
    note = parse_note(shown)
    keys = [each.verifier for each in (*log_signers, *witness_signers)]
    assert verify_note(note, keys).keys == tuple(keys)
    assert note.signatures[2:] == replies
    assert len(note.signatures) == 4
    assert verify_checkpoint(shown, log_keys=keys[:2]) == log.checkpoint(4)
    assert status_of(witness, log.request(4, 6, *forged)) == 200


def test_nothing_is_shown_of_unknown_or_never_cosigned_logs(witness: Witness, make_log: MakeLog) -> None:
    for name in (origin_hash(make_log().origin), origin_hash("other.example"), "", "x", make_log().origin):
        with pytest.raises(RefusedError) as caught:
            witness.checkpoint(name)
        assert caught.value.status == 404
    add(witness, make_log().request(0, 1))
    witness.checkpoint(origin_hash(make_log().origin))
    with pytest.raises(RefusedError):
        witness.checkpoint(origin_hash(make_log().origin).upper())


# --- refusals


def test_every_refusal_has_its_status_and_changes_nothing(
    witness: Witness, memory: Memory, make_log: MakeLog, log_signers: Signers
) -> None:
    log, ed = make_log(), log_signers[0]
    other = make_log(branch="b", fork_at=3)
    unknown = make_log(
        origin="other.example", signers=(SignerKey("other.example", KeyType.ED25519, bytes(32)),)
    )
    forger = make_log(signers=(SignerKey(log.origin, KeyType.ED25519, bytes(32)), log_signers[1]))
    add(witness, log.request(0, 5))
    held = memory.newest(log.origin)
    text = log.checkpoint(8).text
    proof = log.proof(5, 8)
    wrong_root = Checkpoint(log.origin, 0, leaf_hash(b"x"))
    bad_line = NoteSignature(ed.name, ed.verifier.key_id, bytes(64))
    good = parse_note(log.note(8))
    cases: dict[str, tuple[bytes, int]] = {
        "nothing": (b"", 400),
        "no checkpoint": (b"old 5\n\n", 400),
        "no signature": (b"old 5\n\n" + text.encode(), 400),
        "old is no number": (log.request(5, 8).replace(b"old 5", b"old five"), 400),
        "64 hashes": (
            b"old 5\n" + b"A" * 43 + b"=\n" * 1 + (b"A" * 43 + b"=\n") * 63 + b"\n" + log.note(8),
            400,
        ),
        "too long": (body_of(5, log.note(8)) + b"x" * (128 * 1024), 400),
        "unknown log": (unknown.request(0, 3), 404),
        "unknown log, old too large": (body_of(9, unknown.note(3)), 404),
        "origin is a prefix": (body_of(5, signed(text.replace(log.origin, log.origin[:-1]), ed), proof), 404),
        "stranger's signature only": (body_of(5, signed(text, stranger()), proof), 403),
        "one of two keys": (body_of(5, signed(text, ed), proof), 403),
        "the other of two keys": (body_of(5, signed(text, log_signers[1]), proof), 403),
        "another key of the name": (body_of(5, forger.note(8), proof), 403),
        "bad line beside good ones": (
            body_of(5, format_note(Note(text, (*good.signatures, bad_line))), proof),
            403,
        ),
        "bad line first": (body_of(5, format_note(Note(text, (bad_line, *good.signatures))), proof), 403),
        "bad signature, old too large": (body_of(9, forger.note(8), proof), 403),
        "old too large": (body_of(9, log.note(8)), 400),
        "old too large, and not ours": (body_of(6, log.note(5)), 400),
        "extension line": (body_of(5, extended(log.note(8), ed), proof), 400),
        "empty tree with a root": (body_of(0, signed(wrong_root.text, *log_signers)), 422),
        "old below ours": (log.request(3, 8), 409),
        "old is 0": (log.request(0, 8), 409),
        "old above ours": (log.request(6, 8), 409),
        "older checkpoint": (log.request(3, 4), 409),
        "conflict before proof": (body_of(3, log.note(8), (leaf_hash(b"x"),)), 409),
        "no proof": (body_of(5, log.note(8)), 422),
        "proof too short": (body_of(5, log.note(8), proof[:-1]), 422),
        "proof too long": (body_of(5, log.note(8), (*proof, proof[0])), 422),
        "proof changed": (body_of(5, log.note(8), (leaf_hash(b"x"), *proof[1:])), 422),
        "proof of another size": (body_of(5, log.note(8), log.proof(6, 8)), 422),
        "same size with a proof": (body_of(5, log.note(5), proof), 422),
        "same size, other root": (body_of(5, other.note(5)), 422),
        "another history": (body_of(5, other.note(8), other.proof(5, 8)), 422),
    }
    assert {name: status_of(witness, body) for name, (body, _) in cases.items()} == {
        name: status for name, (_, status) in cases.items()
    }
    assert memory.newest(log.origin) is held
    assert len(memory.history) == 1
    assert status_of(witness, log.request(5, 8)) == 200


def extended(note: bytes, ed: SignerKey) -> bytes:
    """A note with an extension line that the log's Ed25519 key signed, and its own ML-DSA line."""
    parsed = parse_note(note)
    text = parsed.text + "extension\n"
    line = NoteSignature(ed.name, ed.verifier.key_id, ed.sign(text.encode()))
    return format_note(Note(text, (line, parsed.signatures[1])))


def test_extension_lines_are_refused_although_the_only_key_signed_them(
    memory: Memory, make_log: MakeLog, witness_signers: Signers, log_signers: Signers
) -> None:
    ed = log_signers[0]
    witness = witness_of(memory, (ed,), witness_signers)
    log = make_log(signers=(ed,))
    assert status_of(witness, body_of(0, signed(log.checkpoint(3).text + "extension\n", ed))) == 400
    for text in (
        f"{log.origin}\n",
        f"{log.origin}\n3\n",
        f"{log.origin}\n03\nAAAA\n",
        f"{log.origin}\n\n3\n",
    ):
        assert status_of(witness, body_of(0, signed(text, ed))) == 400
    assert status_of(witness, log.request(0, 3)) == 200


def test_a_first_request_with_old_0_needs_no_proof_and_may_have_none(
    witness: Witness, make_log: MakeLog
) -> None:
    log = make_log()
    assert status_of(witness, body_of(0, log.note(8), (leaf_hash(b"x"),))) == 422
    assert status_of(witness, body_of(8, log.note(8))) == 409
    assert status_of(witness, body_of(0, log.note(8))) == 200


def test_conflict_says_the_size_last_cosigned(witness: Witness, make_log: MakeLog) -> None:
    log = make_log()
    for old, size in ((5, 0), (0, 5), (3, 5)):
        if size:
            status_of(witness, log.request(0, 5))
        with pytest.raises(ConflictError) as caught:
            add(witness, log.request(old, 8))
        assert caught.value.size == size


def test_a_split_view_is_refused_with_both_signed_checkpoints(
    witness: Witness, make_log: MakeLog, log_signers: Signers
) -> None:
    log, other = make_log(), make_log(branch="b", fork_at=2)
    add(witness, log.request(0, 5))
    with pytest.raises(SplitViewError) as caught:
        add(witness, body_of(5, other.note(5)))
    keys = [each.verifier for each in log_signers]
    first, second = (verify_checkpoint(each, log_keys=keys) for each in caught.value.evidence.values())
    assert first.size == second.size
    assert first.root != second.root


def test_every_truncation_and_flipped_byte_of_a_request_is_refused_or_harmless(
    make_log: MakeLog, log_signers: Signers, witness_signers: Signers
) -> None:
    """A witness at 5 is offered every damaged form of the request 5 -> 8; it never cosigns another tree."""
    memory, log = Memory(), make_log()
    witness = witness_of(memory, log_signers, witness_signers)
    add(witness, log.request(0, 5))
    base = dict(memory.rows)
    body = log.request(5, 8)
    damaged = [body[:length] for length in range(len(body))]
    damaged += [
        body[:i] + bytes([body[i] ^ mask]) + body[i + 1 :] for i in range(len(body)) for mask in (1, 0x80)
    ]
    for each in damaged:
        assert status_of(witness, each) in (400, 403, 404, 409, 422)
        assert memory.rows == base


# --- construction


def test_a_witness_has_one_name_and_is_no_log(
    memory: Memory, log_signers: Signers, witness_signers: Signers
) -> None:
    keys = tuple(each.verifier for each in log_signers)
    other = SignerKey("other.example", KeyType.COSIGNATURE_ED25519, bytes(32))
    for signers, logs in (
        ((), {keys[0].name: keys}),
        ((witness_signers[0], other), {keys[0].name: keys}),
        (witness_signers, {witness_signers[0].name: keys}),
    ):
        with pytest.raises(ValueError, match="witness"):
            Witness(signers=signers, logs=logs, state=memory)
    witness = witness_of(memory, log_signers, witness_signers)
    assert witness.vkeys == tuple(str(each.verifier) for each in witness_signers)


# --- races


class Interleaved(Memory):
    """Lets every racer read before any of them writes."""

    def __init__(self, racers: int) -> None:
        super().__init__()
        self.barrier = threading.Barrier(racers)
        self.racing = False
        self.lock = threading.Lock()

    def newest(self, origin: str) -> Cosigned | None:
        found = super().newest(origin)
        if self.racing:
            try:
                self.barrier.wait(timeout=10)
            except threading.BrokenBarrierError:
                pytest.fail("a racer did not come")
        return found

    def advance(self, *, expected: Cosigned | None, new: Cosigned) -> bool:
        self.racing = False  # the loser reads once more to say the size
        with self.lock:
            return super().advance(expected=expected, new=new)


def race(witness: Witness, bodies: Sequence[bytes]) -> list[int]:
    """The statuses of requests sent at once."""
    statuses = [0] * len(bodies)

    def run(place: int) -> None:
        statuses[place] = status_of(witness, bodies[place])

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("sizes", [(5, 9), (9, 5), (5, 5), (3, 9), (9, 3)])
def test_of_two_racers_from_one_size_exactly_one_is_cosigned(
    make_log: MakeLog, log_signers: Signers, witness_signers: Signers, start: int, sizes: tuple[int, int]
) -> None:
    log, state = make_log(), Interleaved(2)
    witness = witness_of(state, log_signers, witness_signers)
    if start:
        add(witness, log.request(0, start))
    state.racing = True
    statuses = race(witness, [log.request(start, size) for size in sizes])
    assert sorted(statuses) == [200, 409]
    held = state.newest(log.origin)
    assert held is not None
    assert held.checkpoint.size == sizes[statuses.index(200)]


def test_many_racers_on_sqlite_never_roll_back(
    tmp_path: Path, make_log: MakeLog, log_signers: Signers, witness_signers: Signers
) -> None:
    state, log = SqliteState(tmp_path / "state.db"), make_log()
    witness = witness_of(state, log_signers, witness_signers)
    size = 0
    for _ in range(5):
        bodies = [log.request(size, size + step) for step in (1, 2, 3, 4, 1, 2)]
        statuses = race(witness, bodies)
        assert statuses.count(200) == 1
        assert statuses.count(409) == 5
        held = state.newest(log.origin)
        assert held is not None
        assert held.checkpoint == log.checkpoint(size + (1, 2, 3, 4, 1, 2)[statuses.index(200)])
        size = held.checkpoint.size
    state.close()


def test_the_loser_of_a_race_is_told_the_winners_size(
    memory: Memory, make_log: MakeLog, log_signers: Signers, witness_signers: Signers
) -> None:
    log = make_log()
    witness = witness_of(memory, log_signers, witness_signers)
    for start, end in ((0, 5), (5, 9)):

        def win_first(start: int = start, end: int = end) -> int:
            """The clock is read between the look at the state and the swap: where the other one wins."""
            add(witness, log.request(start, end))
            return NOW_S

        with pytest.raises(ConflictError) as caught:
            witness.add_checkpoint(log.request(start, end + 1), now_s=win_first)
        assert caught.value.size == end


def test_a_lost_swap_without_any_state_is_a_conflict_with_size_0(
    make_log: MakeLog, log_signers: Signers, witness_signers: Signers
) -> None:
    class Refusing(Memory):
        def advance(self, *, expected: Cosigned | None, new: Cosigned) -> bool:
            return False

    witness = witness_of(Refusing(), log_signers, witness_signers)
    with pytest.raises(ConflictError) as caught:
        add(witness, make_log().request(0, 5))
    assert caught.value.size == 0


# --- any sequence


REQUESTS = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.integers(0, 12),
        st.integers(0, 12),
        st.sampled_from(["honest", "no proof", "other branch's proof"]),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, st.integers(0, 6))
def test_no_sequence_of_requests_moves_the_state_backwards_or_sideways(
    make_log: MakeLog,
    log_signers: Signers,
    witness_signers: Signers,
    requests: list[tuple[str, int, int, str]],
    fork_at: int,
) -> None:
    branches = {name: make_log(branch=name, fork_at=fork_at) for name in "ab"}
    memory = Memory()
    witness = witness_of(memory, log_signers, witness_signers)
    for name, old, new, kind in requests:
        log, other = branches[name], branches["a" if name == "b" else "b"]
        proof = {
            "honest": log.proof(old, new),
            "no proof": (),
            "other branch's proof": other.proof(old, new),
        }[kind]
        status_of(witness, body_of(old, log.note(new), proof))
    previous = Checkpoint(branches["a"].origin, 0, EMPTY_ROOT)
    for held in memory.history:
        assert held.checkpoint.size >= previous.size
        log = next(
            each for each in branches.values() if each.checkpoint(held.checkpoint.size) == held.checkpoint
        )
        if previous.size:
            verify_consistency(
                old_size=previous.size,
                old_root=previous.root,
                new_size=held.checkpoint.size,
                new_root=held.checkpoint.root,
                proof=log.proof(previous.size, held.checkpoint.size),
            )
        previous = held.checkpoint


def test_a_known_key_is_never_taken_for_another_logs(
    memory: Memory, make_log: MakeLog, log_signers: Signers, witness_signers: Signers
) -> None:
    """Two logs with keys of one name each: a signature of one does not vouch for the other."""
    second = tuple(SignerKey("log.example/2", each.type, each.seed) for each in log_signers)
    logs: dict[str, tuple[VerifierKey, ...]] = {
        each[0].name: tuple(key.verifier for key in each) for each in (log_signers, second)
    }
    witness = Witness(signers=witness_signers, logs=logs, state=memory)
    crossed = parse_note(make_log(signers=log_signers).note(3))
    text = crossed.text.replace("log.example/1", "log.example/2")
    assert status_of(witness, body_of(0, format_note(Note(text, crossed.signatures)))) == 403
    assert status_of(witness, make_log(origin="log.example/2", signers=second).request(0, 3)) == 200
    assert status_of(witness, make_log().request(0, 4)) == 200
    assert {each.checkpoint.origin for each in memory.rows.values()} == {"log.example/1", "log.example/2"}
