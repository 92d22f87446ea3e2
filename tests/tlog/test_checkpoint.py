"""Checkpoints: three lines in one spelling, and every key of the log."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.tlog.checkpoint import (
    Checkpoint,
    parse_checkpoint,
    parse_signed_checkpoint,
    sign_checkpoint,
    verify_checkpoint,
)
from assay.tlog.cosignature import cosign
from assay.tlog.errors import LogError, MalformedError, UntrustedError
from assay.tlog.keys import KeyType, SignerKey, parse_vkey
from assay.tlog.merkle import EMPTY_ROOT, Hash, leaf_hash
from assay.tlog.note import Note, NoteSignature, format_note, parse_note, verify_note

GOLDEN = json.loads((Path(__file__).parents[1] / "vectors/tlog/golden.json").read_text())
ORIGIN = "log.example/1"
ED = SignerKey(ORIGIN, KeyType.ED25519, bytes(range(32)))
ML_DSA = SignerKey(ORIGIN, KeyType.COSIGNATURE_ML_DSA_44, bytes(range(1, 33)))
LOG_KEYS = (ED.verifier, ML_DSA.verifier)
CHECKPOINT = Checkpoint(ORIGIN, 7, leaf_hash(b"not really a root"))
SIGNED = format_note(sign_checkpoint(CHECKPOINT, (ED, ML_DSA), time_s=1_750_000_000))

ORIGINS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[chr(c) for c in range(32)]), min_size=1
)
ROOTS = st.binary(min_size=32, max_size=32).map(Hash)


@given(ORIGINS, st.integers(0, 2**63 - 1), ROOTS)
def test_text_parses_back_to_the_same_checkpoint(origin: str, size: int, root: Hash) -> None:
    checkpoint = Checkpoint(origin, size, root)
    assert parse_checkpoint(checkpoint.text) == checkpoint
    assert parse_checkpoint(checkpoint.text).text == checkpoint.text


@given(st.text(max_size=60), st.integers(0, 80), st.integers(0, 80))
def test_changed_text_is_refused_or_formats_back(junk: str, start: int, end: int) -> None:
    text = CHECKPOINT.text
    for candidate in (junk, text[:start] + junk + text[end:]):
        try:
            assert parse_checkpoint(candidate).text == candidate
        except MalformedError:
            continue


@pytest.mark.parametrize(
    "size", ["", " 7", "7 ", "+7", "-7", "07", "7_0", "0x7", "７", "٧", str(2**63), "1" * 40, "7\r"]
)
def test_other_spellings_of_the_size_are_refused(size: str) -> None:
    with pytest.raises(MalformedError):
        parse_checkpoint(CHECKPOINT.text.replace("\n7\n", f"\n{size}\n"))


@pytest.mark.parametrize("length", [0, 1, 31, 33, 64])
def test_roots_of_another_length_are_refused(length: int) -> None:
    encoded = base64.b64encode(bytes(length)).decode()
    with pytest.raises(MalformedError):
        parse_checkpoint(f"{ORIGIN}\n7\n{encoded}\n")
    with pytest.raises(MalformedError):
        Checkpoint(ORIGIN, 7, Hash(bytes(length)))


def test_other_spellings_of_the_root_are_refused() -> None:
    encoded = base64.b64encode(CHECKPOINT.root).decode()
    stray_bits = encoded[:-2] + chr(ord(encoded[-2]) + 1) + "="
    for root in (
        encoded[:-1],
        encoded + "=",
        encoded.replace("=", ""),
        stray_bits,
        " " + encoded,
        encoded + " ",
    ):
        with pytest.raises(MalformedError):
            parse_checkpoint(f"{ORIGIN}\n7\n{root}\n")


@pytest.mark.parametrize("extension", ["x\n", "\n", "x\ny\n", "Log frozen — 2026\n"])
def test_extension_lines_are_refused(extension: str) -> None:
    with pytest.raises(MalformedError) as caught:
        parse_checkpoint(CHECKPOINT.text + extension)
    assert caught.value.code == "extension-lines"


@pytest.mark.parametrize("origin", ["", "a\nb", "a\tb", "a\x00"], ids=ascii)
def test_origins_that_no_line_can_carry_are_refused(origin: str) -> None:
    with pytest.raises(MalformedError):
        Checkpoint(origin, 0, EMPTY_ROOT)


@pytest.mark.parametrize("size", [-1, 2**63])
def test_sizes_out_of_range_are_refused(size: int) -> None:
    with pytest.raises(MalformedError):
        Checkpoint(ORIGIN, size, EMPTY_ROOT)


def test_origin_may_hold_spaces_and_plus_signs() -> None:
    assert (
        parse_checkpoint(f"my log + more\n0\n{base64.b64encode(EMPTY_ROOT).decode()}\n").origin
        == "my log + more"
    )


def test_golden_log_of_tessera_verifies_at_every_size(vectors: Path) -> None:
    log = json.loads((vectors / "tlog/tessera/log.json").read_text())
    key = parse_vkey(log["vkey"])
    for size in range(16):
        data = (vectors / f"tlog/tessera/checkpoint.{size}").read_bytes()
        checkpoint = verify_checkpoint(data, log_keys=[key])
        assert (checkpoint.origin, checkpoint.size) == (log["origin"], size)
        assert parse_signed_checkpoint(data).data == data


def test_checkpoint_of_a_log_whose_key_has_another_name(vectors: Path) -> None:
    """This log's key name is not its origin: legal, but only for who knows that and verifies the note."""
    data = (vectors / "sigstruct/checkpoint").read_bytes()
    index = json.loads((vectors / "sigstruct/index.json").read_text())
    key = parse_vkey(index["vkey"])
    checkpoint = parse_checkpoint(verify_note(parse_note(data), [key]).note.text)
    assert (checkpoint.size, base64.b64encode(checkpoint.root).decode()) == (index["size"], index["root"])
    with pytest.raises(UntrustedError) as caught:
        verify_checkpoint(data, log_keys=[key])
    assert caught.value.code == "origin"


def test_golden_checkpoint_verifies_and_its_ed25519_line_is_made_again() -> None:
    keys = [parse_vkey(each["vkey"]) for each in GOLDEN["keys"][:2]]
    for which in ("signed_checkpoint", "cosigned_checkpoint"):
        assert verify_checkpoint(GOLDEN[which].encode(), log_keys=keys).size == 6
    signers = [
        SignerKey(e["name"], KeyType(e["type"]), bytes.fromhex(e["seed_hex"])) for e in GOLDEN["keys"][:2]
    ]
    again = sign_checkpoint(
        verify_checkpoint(GOLDEN["signed_checkpoint"].encode(), log_keys=keys), signers, time_s=1
    )
    assert again.signatures[0].line == GOLDEN["ed25519_signature_line"]
    assert verify_checkpoint(format_note(again), log_keys=keys).size == 6


def test_signed_with_both_keys_verifies_with_each_and_both() -> None:
    for keys in (LOG_KEYS, LOG_KEYS[::-1], LOG_KEYS[:1], LOG_KEYS[1:]):
        assert verify_checkpoint(SIGNED, log_keys=keys) == CHECKPOINT


def test_every_given_key_must_have_signed() -> None:
    for signers, missing in (((ED,), ML_DSA), ((ML_DSA,), ED)):
        data = format_note(sign_checkpoint(CHECKPOINT, signers, time_s=1))
        with pytest.raises(UntrustedError) as caught:
            verify_checkpoint(data, log_keys=LOG_KEYS)
        assert caught.value.code == "missing-signature"
        with pytest.raises(UntrustedError) as caught:
            verify_checkpoint(data, log_keys=[missing.verifier])
        assert caught.value.code == "no-known-signature"


def test_no_keys_at_all_is_refused() -> None:
    with pytest.raises(UntrustedError) as caught:
        verify_checkpoint(SIGNED, log_keys=[])
    assert caught.value.code == "no-log-keys"


def test_key_of_another_name_is_refused_also_beside_the_right_one() -> None:
    stranger = SignerKey("log.example/2", KeyType.ED25519, bytes(range(32)))
    for keys in ([stranger.verifier], [*LOG_KEYS, stranger.verifier]):
        with pytest.raises(UntrustedError) as caught:
            verify_checkpoint(SIGNED, log_keys=keys)
        assert caught.value.code == "origin"


def test_a_witness_type_key_is_no_log_key() -> None:
    key = SignerKey(ORIGIN, KeyType.COSIGNATURE_ED25519, bytes(range(32)))
    note = Note(CHECKPOINT.text, (cosign(CHECKPOINT, key, time_s=1),))
    with pytest.raises(UntrustedError) as caught:
        verify_checkpoint(format_note(note), log_keys=[key.verifier])
    assert caught.value.code == "key-type"
    with pytest.raises(MalformedError):
        sign_checkpoint(CHECKPOINT, [key], time_s=1)


def test_key_of_another_name_does_not_sign() -> None:
    with pytest.raises(MalformedError):
        sign_checkpoint(CHECKPOINT, [SignerKey("x.example", KeyType.ED25519, bytes(32))], time_s=1)
    with pytest.raises(MalformedError):
        sign_checkpoint(CHECKPOINT, [], time_s=1)


def test_an_empty_tree_has_the_empty_root() -> None:
    good, bad = Checkpoint(ORIGIN, 0, EMPTY_ROOT), Checkpoint(ORIGIN, 0, CHECKPOINT.root)
    assert (
        verify_checkpoint(format_note(sign_checkpoint(good, [ED], time_s=1)), log_keys=[ED.verifier]) == good
    )
    with pytest.raises(MalformedError):
        sign_checkpoint(bad, [ED], time_s=1)
    signature = NoteSignature(ORIGIN, ED.verifier.key_id, ED.sign(bad.text.encode()))
    data = format_note(Note(bad.text, (signature,)))
    assert parse_signed_checkpoint(data).checkpoint == bad
    with pytest.raises(UntrustedError) as caught:
        verify_checkpoint(data, log_keys=[ED.verifier])
    assert caught.value.code == "empty-root"


def test_extension_lines_are_refused_although_the_log_signed_them() -> None:
    text = CHECKPOINT.text + "extension\n"
    data = format_note(Note(text, (NoteSignature(ORIGIN, ED.verifier.key_id, ED.sign(text.encode())),)))
    with pytest.raises(MalformedError) as caught:
        verify_checkpoint(data, log_keys=[ED.verifier])
    assert caught.value.code == "extension-lines"


def test_every_truncation_is_refused() -> None:
    for length in range(len(SIGNED)):
        with pytest.raises(LogError):
            verify_checkpoint(SIGNED[:length], log_keys=LOG_KEYS)


@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_every_flipped_byte_is_refused(mask: int) -> None:
    for place in range(len(SIGNED)):
        changed = SIGNED[:place] + bytes([SIGNED[place] ^ mask]) + SIGNED[place + 1 :]
        with pytest.raises(LogError):
            verify_checkpoint(changed, log_keys=LOG_KEYS)


def test_cosignatures_of_strangers_do_not_matter() -> None:
    note = parse_note(SIGNED)
    stranger = NoteSignature("w.example", bytes(4), b"junk")
    data = format_note(Note(note.text, (stranger, *note.signatures, stranger)))
    assert verify_checkpoint(data, log_keys=LOG_KEYS) == CHECKPOINT
