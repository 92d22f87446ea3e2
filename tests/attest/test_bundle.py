"""The bundle: one spelling, bounded, and no byte of it can change unnoticed."""

import json
from dataclasses import replace

import pytest

from assay.attest import bundle, jcs
from assay.attest.bundle import Bundle, format_bundle, parse_bundle
from assay.tlog import merkle
from assay.tlog.errors import MalformedError
from assay.tlog.policy import parse_policy
from assay.tlog.tlog_proof import verify_proof


def refuse(value) -> MalformedError:
    with pytest.raises(MalformedError) as caught:
        parse_bundle(jcs.canonical(value) + b"\n")
    return caught.value


def as_json(make):
    return json.loads(format_bundle(make.bundle()))


def bundles(make) -> list[Bundle]:
    whole = make.bundle()
    return [
        whole,
        replace(whole, answer=None),
        replace(whole, enclave=None, release=None, rebuilds=()),
        replace(whole, rebuilds=whole.rebuilds * bundle.MAX_REBUILDS),
        replace(whole, answer=replace(whole.answer, openings={})),
    ]


def test_parse_inverts_format(make):
    for good in bundles(make):
        data = format_bundle(good)
        assert parse_bundle(data) == good
        assert format_bundle(parse_bundle(data)) == data


def test_the_proofs_in_it_verify(make):
    policy = parse_policy(f"log {make.log_key().verifier}\nquorum none\n")
    good = parse_bundle(format_bundle(make.bundle()))
    for logged in (good.subject, good.enclave.logged, good.release, *good.rebuilds):
        verified = verify_proof(logged.proof, leaf=merkle.leaf_hash(logged.leaf), policy=policy)
        assert verified.leaf == merkle.leaf_hash(logged.leaf)


def test_every_truncation_is_refused(make):
    data = format_bundle(make.bundle())
    for end in range(len(data)):
        with pytest.raises(MalformedError):
            parse_bundle(data[:end])


def test_every_changed_byte_is_refused_or_another_bundle(make):
    good = make.bundle()
    data = format_bundle(good)
    for position in range(len(data)):
        for bit in (1, 0x20):
            changed = bytearray(data)
            changed[position] ^= bit
            try:
                other = parse_bundle(bytes(changed))
            except MalformedError:
                continue
            assert other != good
            assert format_bundle(other) == changed


def test_only_one_newline_ends_it(make):
    data = format_bundle(make.bundle())
    for other in (data[:-1], data + b"\n", data[:-1] + b"\r\n", b"\n" + data, b"\n", b"", data + b" "):
        with pytest.raises(MalformedError):
            parse_bundle(other)


def test_another_spelling_is_refused(make):
    for data in (
        json.dumps(as_json(make), indent=1).encode() + b"\n",
        json.dumps(as_json(make), separators=(",", ":")).encode("utf-16") + b"\n",
    ):
        with pytest.raises(MalformedError):
            parse_bundle(data)


def test_the_size_is_bounded():
    with pytest.raises(MalformedError) as caught:
        parse_bundle(b"x" * bundle.MAX_BUNDLE_SIZE + b"x\n")
    assert caught.value.code == "too-large"


def test_members_are_exactly_those_of_the_table(make):
    value = as_json(make)
    for member in value:
        refuse({key: item for key, item in value.items() if key != member})
    for extra in ("key", "policy", "trustedRoot", "verificationMaterial"):
        refuse({**value, extra: {}})


@pytest.mark.parametrize("member", ["mediaType", "subject", "answer", "enclave", "release", "rebuilds"])
def test_members_of_another_type_are_refused(make, member):
    for wrong in (
        1,
        True,
        "",
        "x",
        [1],
        {},
        {"leaf": "AA=="},
        *([None] if member in ("mediaType", "subject", "rebuilds") else []),
    ):
        if (member, wrong) != ("rebuilds", []):
            refuse({**as_json(make), member: wrong})


@pytest.mark.parametrize(
    "media_type",
    [
        "application/vnd.assay.bundle.v0.2+json",
        "application/vnd.dev.sigstore.bundle.v0.3+json",
        "application/json",
    ],
)
def test_another_media_type_is_refused(make, media_type):
    refuse({**as_json(make), "mediaType": media_type})


def test_malformed_logged_leaves_are_refused(make):
    value = as_json(make)
    good = value["subject"]
    for wrong in (
        {**good, "leaf": None},
        {**good, "leaf": "!"},
        {**good, "leaf": "A" * 87_388},
        {**good, "proof": None},
        {**good, "proof": ""},
        {**good, "proof": good["proof"] + "\n"},
        {**good, "proof": good["proof"][:-1]},
        {**good, "proof": good["proof"].replace("index 0", "index 00")},
        {**good, "proof": good["proof"].replace("c2sp.org/tlog-proof@v1", "c2sp.org/tlog-proof@v2")},
        {**good, "collateral": "AA=="},
    ):
        refuse({**value, "subject": wrong})
        refuse({**value, "release": wrong})
        refuse({**value, "rebuilds": [wrong]})
        if "collateral" not in wrong:
            refuse({**value, "enclave": {**wrong, "collateral": "AA=="}})
    refuse({**value, "rebuilds": value["rebuilds"] * (bundle.MAX_REBUILDS + 1)})
    for collateral in (None, "!", 1, "A" * 1_398_104):
        refuse({**value, "enclave": {**value["enclave"], "collateral": collateral}})


@pytest.mark.parametrize(
    "change",
    [
        {"openings": None},
        {"openings": []},
        {"openings": {"unknown": {}}},
        {"openings": {"prompt": {}}},
        {"signature": None},
        {"signature": "AAAA"},
        {"timestamp": None},
        {"timestamp": -1},
        {"extra": 1},
    ],
    ids=repr,
)
def test_malformed_answers_are_refused(make, change):
    value = as_json(make)
    refuse({**value, "answer": {**value["answer"], **change}})
    for member in value["answer"]:
        refuse({**value, "answer": {key: item for key, item in value["answer"].items() if key != member}})


def test_a_field_is_erased_by_deleting_its_opening(make):
    good = make.bundle()
    openings = {"result": good.answer.openings["result"]}
    erased = format_bundle(replace(good, answer=replace(good.answer, openings=openings)))
    assert parse_bundle(erased).answer.openings == openings
    assert b"countable" in format_bundle(good)
    assert b"countable" not in erased
