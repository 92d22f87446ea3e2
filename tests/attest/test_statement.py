"""Statements: each predicate has one reader; every member missing, unknown or of another type is refused."""

import base64
import copy
import hashlib
import json
from dataclasses import replace

import pytest

from assay.attest import jcs, statement
from assay.attest.gramine.sigstruct import SignedBody, sign_sigstruct
from assay.attest.measurement import Measurement, Tee
from assay.attest.statement import (
    Statement,
    Subject,
    Verdict,
    build_subjects,
    parse_statement,
    release_subjects,
)
from assay.tlog.errors import MalformedError

PREDICATES = ("release", "rebuild", "provenance")

OTHERS = {
    str: [None, 1, True, [], {}, "", "a\x00b"],
    int: [None, "1", -1, 2**53, True, []],
    bool: [None, 0, 1, "false"],
    list: [None, "x", {}, 1],
    dict: [None, "x", [], 1],
    type(None): [False, 0, "", [], {}],
}

FREE = {
    ("predicate", "log_tail"): ["", "a\x00b"],
    ("predicate", "source", "commit"): [None],
    ("predicate", "supersedes"): [None],
    ("predicate", "valid_until"): [None],
}
"""Values of another kind that are good after all, by where they stand."""


def paths(value, path=()):
    """Every member of every object in a JSON value."""
    for key, member in value.items():
        yield (*path, key)
        # What external parameters and dependencies mean is not ours to read.
        if isinstance(member, dict) and key != "externalParameters":
            yield from paths(member, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def changed(value, path, member):
    result = copy.deepcopy(value)
    at(result, path[:-1])[path[-1]] = member
    return result


def refuse(value) -> MalformedError:
    with pytest.raises(MalformedError) as caught:
        parse_statement(jcs.canonical(value))
    return caught.value


def good(make, name: str) -> Statement:
    return make.statement(getattr(make, name)())


@pytest.mark.parametrize("name", PREDICATES)
def test_parse_inverts_payload(make, name):
    said = good(make, name)
    assert parse_statement(said.payload()) == said
    assert parse_statement(said.payload()).payload() == said.payload()
    assert json.loads(said.payload())["predicateType"] == statement.predicate_type(said.predicate)


def test_optional_members_may_be_null(make):
    optional = ("mr_signer", "sigstruct_sha256", "source_commit", "valid_until_ms", "supersedes")
    bare = make.release(advisories=(), **dict.fromkeys(optional))
    assert parse_statement(make.statement(bare).payload()).predicate == bare


@pytest.mark.parametrize("name", PREDICATES)
def test_every_missing_member_is_refused(make, name):
    value = json.loads(good(make, name).payload())
    for path in paths(value):
        without = copy.deepcopy(value)
        del at(without, path[:-1])[path[-1]]
        refuse(without)


@pytest.mark.parametrize("name", PREDICATES)
def test_every_unknown_member_is_refused(make, name):
    value = json.loads(good(make, name).payload())
    objects = {path[:-1] for path in paths(value)} | {("subject", 0), ("subject", 0, "digest")}
    for path in objects:
        refuse(changed(value, (*path, "unknown"), "x"))


@pytest.mark.parametrize("name", PREDICATES)
def test_every_member_of_another_type_is_refused(make, name):
    value = json.loads(good(make, name).payload())
    for path in paths(value):
        for other in OTHERS[type(at(value, path))]:
            if other not in FREE.get(path, []):
                refuse(changed(value, path, other))


@pytest.mark.parametrize("name", PREDICATES)
def test_every_changed_byte_is_refused_or_says_something_else(make, name):
    payload = good(make, name).payload()
    for position in range(len(payload)):
        data = bytearray(payload)
        data[position] ^= 1
        try:
            said = parse_statement(bytes(data))
        except MalformedError:
            continue
        assert said != good(make, name)
        assert said.payload() == data


@pytest.mark.parametrize("name", PREDICATES)
def test_every_truncation_is_refused(make, name):
    payload = good(make, name).payload()
    for end in range(len(payload)):
        with pytest.raises(MalformedError):
            parse_statement(payload[:end])
    with pytest.raises(MalformedError):
        parse_statement(payload + b"\n")


def test_another_spelling_of_a_statement_is_refused(make):
    value = json.loads(good(make, "release").payload())
    with pytest.raises(MalformedError) as caught:
        parse_statement(json.dumps(value).encode())
    assert caught.value.code == "not-canonical"


def test_a_statement_is_bounded(make):
    value = json.loads(good(make, "provenance").payload())
    value["predicate"]["buildDefinition"]["externalParameters"]["x"] = "x" * statement.MAX_STATEMENT_SIZE
    assert refuse(value).code == "too-large"


@pytest.mark.parametrize(
    "uri",
    [
        "urn:assay:measurement:v2",
        "urn:assay:review:v1",
        "https://slsa.dev/provenance/v0.2",
        "URN:assay:measurement:v1",
    ],
)
def test_unknown_predicates_are_refused_by_name(make, uri):
    value = json.loads(good(make, "release").payload())
    assert refuse({**value, "predicateType": uri}).code == "unknown-predicate"


def test_a_predicate_is_not_read_as_another(make):
    values = {name: json.loads(good(make, name).payload()) for name in PREDICATES}
    for name in PREDICATES:
        for other in PREDICATES:
            if name != other:
                refuse({**values[name], "predicateType": values[other]["predicateType"]})


@pytest.mark.parametrize("uri", ["https://in-toto.io/Statement/v0.1", "https://in-toto.io/Statement/v1/"])
def test_another_statement_type_is_refused(make, uri):
    refuse({**json.loads(good(make, "release").payload()), "_type": uri})


@pytest.mark.parametrize("name", ["release", "rebuild"])
def test_subjects_are_those_of_the_digests(make, name):
    value = json.loads(good(make, name).payload())
    subjects = value["subject"]
    assert [subject["name"] for subject in subjects] == ["sigstruct", "manifest.sgx", "libpal", "tree"]
    for other in (
        [],
        subjects[:1],
        subjects[:-1],
        subjects[::-1],
        [*subjects, {"digest": {"sha256": "00" * 32}, "name": "more"}],
        [*subjects[:-1], subjects[0]],
        [{**subjects[0], "name": "enclave"}, *subjects[1:]],
        [{**subjects[0], "digest": {"sha256": make.MR_ENCLAVE.hex()}}, *subjects[1:]],
        [{**subjects[0], "digest": {**subjects[0]["digest"], "sha256": "00" * 32}}, *subjects[1:]],
    ):
        refuse({**value, "subject": other})
    for index in range(4):
        digest = dict.fromkeys(subjects[index]["digest"], "ab" * 32)
        refuse(changed(value, ("subject", index), {**subjects[index], "digest": digest}))


@pytest.mark.parametrize("member", ["mr_enclave", "manifest_sha256", "tree_sha256", "libpal_sha256"])
def test_a_changed_digest_no_longer_fits_the_subjects(make, member):
    changed_digests = make.digests(**{member: b"\x00" * 32})
    for name, predicate in (
        ("release", make.release(digests=changed_digests)),
        ("rebuild", make.rebuild(expected=changed_digests, observed=changed_digests)),
    ):
        with pytest.raises(MalformedError, match="subject"):
            Statement(good(make, name).subjects, predicate).payload()


@pytest.mark.parametrize(
    "subjects",
    [
        (),
        (Subject("a", {}),),
        (Subject("", {"sha256": bytes(32)}),),
        (Subject("a" * 256, {"sha256": bytes(32)}),),
        (Subject("a", {"sha256": bytes(31)}),),
        (Subject("a", {"sha1": bytes(20)}),),
        (Subject("a", {"gitCommit": bytes(32)}),),
        (Subject("a", {"sha256": bytes(32)}), Subject("a", {"sha256": bytes(32)})),
        tuple(Subject(str(number), {"sha256": bytes(32)}) for number in range(65)),
    ],
    ids=lambda subjects: f"{len(subjects)} subjects",
)
def test_malformed_subjects_are_refused_for_every_predicate(make, subjects):
    with pytest.raises(MalformedError):
        Statement(subjects, make.provenance()).payload()


def test_provenance_is_of_any_subject(make):
    digest = {"gitCommit": bytes(20), "sgxMrEnclave": bytes(32), "sha256": bytes(32)}
    said = Statement((Subject("a" * 255, digest),), make.provenance())
    assert parse_statement(said.payload()) == said


@pytest.mark.parametrize(
    "changes",
    [
        {"isv_prod_id": 65_536},
        {"isv_svn": 65_536},
        {"isv_svn": -1},
        {"product": "a" * 129},
        {"product": ""},
        {"product": "a\u202eb"},
        {"release": "1@2"},
        {"release": "a" * 129},
        {"gramine_version": "a" * 33},
        {"mr_signer": bytes(31)},
        {"mr_signer": None},
        {"sigstruct_sha256": bytes(31)},
        {"sigstruct_sha256": None},
        {"trusted_files_sha256": bytes(33)},
        {"source_commit": "88" * 19},
        {"source_commit": "AA" * 20},
        {"supersedes": bytes(31)},
        {"advisories": ("b", "a")},
        {"advisories": ("a", "a")},
        {"advisories": ("",)},
        {"advisories": ("a" * 65,)},
        {"advisories": ("a\n",)},
        {"advisories": tuple(f"{number:03}" for number in range(65))},
        {"valid_from_ms": -1},
        {"valid_from_ms": 2**53},
        {"valid_until_ms": 1_760_000_000_000},
        {"valid_until_ms": 0},
        {"effective_after_ms": -1},
    ],
    ids=repr,
)
def test_a_release_with_a_wrong_value_is_neither_signed_nor_read(make, changes):
    with pytest.raises(MalformedError):
        make.statement(make.release(**changes)).payload()


@pytest.mark.parametrize("flags", ["0000000000000002", "ffffffffffffffff"])
def test_a_debug_release_is_refused_by_its_flags(make, flags):
    value = json.loads(good(make, "release").payload())
    assert refuse(changed(value, ("predicate", "attributes_flags"), flags)).code == "debug"


def test_a_debug_release_is_refused_by_its_word(make):
    value = json.loads(good(make, "release").payload())
    assert refuse(changed(value, ("predicate", "debug_enclave"), True)).code == "debug"


@pytest.mark.parametrize("flags", ["4", "0x04", "00000000000000004", "000000000000000G", 4])
def test_flags_have_16_digits(make, flags):
    refuse(changed(json.loads(good(make, "release").payload()), ("predicate", "attributes_flags"), flags))


def test_the_measurement_of_a_release_is_its_mrenclave(make):
    assert make.release().measurement == Measurement(Tee.SGX, make.MR_ENCLAVE)


def test_a_verdict_agrees_with_what_was_observed(make):
    same, other = make.digests(), make.digests(tree_sha256=bytes(32))
    for verdict, observed, consistent in (
        (Verdict.REPRODUCED, same, True),
        (Verdict.REPRODUCED, other, False),
        (Verdict.REPRODUCED, None, False),
        (Verdict.DIFFERENT, other, True),
        (Verdict.DIFFERENT, same, False),
        (Verdict.DIFFERENT, None, False),
        (Verdict.FAILED, None, True),
        (Verdict.FAILED, same, False),
        (Verdict.FAILED, other, False),
    ):
        differences = ("the tree differs",) if verdict is Verdict.DIFFERENT else ()
        said = make.statement(make.rebuild(verdict=verdict, observed=observed, differences=differences))
        if consistent:
            assert parse_statement(said.payload()) == said
        else:
            with pytest.raises(MalformedError):
                said.payload()


@pytest.mark.parametrize("verdict", ["reproduced", "OK", "", None, True])
def test_other_verdicts_are_refused(make, verdict):
    refuse(changed(json.loads(good(make, "rebuild").payload()), ("predicate", "verdict"), verdict))


def test_the_log_tail_is_bounded_in_bytes(make):
    assert make.statement(make.rebuild(log_tail="é" * 4096)).payload()
    assert make.statement(make.rebuild(log_tail="\x1b[0m\n")).payload()
    with pytest.raises(MalformedError):
        make.statement(make.rebuild(log_tail="é" * 4096 + "a")).payload()


@pytest.mark.parametrize("changes", [{"product": ""}, {"release": "1@"}, {"release_leaf": bytes(31)}])
def test_a_rebuild_with_a_wrong_value_is_refused(make, changes):
    with pytest.raises(MalformedError):
        make.statement(make.rebuild(**changes)).payload()


@pytest.mark.parametrize(
    "changes",
    [
        {"build_type": ""},
        {"external_parameters": {}},
        {"external_parameters": {"x": 0.5}},
        {"builder_id": ""},
        {"invocation_id": ""},
        {"resolved_dependencies": (1.5,)},
        {"resolved_dependencies": (None,) * 513},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_provenance_with_a_wrong_value_is_refused(make, changes):
    with pytest.raises(MalformedError):
        make.statement(make.provenance(**changes)).payload()


def test_payload_of_a_release_names_its_own_subjects(make):
    digests = make.digests(mr_enclave=b"\x01" * 32)
    release = make.release(digests=digests)
    said = Statement(release_subjects(release), release)
    assert parse_statement(said.payload()) == said
    for other in (
        make.release(),
        replace(release, sigstruct_sha256=bytes(32)),
        replace(release, mr_signer=None, sigstruct_sha256=None),
    ):
        with pytest.raises(MalformedError):
            replace(said, subjects=release_subjects(other)).payload()


def test_a_release_names_its_sigstruct_by_measurement_and_by_hash(make):
    signed = make.release()
    first, *others = release_subjects(signed)
    assert first == Subject("sigstruct", {"sgxMrEnclave": make.MR_ENCLAVE, "sha256": signed.sigstruct_sha256})
    assert [subject.name for subject in others] == ["manifest.sgx", "libpal", "tree"]
    unsigned = make.release(mr_signer=None, sigstruct_sha256=None)
    assert release_subjects(unsigned) == build_subjects(unsigned.digests)
    assert release_subjects(unsigned) == (Subject("sigstruct", {"sgxMrEnclave": make.MR_ENCLAVE}), *others)


def test_a_rebuild_names_no_hash_of_a_sigstruct(make):
    said = make.statement(make.rebuild())
    assert next(set(subject.digest) for subject in said.subjects) == {"sgxMrEnclave"}
    with pytest.raises(MalformedError):
        replace(said, subjects=release_subjects(make.release())).payload()


DIFFERENT = {"verdict": Verdict.DIFFERENT}


def test_what_differs_is_said_with_the_verdict_different_and_only_then(make):
    other = make.digests(tree_sha256=bytes(32))
    said = make.statement(make.rebuild(**DIFFERENT, observed=other, differences=("a", "b", "a")))
    assert parse_statement(said.payload()) == said
    for changes in (
        {**DIFFERENT, "observed": other},
        {"differences": ("the tree differs",)},
        {"verdict": Verdict.FAILED, "observed": None, "differences": ("the tree differs",)},
    ):
        with pytest.raises(MalformedError, match="differences"):
            make.statement(make.rebuild(**changes)).payload()


@pytest.mark.parametrize(
    "differences",
    [("",), ("\x1b[31m",), ("a\nb",), ("\u202eright to left",), ("x" * 513,), ("x",) * 33, (1,), (None,)],
    ids=repr,
)
def test_what_differs_is_bounded_and_printable(make, differences):
    other = make.digests(tree_sha256=bytes(32))
    with pytest.raises(MalformedError):
        make.statement(make.rebuild(**DIFFERENT, observed=other, differences=differences)).payload()


def test_the_longest_account_of_what_differs_fits_into_a_statement(make):
    other = make.digests(tree_sha256=bytes(32))
    said = make.rebuild(**DIFFERENT, observed=other, differences=("x" * 512,) * 32, log_tail="\\" * 8192)
    assert make.statement(said).payload()


@pytest.fixture
def signed_release(make, signing_key):
    """A release that carries its whole SIGSTRUCT; what it says of it can be changed."""

    def release(*, body=None, **changes):
        said = SignedBody(
            **{
                "mr_enclave": make.MR_ENCLAVE,
                "isv_prod_id": 7,
                "isv_svn": 3,
                "attribute_flags": 4,
                "attribute_xfrms": 3,
                "attribute_xfrm_mask": 0xFFFFFFFFFFF9FF1B,
                "misc_select": 0,
                "date": "0000-00-00",
            }
            | (body or {})
        )
        sigstruct = sign_sigstruct(said, signing_key)
        data = sigstruct.to_bytes()
        usual = {
            "mr_signer": sigstruct.mr_signer,
            "sigstruct": data,
            "sigstruct_sha256": hashlib.sha256(data).digest(),
        }
        return make.release(**usual | changes)

    return release


def test_a_release_may_carry_its_whole_sigstruct(make, signed_release):
    release = signed_release()
    said = make.statement(release)
    assert parse_statement(said.payload()).predicate == release
    predicate = json.loads(said.payload())["predicate"]
    assert len(base64.b64decode(predicate["sigstruct"])) == 1808


@pytest.mark.parametrize(
    ("body", "changes"),
    [
        ({"mr_enclave": bytes(32)}, {}),
        ({"isv_prod_id": 8}, {}),
        ({"isv_svn": 2}, {}),
        ({"attribute_flags": 0x24}, {}),
        ({"attribute_flags": 6}, {}),
        ({}, {"mr_signer": bytes(32)}),
        ({}, {"sigstruct_sha256": bytes(32)}),
    ],
)
def test_a_sigstruct_that_says_something_else_is_refused(make, signed_release, body, changes):
    with pytest.raises(MalformedError) as caught:
        make.statement(signed_release(body=body, **changes)).payload()
    assert caught.value.code == "sigstruct-mismatch"


@pytest.mark.parametrize("position", [0, 128, 516, 900, 960, 1040, 1424, 1807])
def test_a_sigstruct_that_does_not_verify_is_refused(make, signed_release, position):
    data = bytearray(signed_release().sigstruct)
    data[position] ^= 1
    sha256 = hashlib.sha256(data).digest()
    with pytest.raises(MalformedError):
        make.statement(signed_release(sigstruct=bytes(data), sigstruct_sha256=sha256)).payload()


def test_a_sigstruct_without_its_hash_or_of_another_size_is_refused(make, signed_release):
    whole = signed_release().sigstruct
    for changes in (
        {"sigstruct": whole[:-1]},
        {"sigstruct": whole + b"\0"},
        {"sigstruct": b""},
        {"mr_signer": None, "sigstruct_sha256": None},
    ):
        with pytest.raises(MalformedError):
            make.statement(signed_release(**changes)).payload()
