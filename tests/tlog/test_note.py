"""Signed notes: one spelling, bounds, and who counts as having signed."""

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from assay.tlog.cosignature import cosign
from assay.tlog.errors import LogError, MalformedError, UntrustedError
from assay.tlog.keys import KeyType, SignerKey, VerifierKey, parse_vkey
from assay.tlog.merkle import EMPTY_ROOT
from assay.tlog.note import (
    MAX_NOTE_SIZE,
    MAX_SIGNATURES,
    Note,
    NoteSignature,
    format_note,
    parse_note,
    parse_signature_lines,
    verify_note,
)
from assay.tlog.tree_head import Checkpoint

GOLDEN = json.loads((Path(__file__).parents[1] / "vectors/tlog/golden.json").read_text())
SIGNER = SignerKey("a.example/log", KeyType.ED25519, bytes(range(32)))
OTHER = SignerKey("b.example/log", KeyType.ED25519, bytes(range(1, 33)))
TEXT = "first line\n\nthird line é\n"


def sign(text: str, signer: SignerKey = SIGNER) -> NoteSignature:
    return NoteSignature(signer.name, signer.verifier.key_id, signer.sign(text.encode()))


def unknown_line(name: str = "c.example") -> NoteSignature:
    return NoteSignature(name, b"\x01\x02\x03\x04", bytes(64))


SAFE = st.characters(exclude_categories=["Cs"], exclude_characters=[chr(c) for c in range(32) if c != 10])
NAMES = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], exclude_characters="+"),
    min_size=1,
    max_size=20,
)
SIGNATURES = st.builds(
    NoteSignature, NAMES, st.binary(min_size=4, max_size=4), st.binary(min_size=1, max_size=80)
)
NOTES = st.builds(
    Note,
    st.text(SAFE, max_size=80).map(lambda text: text + "\n"),
    st.lists(SIGNATURES, min_size=1, max_size=5).map(tuple),
)


def accepted(note: str, vkey: str) -> bool:
    try:
        verify_note(parse_note(note.encode()), [parse_vkey(vkey)])
    except LogError:
        return False
    return True


def test_vectors_agree_on_every_note(vectors: Path) -> None:
    cases = json.loads((vectors / "tlog/signed_note.json").read_text())["notes"]
    assert {case["name"]: accepted(case["note"], case["vkey"]) for case in cases} == {
        case["name"]: case["valid"] for case in cases
    }


def test_golden_ed25519_line_is_made_again() -> None:
    note = parse_note(GOLDEN["signed_checkpoint"].encode())
    signer = GOLDEN["keys"][0]
    key = SignerKey(signer["name"], KeyType.ED25519, bytes.fromhex(signer["seed_hex"]))
    assert sign(note.text, key).line == GOLDEN["ed25519_signature_line"] == note.signatures[0].line


@given(NOTES)
def test_format_then_parse_is_the_same_note(note: Note) -> None:
    assert parse_note(format_note(note)) == note


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 400))
def test_changed_bytes_are_refused_or_format_back(junk: bytes, start: int, end: int) -> None:
    data = format_note(Note(TEXT, (unknown_line("é"), sign(TEXT))))
    for candidate in (junk, data[:start] + junk + data[end:]):
        try:
            note = parse_note(candidate)
        except MalformedError:
            continue
        assert format_note(note) == candidate


def test_text_ends_at_the_last_blank_line() -> None:
    note = parse_note(format_note(Note(TEXT, (sign(TEXT),))))
    assert note.text == TEXT
    for text in ("\n", "\n\n", "a\n\n\n", "— a.example/log AAAAAAA=\n"):
        assert parse_note(format_note(Note(text, (sign(text),)))).text == text


def test_every_truncation_is_refused() -> None:
    data = format_note(Note(TEXT, (sign(TEXT), sign(TEXT, OTHER))))
    first_line_end = len(data) - len(sign(TEXT, OTHER).line.encode())
    for length in range(len(data)):
        if length == first_line_end:
            continue  # the note without its second signature is a note
        with pytest.raises(LogError):
            verify_note(parse_note(data[:length]), [SIGNER.verifier])
    with pytest.raises(UntrustedError):
        verify_note(parse_note(data[:first_line_end]), [OTHER.verifier])


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_every_flipped_byte_is_refused_but_in_the_line_of_an_unknown_key(mask: int) -> None:
    known, unknown = sign(TEXT), unknown_line("unknown.example")
    data = format_note(Note(TEXT, (unknown, known)))
    start = len(TEXT.encode()) + 1
    unknown_span = range(start, start + len(unknown.line.encode()))
    accepted_at = set()
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
        try:
            note = parse_note(changed)
        except MalformedError:
            continue
        assert format_note(note) == changed
        try:
            verified = verify_note(note, [SIGNER.verifier])
        except UntrustedError:
            continue
        assert verified.note.text == TEXT
        assert verified.note.signatures[1] == known
        accepted_at.add(place)
    assert accepted_at <= set(unknown_span)
    if mask == 0x01:
        assert accepted_at


@pytest.mark.parametrize("control", [chr(c) for c in range(32) if c != 10], ids=ascii)
def test_control_characters_are_refused_in_text_and_lines(control: str) -> None:
    line = sign(TEXT).line
    for data in (f"a{control}b\n\n{line}", f"ab\n\n— a{control} AAAAAAA=\n", f"ab\n\n{line[:-1]}{control}\n"):
        with pytest.raises(MalformedError):
            parse_note(data.encode())
    with pytest.raises(MalformedError):
        Note(f"a{control}\n", (sign(TEXT),))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"\n\n",
        b"text\n",
        b"text\n\n",
        b"text\n\n\n",
        b"text\n\n\xe2\x80\x94 a.example\n",
        b"text\n\n\xe2\x80\x94 a.example \n",
        b"text\n\n\xe2\x80\x94  AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 a.example AAAAAAA= \n",
        b"text\n\n\xe2\x80\x94 a.example  AAAAAAA=\n",
        b"text\n\n \xe2\x80\x94 a.example AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94\xc2\xa0a.example AAAAAAA=\n",
        b"text\n\n\xe2\x80\x93 a.example AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 a+b AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 a\xc2\xa0b AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 a.example AAAAAA==\n",
        b"text\n\n\xe2\x80\x94 a.example AAAA\n",
        b"text\n\n\xe2\x80\x94 a.example AAAAAAB=\n",
        b"text\n\n\xe2\x80\x94 a.example AAAAAAA\n",
        b"text\n\n\xe2\x80\x94 a.example AAA_AAA=\n",
        b"text\n\n\xe2\x80\x94 a.example AAAAAAA=",
        b"text\n\n\xe2\x80\x94 a.example AAAAAAA=\r\n",
        b"text\r\n\r\n\xe2\x80\x94 a.example AAAAAAA=\r\n",
        b"text\n\n\xe2\x80\x94 a.example AAAAAAA=\nx\n",
        b"text\n\nx\n\xe2\x80\x94 a.example AAAAAAA=\n",
        b"te\xffxt\n\n\xe2\x80\x94 a.example AAAAAAA=\n",
        b"te\xed\xa0\x80xt\n\n\xe2\x80\x94 a.example AAAAAAA=\n",
        b"te\xc0\x80xt\n\n\xe2\x80\x94 a.example AAAAAAA=\n",
        b"\xef\xbb\xbf\n\xe2\x80\x94 a.example AAAAAAA=\n",
    ],
)
def test_other_spellings_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_note(data)


def test_a_second_spelling_of_a_signature_has_its_own_code() -> None:
    """A witness answers it like a signature that fails, as other implementations do."""
    for encoded, code in (("AAAAAAB=", "signature-spelling"), ("AAAAAAAAAB==", "signature-spelling"),
                          ("AAAAAA?=", "malformed"), ("AAAAAAA", "malformed"), ("AAAAAAA=\n", "malformed")):  # fmt: skip
        with pytest.raises(MalformedError) as caught:
            parse_note(f"text\n\n— a.example {encoded}\n".encode())
        assert caught.value.code == code


def test_the_smallest_signature_has_one_byte_after_the_key_id() -> None:
    (signature,) = parse_note(b"text\n\n\xe2\x80\x94 a.example AAAAAAA=\n").signatures
    assert signature == NoteSignature("a.example", bytes(4), b"\x00")


@pytest.mark.parametrize("count", [1, 16, 17, MAX_SIGNATURES])
def test_a_known_line_is_found_among_many(count: int) -> None:
    lines = tuple(unknown_line(f"u{i}.example") for i in range(count - 1))
    note = parse_note(format_note(Note(TEXT, (*lines, sign(TEXT)))))
    assert verify_note(note, [SIGNER.verifier]).keys == (SIGNER.verifier,)


def test_more_signatures_or_bytes_than_the_bounds_are_refused() -> None:
    line = unknown_line().line
    parse_note(f"t\n\n{line * MAX_SIGNATURES}".encode())
    with pytest.raises(MalformedError):
        parse_note(f"t\n\n{line * (MAX_SIGNATURES + 1)}".encode())
    with pytest.raises(MalformedError):
        Note("t\n", (unknown_line(),) * (MAX_SIGNATURES + 1))
    fitting = MAX_NOTE_SIZE - len(f"\n\n{line}".encode())
    assert len(format_note(parse_note(f"{'t' * fitting}\n\n{line}".encode()))) == MAX_NOTE_SIZE
    with pytest.raises(MalformedError):
        parse_note(f"{'t' * (fitting + 1)}\n\n{line}".encode())
    with pytest.raises(MalformedError):
        format_note(Note("t" * (fitting + 1) + "\n", (unknown_line(),)))


def test_sixteen_ml_dsa_cosignatures_fit_a_note() -> None:
    lines = tuple(NoteSignature(f"w{i}.example", bytes(4), bytes(2428)) for i in range(MAX_SIGNATURES))
    assert len(parse_note(format_note(Note(TEXT, lines))).signatures) == MAX_SIGNATURES


@pytest.mark.parametrize("text", ["", "no newline", "a\tb\n", "a\rb\n"])
def test_texts_that_no_note_has_cannot_be_built(text: str) -> None:
    with pytest.raises(MalformedError):
        Note(text, (sign(TEXT),))
    with pytest.raises(MalformedError):
        Note(TEXT, ())


@pytest.mark.parametrize(
    "signature", [("a b", bytes(4), b"x"), ("a", bytes(3), b"x"), ("a", bytes(5), b"x"), ("a", bytes(4), b"")]
)
def test_signature_lines_that_no_note_has_cannot_be_built(signature: tuple[str, bytes, bytes]) -> None:
    with pytest.raises(MalformedError):
        NoteSignature(*signature)


# --- who signed


def test_unknown_lines_are_ignored_also_if_only_name_or_only_id_is_known() -> None:
    good = sign(TEXT)
    same_name = NoteSignature(SIGNER.name, b"\xff" * 4, good.blob)
    same_id = NoteSignature(OTHER.name, good.key_id, good.blob)
    for lines in ((same_name, same_id, good), (good, same_id, same_name)):
        assert verify_note(Note(TEXT, lines), [SIGNER.verifier, OTHER.verifier]).keys == (SIGNER.verifier,)
    for lines in ((same_name,), (same_id,), (same_name, same_id)):
        with pytest.raises(UntrustedError) as caught:
            verify_note(Note(TEXT, lines), [SIGNER.verifier, OTHER.verifier])
        assert caught.value.code == "no-known-signature"


def test_no_known_key_at_all_is_refused() -> None:
    with pytest.raises(UntrustedError) as caught:
        verify_note(Note(TEXT, (sign(TEXT),)), [])
    assert caught.value.code == "no-known-signature"


def test_a_known_keys_bad_signature_rejects_the_note_beside_good_ones() -> None:
    bad = NoteSignature(OTHER.name, OTHER.verifier.key_id, bytes(64))
    keys = [SIGNER.verifier, OTHER.verifier]
    for lines in ((sign(TEXT), bad), (bad, sign(TEXT)), (sign(TEXT, OTHER), bad, sign(TEXT))):
        with pytest.raises(UntrustedError) as caught:
            verify_note(Note(TEXT, lines), keys)
        assert caught.value.code == "signature"
    assert verify_note(Note(TEXT, (sign(TEXT), bad)), [SIGNER.verifier]).keys == (SIGNER.verifier,)


def test_repeated_lines_count_once_and_a_bad_repeat_is_refused() -> None:
    good, bad = sign(TEXT), NoteSignature(SIGNER.name, SIGNER.verifier.key_id, bytes(64))
    assert verify_note(Note(TEXT, (good, good, good)), [SIGNER.verifier]).keys == (SIGNER.verifier,)
    for lines in ((good, bad), (bad, good)):
        with pytest.raises(UntrustedError):
            verify_note(Note(TEXT, lines), [SIGNER.verifier])


def test_a_signature_on_another_text_is_refused() -> None:
    for text in (TEXT + "\n", TEXT[:-2] + "\n", TEXT.replace("\n\n", "\n"), TEXT.upper()):
        with pytest.raises(UntrustedError):
            verify_note(Note(text, (sign(TEXT),)), [SIGNER.verifier])


def test_keys_that_verified_are_returned_in_the_order_of_their_lines() -> None:
    keys = [SIGNER.verifier, OTHER.verifier, SIGNER.verifier]
    note = Note(TEXT, (sign(TEXT, OTHER), sign(TEXT), sign(TEXT, OTHER)))
    assert verify_note(note, keys).keys == (OTHER.verifier, SIGNER.verifier)


def test_two_keys_with_one_name_and_id_are_refused_before_anything_is_verified() -> None:
    name, seen = "collision.example", {}
    for number in range(2**20):
        key = VerifierKey(name, KeyType.ED25519, number.to_bytes(32, "little")) if number > 1 else None
        if key is not None and (other := seen.setdefault(key.key_id, key)) is not key:
            break
    else:
        pytest.fail("no collision found")
    with pytest.raises(UntrustedError) as caught:
        verify_note(Note(TEXT, (sign(TEXT),)), [SIGNER.verifier, key, other])
    assert caught.value.code == "ambiguous-key"


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda c: c.name)
def test_ecdsa_signed_notes_verify(curve: ec.EllipticCurve) -> None:
    private = ec.derive_private_key(7, curve)
    spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key = VerifierKey("rekor.example", KeyType.ECDSA, spki)
    signature = NoteSignature(key.name, key.key_id, private.sign(TEXT.encode(), ec.ECDSA(SHA256())))
    assert verify_note(Note(TEXT, (signature,)), [key]).keys == (key,)
    with pytest.raises(UntrustedError):
        verify_note(Note(TEXT + "x\n", (signature,)), [key])


def test_cosignatures_verify_in_notes_and_ml_dsa_only_over_checkpoints() -> None:
    checkpoint = Checkpoint("log.example", 0, EMPTY_ROOT)
    ed = SignerKey("w.example", KeyType.COSIGNATURE_ED25519, bytes(32))
    ml_dsa = SignerKey("w.example", KeyType.COSIGNATURE_ML_DSA_44, bytes(32))
    lines = (cosign(checkpoint, ed, time_s=5), cosign(checkpoint, ml_dsa, time_s=5))
    keys = [ed.verifier, ml_dsa.verifier]
    assert verify_note(Note(checkpoint.text, lines), keys).keys == tuple(keys)
    extended = checkpoint.text + "extension\n"
    with pytest.raises(MalformedError) as caught:
        verify_note(Note(extended, lines[1:]), keys)
    assert caught.value.code == "extension-lines"
    with pytest.raises(UntrustedError):
        verify_note(Note(extended, lines[:1]), keys)


def test_signature_lines_alone_parse_and_format_back() -> None:
    text = sign(TEXT).line + unknown_line().line
    assert "".join(each.line for each in parse_signature_lines(text)) == text
    for refused in ("", "\n", text + "\n", "\n" + text, text[:-1], text + "x"):
        with pytest.raises(MalformedError):
            parse_signature_lines(refused)
