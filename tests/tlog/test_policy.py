"""Trust policies: the grammar, who may vote how often, and what a quorum says about time."""

import itertools
import json
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.tlog.checkpoint import Checkpoint, sign_checkpoint
from assay.tlog.cosignature import cosign
from assay.tlog.errors import LogError, MalformedError, UntrustedError
from assay.tlog.keys import KeyType, SignerKey
from assay.tlog.merkle import leaf_hash
from assay.tlog.note import Note, NoteSignature, format_note
from assay.tlog.policy import (
    MAX_POLICY_SIZE,
    Policy,
    PolicyGroup,
    PolicyLog,
    PolicyWitness,
    format_policy,
    parse_policy,
    require_one_vote_per_witness,
    verify_cosigned_checkpoint,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "vectors/tlog/golden.json").read_text())
ORIGIN = "log.example/1"


def signer(name: str, key_type: KeyType, number: int) -> SignerKey:
    return SignerKey(name, key_type, number.to_bytes(32, "big"))


ED_LOG = signer(ORIGIN, KeyType.ED25519, 1)
ML_LOG = signer(ORIGIN, KeyType.COSIGNATURE_ML_DSA_44, 2)
COSIGNERS = [signer(f"w{n}.example", KeyType.COSIGNATURE_ED25519, 10 + n) for n in range(5)]
ML_W0 = signer("w0.example", KeyType.COSIGNATURE_ML_DSA_44, 20)
LOG = f"log {ED_LOG.verifier}\nlog {ML_LOG.verifier} https://log.example/\n"
WITNESSES = "".join(f"witness w{n} {each.verifier}\n" for n, each in enumerate(COSIGNERS))
CHECKPOINT = Checkpoint(ORIGIN, 9, leaf_hash(b"root"))


def cosigned(
    *lines: NoteSignature, checkpoint: Checkpoint = CHECKPOINT, log: tuple[SignerKey, ...] = (ED_LOG, ML_LOG)
) -> bytes:
    note = sign_checkpoint(checkpoint, log, time_s=5)
    return format_note(Note(note.text, note.signatures + lines))


def by(number: int, time_s: int = 100, checkpoint: Checkpoint = CHECKPOINT) -> NoteSignature:
    return cosign(checkpoint, COSIGNERS[number], time_s=time_s)


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(LogError) as caught:
        call()
    return caught.value.code


# --- grammar


def test_golden_policy_parses_and_is_canonical() -> None:
    policy = parse_policy(GOLDEN["policy"])
    assert format_policy(policy) == GOLDEN["policy"]
    assert parse_policy(GOLDEN["policy"].encode()) == policy
    assert policy.origins == ("log.example/golden",)
    assert [each.url for each in policy.witnesses] == [None, "https://w1.example/", None]


def test_every_truncation_of_the_golden_policy_is_refused() -> None:
    for length in range(len(GOLDEN["policy"])):
        with pytest.raises(MalformedError):
            parse_policy(GOLDEN["policy"][:length])


def test_every_flipped_byte_of_the_golden_policy_is_refused_or_another_policy() -> None:
    data = GOLDEN["policy"].encode()
    policy = parse_policy(data)
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        try:
            other = parse_policy(changed)
        except MalformedError:
            continue
        # Only a URL may change unnoticed, or a name on its every occurrence, of which one flip is one.
        assert other.groups == policy.groups
        assert [each.key for each in (*other.logs, *other.witnesses)] == [
            each.key for each in (*policy.logs, *policy.witnesses)
        ]
        assert [each.url for each in other.witnesses] != [each.url for each in policy.witnesses]


def test_comments_blank_lines_and_white_space_do_not_matter() -> None:
    plain = parse_policy(LOG + WITNESSES + "group g 2 w0 w1 w2\nquorum g\n")
    decorated = (
        "# a comment\n\n \t \n\t# indented comment with non-ASCII é \udcff\n"
        + LOG.replace(" ", " \t ")
        + WITNESSES.replace("witness", "  witness").replace("\n", "\t\n")
        + "group\tg\t2\tw0\tw1\tw2\n  quorum   g  \n#\n"
    )
    assert parse_policy(decorated) == plain
    assert format_policy(parse_policy(decorated)) == LOG + WITNESSES + "group g 2 w0 w1 w2\nquorum g\n"


def test_a_comment_starts_a_line_only() -> None:
    policy = parse_policy(f"witness #w {COSIGNERS[0].verifier} #url\nquorum #w\n")
    assert (policy.witnesses[0].name, policy.witnesses[0].url, policy.quorum) == ("#w", "#url", "#w")
    with pytest.raises(MalformedError):
        parse_policy(f"witness w {COSIGNERS[0].verifier} url # comment\nquorum w\n")


def test_logs_and_witnesses_may_be_empty_and_lines_may_follow_the_quorum() -> None:
    assert parse_policy("quorum none\n") == Policy((), (), (), None)
    policy = parse_policy(f"quorum none\n{LOG}{WITNESSES}")
    assert (len(policy.logs), len(policy.witnesses), policy.quorum) == (2, 5, None)


@pytest.mark.parametrize(
    ("words", "threshold", "canonical"),
    [
        ("any w0 w1 w2", 1, "any w0 w1 w2"),
        ("1 w0 w1 w2", 1, "any w0 w1 w2"),
        ("2 w0 w1 w2", 2, "2 w0 w1 w2"),
        ("3 w0 w1 w2", 3, "all w0 w1 w2"),
        ("all w0 w1 w2", 3, "all w0 w1 w2"),
        ("all w0", 1, "any w0"),
    ],
)
def test_thresholds_are_numbers_with_two_words(words: str, threshold: int, canonical: str) -> None:
    policy = parse_policy(f"{WITNESSES}group g {words}\nquorum g\n")
    assert policy.groups[0].threshold == threshold
    assert f"group g {canonical}\n" in format_policy(policy)
    assert parse_policy(format_policy(policy)) == policy


@pytest.mark.parametrize(
    "tail",
    [
        "group g 0 w0 w1\nquorum g\n",
        "group g 3 w0 w1\nquorum g\n",
        "group g -1 w0 w1\nquorum g\n",
        "group g +1 w0 w1\nquorum g\n",
        "group g 01 w0 w1\nquorum g\n",
        "group g 1_0 w0 w1\nquorum g\n",
        "group g ١ w0 w1\nquorum g\n",
        "group g ANY w0 w1\nquorum g\n",
        "group g 99999999999999999999 w0\nquorum g\n",
        "group g any\nquorum none\n",
        "group g w0 w1\nquorum g\n",
        "group g any w0 none\nquorum g\n",
        "group none any w0\nquorum none\n",
        "group g any w0 w0\nquorum g\n",
        "group g any w0\ngroup h any w0\nquorum g\n",
        "group g any w0 w9\nquorum g\n",
        "group g any g\nquorum g\n",
        "group g any h\ngroup h any w0\nquorum g\n",
        "group w0 any w1\nquorum w0\n",
        "group g any w0\ngroup g any w1\nquorum g\n",
        "quorum w9\n",
        "quorum g\ngroup g any w0\n",
        "quorum w0\nquorum w0\n",
        "quorum none\nquorum none\n",
        "quorum\n",
        "quorum w0 w1\n",
        "quorum None\n",
        "",
        "# quorum w0\n",
        "Quorum w0\n",
        "quorum w0",
        "quorum w0\r\n",
        "quorum w0\n\x0b\n",
        "quorum w0\n# \x7f\n",
        "quorum w0\n\x00",
        "quorum\u00a0w0\n",
        "quorum\u2003w0\n",
        "quorum w0\u2028\n",
        "quorum none # comment\n",
        "trust w0\nquorum w0\n",
    ],
    ids=ascii,
)
def test_other_lines_are_refused(tail: str) -> None:
    parse_policy(LOG + WITNESSES + "quorum w0\n")
    with pytest.raises(MalformedError):
        parse_policy(LOG + WITNESSES + tail)
    with pytest.raises(MalformedError):
        parse_policy((LOG + WITNESSES + tail).encode())


@pytest.mark.parametrize(
    "line",
    [
        "log\n",
        f"log {ED_LOG.verifier} https://a https://b\n",
        "log https://a\n",
        f"log {str(ED_LOG.verifier)[:-4]}\n",
        f"log name {ED_LOG.verifier}\n",
        f"log {COSIGNERS[0].verifier}\n",
        f"witness {COSIGNERS[0].verifier}\n",
        "witness w\n",
        f"witness w {COSIGNERS[0].verifier} https://a https://b\n",
        f"witness w {ED_LOG.verifier}\n",
        f"witness none {COSIGNERS[0].verifier}\n",
        f"witness w {COSIGNERS[0].verifier}\nwitness w {COSIGNERS[1].verifier}\n",
        f"witness w {'x' * 5000}\n",
    ],
)
def test_bad_logs_and_witnesses_are_refused(line: str) -> None:
    with pytest.raises(MalformedError):
        parse_policy(line + "quorum none\n")


def test_names_are_opaque_bytes_and_not_normalised() -> None:
    kelvin, invalid = b"\xe2\x84\xaa", b"\xff\xfe"
    lines = [b"witness %s %s %s\n" % (name, str(each.verifier).encode(), invalid) for name, each in zip(
        (b"K", kelvin, invalid, b"\xc3\xa9", b"e\xcc\x81"), COSIGNERS, strict=True)]  # fmt: skip
    data = b"".join(lines) + b"group g all K " + kelvin + b" " + invalid + b"\nquorum g\n"
    policy = parse_policy(data)
    assert len({each.name for each in policy.witnesses}) == 5
    assert format_policy(policy).encode("utf-8", "surrogateescape") == data
    assert parse_policy(format_policy(policy)) == policy
    with pytest.raises(MalformedError):
        parse_policy("witness \ud800 x\nquorum none\n")


def test_vkeys_with_bytes_that_are_not_utf8_are_refused() -> None:
    vkey = str(ED_LOG.verifier).encode()
    with pytest.raises(MalformedError):
        parse_policy(b"log \xff" + vkey + b"\nquorum none\n")


def test_one_key_stands_on_one_line_whatever_its_name_type_or_role() -> None:
    def line(role: str, key_type: KeyType, name: str) -> str:
        label = f"{role} {name}" if role == "witness" else role
        return f"{label} {SignerKey(name, key_type, bytes(range(32))).verifier}\n"

    ed, cosigner, ml_dsa = KeyType.ED25519, KeyType.COSIGNATURE_ED25519, KeyType.COSIGNATURE_ML_DSA_44
    pairs = [
        (line("log", ed, "a"), line("log", ed, "a")),
        (line("log", ed, "a"), line("log", ed, "b")),
        (line("log", ml_dsa, "a"), line("log", ml_dsa, "b")),
        (line("witness", cosigner, "a"), line("witness", cosigner, "b")),
        (line("witness", ml_dsa, "a"), line("witness", ml_dsa, "b")),
        (line("log", ed, "a"), line("witness", cosigner, "b")),
        (line("log", ml_dsa, "a"), line("witness", ml_dsa, "b")),
    ]
    for first, second in pairs:
        parse_policy(first + "quorum none\n")
        assert (
            code_of(lambda first=first, second=second: parse_policy(first + second + "quorum none\n"))
            == "duplicate-key"
        )
    parse_policy(line("log", ed, "a") + line("log", ml_dsa, "a") + "quorum none\n")


def test_thirty_two_of_everything_with_two_keys_each_fit() -> None:
    rows = []
    for n in range(32):
        for kind, key_type in enumerate((KeyType.ED25519, KeyType.COSIGNATURE_ML_DSA_44)):
            rows.append(
                f"log {signer(f'log{n}.example', key_type, 1000 + 2 * n + kind).verifier} https://log{n}.example/"
            )
        for kind, key_type in enumerate((KeyType.COSIGNATURE_ED25519, KeyType.COSIGNATURE_ML_DSA_44)):
            rows.append(
                f"witness w{n}-{kind} {signer(f'w{n}.example', key_type, 2000 + 2 * n + kind).verifier}"
            )
        rows.append(f"group g{n} any w{n}-0 w{n}-1")
    rows.append("group all 32 " + " ".join(f"g{n}" for n in range(32)))
    policy = parse_policy("\n".join([*rows, "quorum all\n"]))
    assert (len(policy.origins), len(policy.witnesses), len(policy.groups)) == (32, 64, 33)
    require_one_vote_per_witness(policy)
    assert parse_policy(format_policy(policy)) == policy


def test_longer_files_are_refused_unread() -> None:
    comment = "#" * (MAX_POLICY_SIZE - len("\nquorum none\n"))
    parse_policy(f"{comment}\nquorum none\n")
    with pytest.raises(MalformedError):
        parse_policy(f"#{comment}\nquorum none\n")


def test_a_long_chain_of_groups_does_not_exhaust_the_stack() -> None:
    chain = "".join(f"group g{n} any g{n - 1}\n" for n in range(1, 8000))
    policy = parse_policy(f"{WITNESSES}group g0 any w0\n{chain}quorum g7999\n")
    assert policy.is_quorum({"w0"})
    assert not policy.is_quorum({"w1"})


TOKENS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=[chr(c) for c in (*range(33), 127)]),
    min_size=1,
    max_size=8,
)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    names = draw(st.lists(TOKENS.filter(lambda name: name != "none"), min_size=0, max_size=8, unique=True))
    urls = st.none() | TOKENS
    count = draw(st.integers(0, min(len(names), len(COSIGNERS))))
    witnesses = [PolicyWitness(names[n], COSIGNERS[n].verifier, draw(urls)) for n in range(count)]
    free, groups = names[:count], []
    for name in names[count:]:
        if free:
            members = draw(st.lists(st.sampled_from(free), min_size=1, unique=True))
            groups.append(PolicyGroup(name, draw(st.integers(1, len(members))), tuple(members)))
            free = [each for each in free if each not in members] + [name]
    logs = [
        PolicyLog(each.verifier, draw(urls))
        for each in draw(st.sampled_from([(), (ED_LOG,), (ED_LOG, ML_LOG)]))
    ]
    defined = names[:count] + [group.name for group in groups]
    return Policy(
        tuple(logs),
        tuple(witnesses),
        tuple(groups),
        draw(st.none() | st.sampled_from(defined)) if defined else None,
    )


@given(policies())
def test_format_then_parse_is_the_same_policy(policy: Policy) -> None:
    text = format_policy(policy)
    assert parse_policy(text) == policy
    assert format_policy(parse_policy(text)) == text


@given(st.text(max_size=80), st.integers(0, 2000), st.integers(0, 2000))
def test_changed_text_is_refused_or_has_a_canonical_form(junk: str, start: int, end: int) -> None:
    text = WITNESSES + "group g 2 w0 w1 w2\nquorum g\n"
    for candidate in (junk, text[:start] + junk + text[end:]):
        try:
            policy = parse_policy(candidate)
        except MalformedError:
            continue
        assert parse_policy(format_policy(policy)) == policy


@pytest.mark.parametrize(
    "parts",
    [
        ((), (PolicyWitness("a b", COSIGNERS[0].verifier),), (), None),
        ((), (PolicyWitness("", COSIGNERS[0].verifier),), (), None),
        ((), (PolicyWitness("none", COSIGNERS[0].verifier),), (), None),
        ((), (PolicyWitness("a", COSIGNERS[0].verifier, "x y"),), (), None),
        ((), (PolicyWitness("a", COSIGNERS[0].verifier, ""),), (), None),
        ((), (PolicyWitness("\udcc3\udca9", COSIGNERS[0].verifier),), (), None),
        ((PolicyLog(ED_LOG.verifier, "\n"),), (), (), None),
        ((PolicyLog(COSIGNERS[0].verifier),), (), (), None),
        ((), (PolicyWitness("a", COSIGNERS[0].verifier),), (PolicyGroup("g", 0, ("a",)),), "g"),
        ((), (PolicyWitness("a", COSIGNERS[0].verifier),), (PolicyGroup("g", 1, ()),), "g"),
        ((), (PolicyWitness("a", COSIGNERS[0].verifier),), (PolicyGroup("g", 1, ("b",)),), "g"),
        ((), (PolicyWitness("a", COSIGNERS[0].verifier),), (), "b"),
        ((), (PolicyWitness("a", COSIGNERS[0].verifier),), (), "none"),
        ((), (), (), ""),
    ],
    ids=repr,
)
def test_policies_that_no_file_can_say_cannot_be_built(parts: tuple) -> None:
    with pytest.raises(MalformedError):
        Policy(*parts)


# --- quorums


def slow_quorum(policy: Policy, name: str, cosigned: Collection[str]) -> bool:
    """The definition, as a recursion."""
    for group in policy.groups:
        if group.name == name:
            return sum(slow_quorum(policy, each, cosigned) for each in group.members) >= group.threshold
    return name in cosigned


@given(policies())
def test_quorum_agrees_with_the_recursive_definition_on_every_subset(policy: Policy) -> None:
    names = [each.name for each in policy.witnesses]
    for count in range(len(names) + 1):
        for subset in itertools.combinations(names, count):
            expected = policy.quorum is None or slow_quorum(policy, policy.quorum, subset)
            assert policy.is_quorum(subset) is expected


def test_naming_a_group_or_stranger_as_cosigner_does_not_help() -> None:
    policy = parse_policy(f"{WITNESSES}group g all w0 w1\nquorum g\n")
    assert not policy.is_quorum({"g", "w0", "w7"})


@pytest.mark.parametrize("count", range(6))
def test_two_of_three_and_any_of_two(count: int) -> None:
    policy = parse_policy(
        f"{LOG}{WITNESSES}group x 2 w0 w1 w2\ngroup y any w3 w4\ngroup both all x y\nquorum both\n"
    )
    for subset in itertools.combinations(range(5), count):
        data = cosigned(*(by(n) for n in subset))
        if len({0, 1, 2} & set(subset)) >= 2 and {3, 4} & set(subset):
            found = verify_cosigned_checkpoint(data, policy)
            assert found.checkpoint == CHECKPOINT
            assert [each.key for each in found.cosignatures] == [COSIGNERS[n].verifier for n in subset]
        else:
            with pytest.raises(UntrustedError) as caught:
                verify_cosigned_checkpoint(data, policy)
            assert caught.value.code == "quorum"
            for n in range(5):
                assert (f"'w{n}'" in str(caught.value)) is (n not in subset)


def test_only_the_first_missing_witnesses_are_named() -> None:
    many = [signer(f"m{n}.example", KeyType.COSIGNATURE_ED25519, 300 + n) for n in range(20)]
    rows = "".join(f"witness m{n} {each.verifier}\n" for n, each in enumerate(many))
    for count, more in ((8, None), (9, "1 more"), (20, "12 more")):
        policy = parse_policy(f"{LOG}{rows}group g all {' '.join(f'm{n}' for n in range(count))}\nquorum g\n")
        policy = replace(policy, witnesses=policy.witnesses[:count])
        with pytest.raises(UntrustedError) as caught:
            verify_cosigned_checkpoint(cosigned(), policy)
        assert "'m7'" in str(caught.value)
        assert "'m8'" not in str(caught.value)
        assert ("more" in str(caught.value)) is (more is not None)
        assert (more or "") in str(caught.value)


def test_quorum_none_needs_no_cosignature_but_still_refuses_bad_ones() -> None:
    policy = parse_policy(f"{LOG}{WITNESSES}quorum none\n")
    found = verify_cosigned_checkpoint(cosigned(), policy)
    assert (found.cosignatures, found.quorum_time_s) == ((), None)
    found = verify_cosigned_checkpoint(cosigned(by(0)), policy)
    assert ([each.time_s for each in found.cosignatures], found.quorum_time_s) == ([100], None)
    bad = replace(by(0), blob=bytes(72))
    assert code_of(lambda: verify_cosigned_checkpoint(cosigned(bad), policy)) == "signature"


def test_a_known_bad_cosignature_rejects_although_the_quorum_is_met() -> None:
    policy = parse_policy(f"{LOG}{WITNESSES}group g any w0 w1\nquorum g\n")
    verify_cosigned_checkpoint(cosigned(by(0)), policy)
    other = replace(CHECKPOINT, size=8)
    for bad in (by(1, checkpoint=other), replace(by(1), blob=b"short"), by(4, checkpoint=other)):
        for lines in ((by(0), bad), (bad, by(0))):
            assert (
                code_of(lambda lines=lines: verify_cosigned_checkpoint(cosigned(*lines), policy))
                == "signature"
            )
    stranger = signer("w9.example", KeyType.COSIGNATURE_ED25519, 99)
    junk = NoteSignature("w9.example", stranger.verifier.key_id, b"junk")
    assert verify_cosigned_checkpoint(cosigned(junk, by(0)), policy).checkpoint == CHECKPOINT


def test_strangers_and_the_log_itself_are_no_quorum() -> None:
    policy = parse_policy(f"{LOG}{WITNESSES}quorum w0\n")
    stranger = cosign(CHECKPOINT, signer("w0.example", KeyType.COSIGNATURE_ED25519, 77), time_s=1)
    assert code_of(lambda: verify_cosigned_checkpoint(cosigned(stranger), policy)) == "quorum"
    assert code_of(lambda: verify_cosigned_checkpoint(cosigned(by(1), by(2)), policy)) == "quorum"


def test_every_listed_key_of_the_origin_must_have_signed() -> None:
    policy = parse_policy(f"{LOG}{WITNESSES}quorum w0\n")
    for log in ((ED_LOG,), (ML_LOG,)):
        data = cosigned(by(0), log=log)
        assert code_of(lambda data=data: verify_cosigned_checkpoint(data, policy)) == "missing-signature"
        one = parse_policy(f"log {log[0].verifier}\n{WITNESSES}quorum w0\n")
        assert verify_cosigned_checkpoint(data, one).checkpoint == CHECKPOINT
    forged = signer(ORIGIN, KeyType.ED25519, 666)
    data = cosigned(by(0), log=(forged,))
    assert code_of(lambda: verify_cosigned_checkpoint(data, policy)) == "no-known-signature"


def test_logs_of_other_origins_are_unknown() -> None:
    policy = parse_policy(f"{LOG}{WITNESSES}quorum none\n")
    other = Checkpoint("log.example/2", 9, CHECKPOINT.root)
    key = signer("log.example/2", KeyType.ED25519, 1)
    assert (
        code_of(lambda: verify_cosigned_checkpoint(cosigned(checkpoint=other, log=(key,)), policy))
        == "unknown-log"
    )
    assert code_of(lambda: policy.log_keys("log.example")) == "unknown-log"
    assert policy.log_keys(ORIGIN) == (ED_LOG.verifier, ML_LOG.verifier)


@pytest.mark.parametrize(
    ("group", "times", "expected"),
    [
        ("all w0 w1 w2", (300, 100, 200), 300),
        ("2 w0 w1 w2", (300, 100, 200), 200),
        ("any w0 w1 w2", (300, 100, 200), 100),
        ("any w0 w1 w2", (0, 100, 200), 100),
        ("2 w0 w1 w2", (0, 100, 200), 200),
        ("all w0 w1 w2", (0, 100, 200), None),
        ("any w0 w1 w2", (0, 0, 0), None),
        ("all w0 w1 w2", (7, 7, 7), 7),
        ("all w0", (5, 1, 2**63 - 1), 5),
    ],
)
def test_quorum_time_is_when_it_was_complete(
    group: str, times: tuple[int, ...], expected: int | None
) -> None:
    policy = parse_policy(f"{LOG}{WITNESSES}group g {group}\nquorum g\n")
    for order in itertools.permutations(range(3)):
        data = cosigned(*(by(n, times[n]) for n in order))
        found = verify_cosigned_checkpoint(data, policy)
        assert found.quorum_time_s == expected
        assert [each.time_s for each in found.cosignatures] == list(times)


@given(st.lists(st.integers(0, 4), min_size=5, max_size=5), policies())
def test_quorum_time_agrees_with_trying_every_time(times: list[int], policy: Policy) -> None:
    policy = replace(policy, logs=(PolicyLog(ED_LOG.verifier),))
    data = cosigned(*(by(n, times[n]) for n in range(5)), log=(ED_LOG,))
    stamp = {witness.name: times[COSIGNERS.index(signer_of(witness))] for witness in policy.witnesses}
    try:
        found = verify_cosigned_checkpoint(data, policy).quorum_time_s
    except UntrustedError:
        assert not policy.is_quorum(stamp)
        return
    complete = [
        t for t in range(1, 5) if policy.is_quorum({name for name, time in stamp.items() if 0 < time <= t})
    ]
    assert found == (None if policy.quorum is None else min(complete, default=None))


def signer_of(witness: PolicyWitness) -> SignerKey:
    return next(each for each in COSIGNERS if each.verifier == witness.key)


@pytest.mark.parametrize(
    ("times", "expected"), [((5, 9), 5), ((9, 5), 5), ((0, 9), 9), ((9, 0), 9), ((0, 0), None)]
)
def test_of_repeated_cosignatures_the_earliest_time_counts(
    times: tuple[int, int], expected: int | None
) -> None:
    policy = parse_policy(f"{LOG}{WITNESSES}quorum w0\n")
    found = verify_cosigned_checkpoint(cosigned(by(0, times[0]), by(0, times[1])), policy)
    assert found.quorum_time_s == expected
    assert [each.time_s for each in found.cosignatures] == [expected or 0]


def test_repeated_cosignatures_of_one_key_count_once() -> None:
    policy = parse_policy(f"{LOG}{WITNESSES}group g 2 w0 w1\nquorum g\n")
    assert (
        code_of(lambda: verify_cosigned_checkpoint(cosigned(by(0, 1), by(0, 2), by(0, 3)), policy))
        == "quorum"
    )


@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_every_flipped_byte_is_refused_if_all_must_sign(mask: int) -> None:
    policy = parse_policy(f"{LOG}{WITNESSES}group g all w0 w1\nquorum g\n")
    data = cosigned(by(0), by(1))
    for place in range(len(data)):
        changed = data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
        with pytest.raises(LogError):
            verify_cosigned_checkpoint(changed, policy)
    for length in range(len(data)):
        with pytest.raises(LogError):
            verify_cosigned_checkpoint(data[:length], policy)


# --- one vote each


W0_LINES = (
    f"witness ed {COSIGNERS[0].verifier}\nwitness ml {ML_W0.verifier}\nwitness w1 {COSIGNERS[1].verifier}\n"
)


@pytest.mark.parametrize(
    "groups",
    [
        "group w0 any ed ml\ngroup g all w0 w1\nquorum g\n",
        "group g any ed w1 ml\nquorum g\n",
        "group w0 any ed ml\nquorum none\n",
    ],
)
def test_two_keys_of_one_witness_may_share_an_any_group(groups: str) -> None:
    require_one_vote_per_witness(parse_policy(W0_LINES + groups))


@pytest.mark.parametrize(
    "groups",
    [
        "group g 2 ed ml w1\nquorum g\n",
        "group g all ed ml\nquorum g\n",
        "group a any ed\ngroup b any ml\ngroup g all a b\nquorum g\n",
        "group a any ed w1\ngroup g any a ml\nquorum g\n",
        "group g any ed w1\nquorum g\n",
        "quorum ed\n",
        "quorum none\n",
    ],
)
def test_two_keys_of_one_witness_may_stand_nowhere_else(groups: str) -> None:
    policy = parse_policy(W0_LINES + groups)
    assert code_of(lambda: require_one_vote_per_witness(policy)) == "double-vote"


def test_witnesses_with_one_key_each_may_stand_anywhere() -> None:
    require_one_vote_per_witness(parse_policy(f"{WITNESSES}group g 2 w0 w1 w2\nquorum g\n"))
    require_one_vote_per_witness(parse_policy(f"{WITNESSES}quorum none\n"))
