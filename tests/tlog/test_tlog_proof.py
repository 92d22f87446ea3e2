"""Offline proofs: one spelling, and nothing in them is believed that a signature or a hash does not bind."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.tlog.errors import LogError, MalformedError, UntrustedError
from assay.tlog.merkle import Hash, leaf_hash
from assay.tlog.note import Note, NoteSignature, format_note, parse_note
from assay.tlog.policy import parse_policy
from assay.tlog.tlog_proof import (
    HEADER,
    MAX_EXTRA_SIZE,
    MAX_PROOF_SIZE,
    TlogProof,
    format_proof,
    parse_proof,
    verify_proof,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "vectors/tlog/golden.json").read_text())
POLICY = parse_policy(GOLDEN["policy"])
LEAVES = [leaf_hash(each.encode()) for each in GOLDEN["leaves"]]
DATA = GOLDEN["proof"].encode()
PROOF = parse_proof(DATA)
LEAF = LEAVES[GOLDEN["proof_index"]]
CHECKPOINT = GOLDEN["cosigned_checkpoint"].encode()


def test_golden_proof_verifies() -> None:
    found = verify_proof(PROOF, leaf=LEAF, policy=POLICY)
    assert (found.index, found.leaf, found.cosigned.checkpoint.size) == (3, LEAF, 6)
    assert found.cosigned.quorum_time_s == GOLDEN["quorum_time_s"]
    assert PROOF.extra is None


def test_golden_proof_with_extra_data_verifies_and_formats_back() -> None:
    data = GOLDEN["proof_with_extra"].encode()
    proof = parse_proof(data)
    assert proof.extra == b"\x00extra\xff"
    assert format_proof(proof) == data
    assert replace(proof, extra=None) == PROOF
    verify_proof(proof, leaf=LEAF, policy=POLICY)


HASHES = st.lists(st.binary(min_size=32, max_size=32).map(Hash), max_size=63).map(tuple)
EXTRAS = st.none() | st.binary(min_size=1, max_size=100)


@given(st.integers(0, 2**63 - 1), HASHES, EXTRAS)
def test_format_then_parse_is_the_same_proof(
    index: int, hashes: tuple[Hash, ...], extra: bytes | None
) -> None:
    proof = TlogProof(index, hashes, CHECKPOINT, extra)
    assert parse_proof(format_proof(proof)) == proof


@given(st.binary(max_size=80), st.integers(0, 500), st.integers(0, 500))
def test_changed_bytes_are_refused_or_format_back(junk: bytes, start: int, end: int) -> None:
    for data in (junk, DATA[:start] + junk + DATA[end:]):
        try:
            assert format_proof(parse_proof(data)) == data
        except MalformedError:
            continue


def test_every_truncation_is_refused() -> None:
    for length in range(len(DATA)):
        with pytest.raises(LogError):
            verify_proof(parse_proof(DATA[:length]), leaf=LEAF, policy=POLICY)


@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_every_flipped_byte_is_refused_but_in_a_line_that_the_quorum_can_spare(mask: int) -> None:
    """The golden policy asks for w1 by either of its two keys; a flip may turn one of them unknown."""
    spare = [each.encode() for each in GOLDEN["proof"].splitlines(keepends=True) if each.startswith("— w1.")]
    spans = {place for line in spare for place in range(DATA.index(line), DATA.index(line) + len(line))}
    accepted = 0
    for place in range(len(DATA)):
        changed = DATA[:place] + bytes([DATA[place] ^ mask]) + DATA[place + 1 :]
        try:
            found = verify_proof(parse_proof(changed), leaf=LEAF, policy=POLICY)
        except LogError:
            continue
        assert place in spans
        assert len(found.cosigned.cosignatures) == 2
        accepted += 1
    assert accepted < 80


def test_another_leaf_or_index_is_refused() -> None:
    for index, leaf in enumerate(LEAVES):
        if index != 3:
            with pytest.raises(UntrustedError) as caught:
                verify_proof(PROOF, leaf=leaf, policy=POLICY)
            assert caught.value.code == "inclusion"
            with pytest.raises(LogError):
                verify_proof(replace(PROOF, index=index), leaf=LEAF, policy=POLICY)
    for index in (6, 7, 2**63 - 1):
        with pytest.raises(MalformedError):
            verify_proof(replace(PROOF, index=index), leaf=LEAF, policy=POLICY)


def test_missing_additional_swapped_or_changed_hashes_are_refused() -> None:
    first, second, third = PROOF.hashes
    wrong = [
        (),
        (first, second),
        (first, second, third, third),
        (second, first, third),
        (third, second, first),
        (first, second, leaf_hash(b"x")),
    ]
    for hashes in wrong:
        with pytest.raises(LogError):
            verify_proof(replace(PROOF, hashes=hashes), leaf=LEAF, policy=POLICY)


def test_a_checkpoint_that_the_policy_refuses_is_refused() -> None:
    alone = replace(PROOF, checkpoint=GOLDEN["signed_checkpoint"].encode())
    with pytest.raises(UntrustedError) as caught:
        verify_proof(alone, leaf=LEAF, policy=POLICY)
    assert caught.value.code == "quorum"
    with pytest.raises(UntrustedError) as caught:
        verify_proof(PROOF, leaf=LEAF, policy=parse_policy("quorum none\n"))
    assert caught.value.code == "unknown-log"


def edited(old: str, new: str) -> bytes:
    text = GOLDEN["proof_with_extra"]
    assert text.count(old) >= 1
    return text.replace(old, new, 1).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n\n",
        edited(HEADER, "c2sp.org/tlog-proof@v2"),
        edited(HEADER + "\n", ""),
        edited(HEADER, HEADER + " "),
        edited(HEADER, HEADER + "\r"),
        edited(HEADER, "\n" + HEADER),
        edited("index 3\n", ""),
        edited("index 3", "index 03"),
        edited("index 3", "index  3"),
        edited("index 3", "index -3"),
        edited("index 3", "index 3 "),
        edited("index 3", "index"),
        edited("index 3", "3"),
        edited("index 3", "Index 3"),
        edited("index 3", "index ٣"),
        edited("index 3", f"index {2**63}"),
        edited("index 3\n", "index 3\nindex 3\n"),
        edited("index 3\n", "index 3\n\n"),
        edited("index 3\n", "index 3\nAAAA\n"),
        edited("index 3\n", "index 3\n" + "A" * 42 + "B=\n"),
        edited("extra ", "extra"),
        edited("extra ", "extra  "),
        edited("extra AGV4dHJh/w==", "extra "),
        edited("extra AGV4dHJh/w==", "extra AGV4dHJh/x=="),
        edited("extra AGV4dHJh/w==", "extra AGV4dHJh/w"),
        edited("extra AGV4dHJh/w==\n", "extra AGV4dHJh/w==\nextra AGV4dHJh/w==\n"),
        edited("extra AGV4dHJh/w==\nindex 3\n", "index 3\nextra AGV4dHJh/w==\n"),
        GOLDEN["proof"].encode() + b"\n",
        GOLDEN["proof"].encode() + b"x",
        GOLDEN["proof"].encode().replace(b"\n", b"\r\n"),
        f"{HEADER}\nindex 3\n\n".encode(),
        f"{HEADER}\n\n".encode() + CHECKPOINT,
        f"{HEADER}\nextra AA==\n\n".encode() + CHECKPOINT,
        f"{HEADER}\nindex 3\n\nnot a checkpoint\n".encode(),
    ],
)
def test_other_spellings_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_proof(data)


def test_bounds_hold_at_the_edge() -> None:
    hashes = (LEAF,) * 63
    assert parse_proof(format_proof(TlogProof(0, hashes, CHECKPOINT))).hashes == hashes
    with pytest.raises(MalformedError):
        TlogProof(0, (*hashes, LEAF), CHECKPOINT)
    with pytest.raises(MalformedError):
        parse_proof(
            format_proof(TlogProof(0, hashes, CHECKPOINT)).replace(
                b"index 0\n", b"index 0\n" + b"A" * 43 + b"=\n"
            )
        )
    longest = format_proof(TlogProof(0, (), CHECKPOINT, bytes(MAX_EXTRA_SIZE)))
    assert parse_proof(longest).extra == bytes(MAX_EXTRA_SIZE)
    assert max(len(line) for line in longest.split(b"\n")) < 64 * 1024
    with pytest.raises(MalformedError):
        TlogProof(0, (), CHECKPOINT, bytes(MAX_EXTRA_SIZE + 1))
    strangers = tuple(NoteSignature("s.example", bytes(4), bytes(10_000)) for _ in range(76))
    note = parse_note(CHECKPOINT)
    largest = format_note(Note(note.text, (*note.signatures, *strangers)))
    filler = NoteSignature("s.example", bytes(4), bytes((MAX_PROOF_SIZE - len(largest)) * 3 // 4 - 80))
    near = format_note(Note(note.text, (*note.signatures, *strangers, filler)))
    parts = [TlogProof(0, (), near), TlogProof(0, hashes, near)]
    assert len(format_proof(parts[0])) <= MAX_PROOF_SIZE
    assert parse_proof(format_proof(parts[0])) == parts[0]
    with pytest.raises(MalformedError):
        format_proof(parts[1])
    with pytest.raises(MalformedError):
        parse_proof(format_proof(parts[0]).replace(b"index 0\n", b"index 0\n" + (b"A" * 43 + b"=\n") * 63))


@pytest.mark.parametrize(
    "parts",
    [
        {"index": -1},
        {"index": 2**63},
        {"hashes": (Hash(b"short"),)},
        {"extra": b""},
        {"checkpoint": b""},
        {"checkpoint": CHECKPOINT[:-1]},
        {"checkpoint": b"text\n\n\xe2\x80\x94 a AAAAAAA=\n"},
    ],
    ids=repr,
)
def test_proofs_that_no_file_can_say_cannot_be_built(parts: dict) -> None:
    with pytest.raises(MalformedError):
        replace(PROOF, **parts)
