"""The witness wire format: one spelling, bounded, bytes kept as they came."""

import base64
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.tlog.checkpoint import parse_signed_checkpoint, verify_checkpoint
from assay.tlog.errors import MalformedError
from assay.tlog.keys import parse_vkey
from assay.tlog.merkle import Hash
from assay.tlog.note import NoteSignature
from assay.tlog.proof import verify_consistency
from assay.tlog.witness_protocol import (
    MAX_BODY_SIZE,
    AddCheckpoint,
    format_add_checkpoint,
    format_cosignature_lines,
    format_size_body,
    origin_hash,
    parse_add_checkpoint,
    parse_cosignature_lines,
    parse_size_body,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "vectors/tlog/golden.json").read_text())
BODY = GOLDEN["add_checkpoint"].encode()
REQUEST = parse_add_checkpoint(BODY)
HASH_LINE = "A" * 43 + "=\n"
HASHES = st.lists(st.binary(min_size=32, max_size=32).map(Hash), max_size=63).map(tuple)


def test_golden_request_is_a_consistent_growth() -> None:
    keys = [parse_vkey(each["vkey"]) for each in GOLDEN["keys"][:2]]
    checkpoint = verify_checkpoint(REQUEST.checkpoint, log_keys=keys)
    verify_consistency(
        old_size=REQUEST.old_size,
        old_root=Hash(base64.b64decode(GOLDEN["old_root"])),
        new_size=checkpoint.size,
        new_root=checkpoint.root,
        proof=REQUEST.proof,
    )
    assert format_add_checkpoint(REQUEST) == BODY


def test_vectors_parse_and_format_back(vectors: Path) -> None:
    steps = json.loads((vectors / "tlog/witness_add_checkpoint.json").read_text())["steps"]
    assert len(steps) == 11
    for step in steps:
        body = step["body"].encode()
        request = parse_add_checkpoint(body)
        assert format_add_checkpoint(request) == body
        if step["status"] not in (400, 403):
            parse_signed_checkpoint(request.checkpoint)
        else:  # the signature of the 403 is in a second spelling, which the parser refuses already
            with pytest.raises(MalformedError):
                parse_signed_checkpoint(request.checkpoint)


@given(st.integers(0, 2**63 - 1), HASHES, st.binary(min_size=1, max_size=60))
def test_format_then_parse_is_the_same_request(
    old_size: int, proof: tuple[Hash, ...], checkpoint: bytes
) -> None:
    request = AddCheckpoint(old_size, proof, checkpoint)
    assert parse_add_checkpoint(format_add_checkpoint(request)) == request


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 400))
def test_changed_bytes_are_refused_or_format_back(junk: bytes, start: int, end: int) -> None:
    for body in (junk, BODY[:start] + junk + BODY[end:]):
        try:
            assert format_add_checkpoint(parse_add_checkpoint(body)) == body
        except MalformedError:
            continue


def test_every_truncation_is_refused_by_the_request_or_by_its_checkpoint() -> None:
    lines_end = (
        len(BODY) - len(GOLDEN["signed_checkpoint"].split("\n— ", 2)[-1].encode()) - len("— ".encode())
    )
    for length in range(len(BODY)):
        if length == lines_end:
            parse_signed_checkpoint(parse_add_checkpoint(BODY[:length]).checkpoint)  # one signature less
            continue
        with pytest.raises(MalformedError):
            parse_signed_checkpoint(parse_add_checkpoint(BODY[:length]).checkpoint)


def test_every_flipped_byte_changes_the_request_or_is_refused() -> None:
    for mask in (0x01, 0x20, 0x80):
        for place in range(len(BODY)):
            changed = BODY[:place] + bytes([BODY[place] ^ mask]) + BODY[place + 1 :]
            try:
                request = parse_add_checkpoint(changed)
            except MalformedError:
                continue
            assert request != REQUEST
            assert format_add_checkpoint(request) == changed


@pytest.mark.parametrize(
    "head",
    [
        "",
        "\n",
        "old\n\n",
        "old \n\n",
        "old 03\n\n",
        "3\n\n",
        "old +3\n\n",
        "old -3\n\n",
        "old 3 \n\n",
        "old  3\n\n",
        " old 3\n\n",
        "old 3\r\n\r\n",
        "Old 3\n\n",
        "old ３\n\n",
        f"old {2**63}\n\n",
        "old 3\n",
        "\nold 3\n\n",
        "old 3\nAAAA\n\n",
        "old 3\n" + HASH_LINE[:-2] + "\n\n",
        "old 3\n " + HASH_LINE + "\n",
        "old 3\n" + "A" * 42 + "B=\n\n",
        "old 3\n" + HASH_LINE.replace("A", "_") + "\n",
        "old 3\n" + HASH_LINE * 64 + "\n",
        "old 3\nold 3\n\n",
        "old 3\n\udcff\n\n",
    ],
    ids=ascii,
)
def test_other_spellings_of_the_request_are_refused(head: str) -> None:
    for checkpoint in (REQUEST.checkpoint, b"x"):
        with pytest.raises(MalformedError):
            parse_add_checkpoint(head.encode("utf-8", "surrogateescape") + checkpoint)


def test_a_request_without_checkpoint_is_refused() -> None:
    for body in (b"", b"old 3", b"old 3\n", b"old 3\n\n"):
        with pytest.raises(MalformedError):
            parse_add_checkpoint(body)


def test_bounds_hold_at_the_edge() -> None:
    proof = (Hash(bytes(32)),) * 63
    assert parse_add_checkpoint(format_add_checkpoint(AddCheckpoint(0, proof, b"x"))).proof == proof
    with pytest.raises(MalformedError):
        AddCheckpoint(0, (*proof, proof[0]), b"x")
    largest = b"x" * (MAX_BODY_SIZE - len(b"old 0\n\n"))
    assert len(format_add_checkpoint(AddCheckpoint(0, (), largest))) == MAX_BODY_SIZE
    parse_add_checkpoint(b"old 0\n\n" + largest)
    with pytest.raises(MalformedError):
        parse_add_checkpoint(b"old 0\n\n" + largest + b"x")
    with pytest.raises(MalformedError):
        format_add_checkpoint(AddCheckpoint(0, (), largest + b"x"))


@pytest.mark.parametrize("parts", [(-1, ()), (2**63, ()), (0, (Hash(b"short"),))], ids=repr)
def test_requests_that_no_body_can_say_cannot_be_built(parts: tuple) -> None:
    with pytest.raises(MalformedError):
        AddCheckpoint(*parts, b"x")


def test_cosignature_lines_format_back_and_other_spellings_are_refused() -> None:
    lines = (
        NoteSignature("w.example", bytes(4), bytes(72)),
        NoteSignature("w.example", b"abcd", bytes(2428)),
    )
    body = format_cosignature_lines(lines)
    assert parse_cosignature_lines(body) == lines
    refused = [
        b"",
        b"\n",
        body + b"\n",
        b"\n" + body,
        body[:-1],
        body + b"x\n",
        b"\xff",
        body.replace(b"\n", b"\r\n"),
    ]
    large = format_cosignature_lines([NoteSignature("w.example", bytes(4), bytes(3000))] * 40)
    assert len(large) > MAX_BODY_SIZE
    for bad in (*refused, body * 51, large):
        with pytest.raises(MalformedError):
            parse_cosignature_lines(bad)


@given(st.integers(0, 2**63 - 1))
def test_size_body_formats_back(size: int) -> None:
    assert parse_size_body(format_size_body(size)) == size


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b"3",
        b"03\n",
        b"3\n\n",
        b"\n3\n",
        b" 3\n",
        b"3 \n",
        b"-3\n",
        b"3\r\n",
        b"\xd9\xa3\n",
        b"9" * 19 + b"\n",
        b"1" * 4000 + b"\n",
    ],
)
def test_other_spellings_of_the_size_are_refused(body: bytes) -> None:
    with pytest.raises(MalformedError):
        parse_size_body(body)


def test_origin_hash_is_the_lower_case_hex_sha256_of_the_utf8() -> None:
    assert origin_hash("log.example/é") == hashlib.sha256("log.example/é".encode()).hexdigest()
