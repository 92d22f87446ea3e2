"""Cosignatures: every field of the signed messages is bound, and times are where they may be."""

import base64
import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.tlog.checkpoint import Checkpoint, verify_checkpoint
from assay.tlog.cosignature import (
    Subtree,
    cosign,
    cosign_subtree,
    verify_cosignature,
    verify_subtree_cosignature,
)
from assay.tlog.errors import LogError, MalformedError, UntrustedError
from assay.tlog.keys import KeyType, SignerKey, parse_vkey
from assay.tlog.merkle import Hash, leaf_hash
from assay.tlog.note import Note, NoteSignature, format_note, parse_note, parse_signature_lines, verify_note

OURS = Path(__file__).parents[1] / "vectors/tlog"
GOLDEN = json.loads((OURS / "golden.json").read_text())
ED = SignerKey("w.example/witness", KeyType.COSIGNATURE_ED25519, bytes(range(32)))
ML_DSA = SignerKey("w.example/witness", KeyType.COSIGNATURE_ML_DSA_44, bytes(range(1, 33)))
BOTH = pytest.mark.parametrize("signer", [ED, ML_DSA], ids=["ed25519", "ml-dsa-44"])
CHECKPOINT = Checkpoint("log.example", 300, leaf_hash(b"some root"))
SUBTREE = Subtree("log.example", 8, 13, leaf_hash(b"some subtree"))
TIME_S = 1_750_000_000


def judged(case: dict[str, Any]) -> bool:
    """Whether the library accepts a vector's line, by its own verifier and as part of a note."""
    key = parse_vkey(case["cosigner_vkey"])
    try:
        (line,) = parse_signature_lines(case["line"])
        if case["kind"] == "subtree":
            root = Hash(base64.b64decode(case["hash"]))
            subtree = Subtree(case["origin"], case["start"], case["end"], root)
            found = verify_subtree_cosignature(subtree, line, key)
        else:
            checkpoint = verify_checkpoint(
                case["checkpoint"].encode(), log_keys=[parse_vkey(case["log_vkey"])]
            )
            assert (checkpoint.origin, checkpoint.size) == (case["origin"], case["end"])
            found = verify_cosignature(checkpoint, line, key)
            assert verify_note(parse_note((case["checkpoint"] + case["line"]).encode()), [key]).keys == (key,)
    except LogError:
        return False
    assert (found.key, found.time_s) == (key, case["time"])
    return True


def test_our_own_vectors_agree() -> None:
    cases = json.loads((OURS / "cosignatures.json").read_text())["cases"]
    assert len(cases) == 12
    assert {case["name"]: judged(case) for case in cases} == {case["name"]: case["valid"] for case in cases}


def test_copied_vectors_are_the_shared_ones(vectors: Path) -> None:
    assert (OURS / "cosignatures.json").read_bytes() == (vectors / "tlog/cosignatures.json").read_bytes()


def test_golden_log_vectors_agree(vectors: Path) -> None:
    cases = json.loads((vectors / "tlog/cosignatures_golden_log.json").read_text())["cases"]
    assert {case["name"]: judged(case) for case in cases} == {case["name"]: case["valid"] for case in cases}


def test_golden_lines_verify_and_the_ed25519_one_is_made_again() -> None:
    note = parse_note(GOLDEN["cosigned_checkpoint"].encode())
    keys = [parse_vkey(each["vkey"]) for each in GOLDEN["keys"]]
    assert len(verify_note(note, keys).keys) == 5
    signer = SignerKey(keys[2].name, keys[2].type, bytes.fromhex(GOLDEN["keys"][2]["seed_hex"]))
    checkpoint = verify_checkpoint(GOLDEN["cosigned_checkpoint"].encode(), log_keys=keys[:2])
    line = cosign(checkpoint, signer, time_s=GOLDEN["ed25519_cosignature_time_s"]).line
    assert line == GOLDEN["ed25519_cosignature_line"]
    subtree = GOLDEN["subtree"]
    verify_subtree_cosignature(
        Subtree(checkpoint.origin, subtree["start"], subtree["end"], Hash(base64.b64decode(subtree["hash"]))),
        parse_signature_lines(subtree["line"])[0],
        keys[5],
    )


@BOTH
@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_what_is_cosigned_verifies_with_its_time(
    signer: SignerKey, time_s: int, size: int, root: bytes
) -> None:
    checkpoint = Checkpoint("log.example", size, Hash(root))
    found = verify_cosignature(checkpoint, cosign(checkpoint, signer, time_s=time_s), signer.verifier)
    assert (found.key, found.time_s) == (signer.verifier, time_s)


def test_signed_messages_are_those_of_the_specification() -> None:
    """The messages written out again from the document, checked with the bare keys."""
    blob = cosign(CHECKPOINT, ED, time_s=TIME_S).blob
    assert blob[:8] == struct.pack(">Q", TIME_S)
    message = b"cosignature/v1\ntime 1750000000\n" + CHECKPOINT.text.encode()
    ED.verifier.verify(blob[8:], message=message)

    blob = cosign(CHECKPOINT, ML_DSA, time_s=TIME_S).blob
    name, origin = b"w.example/witness", b"log.example"
    message = (
        b"subtree/v1\n\x00"
        + bytes([len(name)]) + name
        + struct.pack(">Q", TIME_S)
        + bytes([len(origin)]) + origin
        + struct.pack(">QQ", 0, 300)
        + CHECKPOINT.root
    )  # fmt: skip
    ML_DSA.verifier.verify(blob[8:], message=message)
    assert len(blob) == 2428
    subtree = Subtree("log.example", 0, 300, CHECKPOINT.root)
    line = NoteSignature(ML_DSA.name, ML_DSA.verifier.key_id, blob)
    assert verify_subtree_cosignature(subtree, line, ML_DSA.verifier).time_s == TIME_S


@BOTH
def test_every_other_checkpoint_is_refused(signer: SignerKey) -> None:
    line = cosign(CHECKPOINT, signer, time_s=TIME_S)
    others = [
        replace(CHECKPOINT, origin="log.example/2"),
        replace(CHECKPOINT, size=299),
        replace(CHECKPOINT, size=301),
        replace(CHECKPOINT, root=leaf_hash(b"another")),
    ]
    for other in others:
        with pytest.raises(UntrustedError) as caught:
            verify_cosignature(other, line, signer.verifier)
        assert caught.value.code == "signature"


@BOTH
def test_every_flipped_byte_and_truncation_of_the_blob_is_refused(signer: SignerKey) -> None:
    line = cosign(CHECKPOINT, signer, time_s=TIME_S)
    for place in range(len(line.blob)):
        flipped = line.blob[:place] + bytes([line.blob[place] ^ 0x80]) + line.blob[place + 1 :]
        with pytest.raises(UntrustedError) as caught:
            verify_cosignature(CHECKPOINT, replace(line, blob=flipped), signer.verifier)
        assert caught.value.code == "signature"
    for length in range(1, len(line.blob)):
        with pytest.raises(UntrustedError):
            verify_cosignature(CHECKPOINT, replace(line, blob=line.blob[:length]), signer.verifier)
    with pytest.raises(UntrustedError):
        verify_cosignature(CHECKPOINT, replace(line, blob=line.blob + b"\x00"), signer.verifier)


@BOTH
def test_line_of_another_name_or_key_is_refused(signer: SignerKey) -> None:
    line = cosign(CHECKPOINT, signer, time_s=TIME_S)
    renamed = SignerKey("w2.example", signer.type, signer.seed)
    other = SignerKey(signer.name, signer.type, bytes(32))
    for key in (renamed.verifier, other.verifier):
        with pytest.raises(UntrustedError):
            verify_cosignature(CHECKPOINT, line, key)
    for changed in (replace(line, name="w2.example"), replace(line, key_id=bytes(4))):
        with pytest.raises(UntrustedError):
            verify_cosignature(CHECKPOINT, changed, signer.verifier)


def test_ml_dsa_binds_the_cosigners_name_and_ed25519_does_not() -> None:
    for signer, bound in ((ML_DSA, True), (ED, False)):
        renamed = SignerKey("w2.example", signer.type, signer.seed).verifier
        line = replace(cosign(CHECKPOINT, signer, time_s=TIME_S), name=renamed.name, key_id=renamed.key_id)
        if bound:
            with pytest.raises(UntrustedError):
                verify_cosignature(CHECKPOINT, line, renamed)
        else:
            verify_cosignature(CHECKPOINT, line, renamed)


def test_an_ed25519_note_signature_is_no_cosignature_and_the_reverse() -> None:
    note_key = SignerKey(ED.name, KeyType.ED25519, ED.seed)
    assert note_key.verifier.public_key == ED.verifier.public_key
    cosigned = cosign(CHECKPOINT, ED, time_s=TIME_S)
    signed = NoteSignature(ED.name, note_key.verifier.key_id, note_key.sign(CHECKPOINT.text.encode()))
    as_note = Note(
        CHECKPOINT.text, (replace(cosigned, key_id=note_key.verifier.key_id, blob=cosigned.blob[8:]),)
    )
    with pytest.raises(UntrustedError):
        verify_note(as_note, [note_key.verifier])
    forged = replace(signed, key_id=ED.verifier.key_id, blob=bytes(8) + signed.blob)
    with pytest.raises(UntrustedError):
        verify_cosignature(CHECKPOINT, forged, ED.verifier)
    with pytest.raises(UntrustedError) as caught:
        verify_cosignature(CHECKPOINT, signed, note_key.verifier)
    assert caught.value.code == "key-type"
    with pytest.raises(MalformedError):
        cosign(CHECKPOINT, note_key, time_s=TIME_S)


@BOTH
@pytest.mark.parametrize("time_s", [-1, 2**63])
def test_times_out_of_range_are_neither_made_nor_believed(signer: SignerKey, time_s: int) -> None:
    with pytest.raises(MalformedError):
        cosign(CHECKPOINT, signer, time_s=time_s)
    blob = struct.pack(">Q", 2**63) + cosign(CHECKPOINT, signer, time_s=0).blob[8:]
    line = NoteSignature(signer.name, signer.verifier.key_id, blob)
    with pytest.raises(UntrustedError):
        verify_cosignature(CHECKPOINT, line, signer.verifier)


def test_a_time_above_the_limit_is_refused_although_it_is_signed() -> None:
    time_s = 2**63
    message = f"cosignature/v1\ntime {time_s}\n{CHECKPOINT.text}".encode()
    blob = struct.pack(">Q", time_s) + ED.sign(message)
    with pytest.raises(UntrustedError):
        verify_cosignature(CHECKPOINT, NoteSignature(ED.name, ED.verifier.key_id, blob), ED.verifier)


def test_ml_dsa_binds_origins_up_to_255_bytes_only() -> None:
    longest = replace(CHECKPOINT, origin="é" * 127 + "x")
    verify_cosignature(longest, cosign(longest, ML_DSA, time_s=1), ML_DSA.verifier)
    too_long = replace(CHECKPOINT, origin="é" * 128)
    with pytest.raises(MalformedError):
        cosign(too_long, ML_DSA, time_s=1)
    verify_cosignature(too_long, cosign(too_long, ED, time_s=1), ED.verifier)


# --- subtrees


def test_subtree_cosignature_verifies_and_every_other_subtree_is_refused() -> None:
    line = cosign_subtree(SUBTREE, ML_DSA, time_s=0)
    assert verify_subtree_cosignature(SUBTREE, line, ML_DSA.verifier).time_s == 0
    others = [
        replace(SUBTREE, origin="log.example/2"),
        replace(SUBTREE, start=0),
        replace(SUBTREE, end=14),
        replace(SUBTREE, start=16, end=21),
        replace(SUBTREE, root=leaf_hash(b"another")),
    ]
    for other in others:
        with pytest.raises(UntrustedError):
            verify_subtree_cosignature(other, line, ML_DSA.verifier)


def test_subtree_not_at_zero_carries_no_time_even_if_it_is_signed() -> None:
    with pytest.raises(MalformedError):
        cosign_subtree(SUBTREE, ML_DSA, time_s=1)
    name, origin = ML_DSA.name.encode(), SUBTREE.origin.encode()
    message = (
        b"subtree/v1\n\x00" + bytes([len(name)]) + name + struct.pack(">Q", 1) + bytes([len(origin)]) + origin
        + struct.pack(">QQ", 8, 13) + SUBTREE.root
    )  # fmt: skip
    blob = struct.pack(">Q", 1) + ML_DSA.sign(message)
    with pytest.raises(MalformedError):
        verify_subtree_cosignature(
            SUBTREE, NoteSignature(ML_DSA.name, ML_DSA.verifier.key_id, blob), ML_DSA.verifier
        )


def test_ed25519_keys_cosign_no_subtrees() -> None:
    with pytest.raises(MalformedError):
        cosign_subtree(SUBTREE, ED, time_s=0)
    line = cosign(CHECKPOINT, ED, time_s=0)
    with pytest.raises(UntrustedError) as caught:
        verify_subtree_cosignature(Subtree("log.example", 0, 300, CHECKPOINT.root), line, ED.verifier)
    assert caught.value.code == "key-type"


def test_subtrees_end_where_numbers_end() -> None:
    largest = Subtree("log.example", 0, 2**63 - 1, SUBTREE.root)
    verify_subtree_cosignature(largest, cosign_subtree(largest, ML_DSA, time_s=0), ML_DSA.verifier)
    with pytest.raises(MalformedError):
        cosign_subtree(replace(largest, end=2**63), ML_DSA, time_s=0)


def test_subtree_blob_of_another_length_is_refused() -> None:
    line = cosign_subtree(SUBTREE, ML_DSA, time_s=0)
    for blob in (line.blob[:-1], line.blob + b"\x00", b"\x00"):
        with pytest.raises(LogError):
            verify_subtree_cosignature(SUBTREE, replace(line, blob=blob), ML_DSA.verifier)


@pytest.mark.parametrize(("start", "end"), [(1, 3), (8, 17), (12, 17), (5, 4), (-1, 3), (4, 12), (6, 9)])
def test_ranges_that_are_no_subtree_are_refused(start: int, end: int) -> None:
    with pytest.raises(MalformedError):
        Subtree("log.example", start, end, SUBTREE.root)


def test_subtrees_with_bad_origin_or_hash_are_refused() -> None:
    for origin, root in (("", SUBTREE.root), ("a\nb", SUBTREE.root), ("a", Hash(b"short"))):
        with pytest.raises(MalformedError):
            Subtree(origin, 8, 13, root)


def test_key_id_is_computed_with_the_cosignature_type() -> None:
    for signer, kind in ((ED, b"\x04"), (ML_DSA, b"\x06")):
        expected = hashlib.sha256(signer.name.encode() + b"\n" + kind + signer.verifier.public_key).digest()[
            :4
        ]
        assert cosign(CHECKPOINT, signer, time_s=1).key_id == expected


def test_note_with_a_cosignature_formats_back() -> None:
    note = Note(CHECKPOINT.text, (cosign(CHECKPOINT, ED, time_s=1), cosign(CHECKPOINT, ML_DSA, time_s=1)))
    assert parse_note(format_note(note)) == note
