"""Releases in the name of an identity: what a relying party counts, and at which time.

The CA and the CT key are the test's own (tests/sigstore_instance.py): they give NO INDEPENDENCE.
"""

import json
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from assay.attest import bundle as bundles
from assay.attest import dsse, entry, p256, statement
from assay.attest.bundle import Bundle
from assay.attest.entry import Attestation, CertificateVerifier
from assay.attest.statement import Statement
from assay.client.verify import verify_bundle

NOW_S = int(datetime.now(UTC).timestamp())
KEY = ec.derive_private_key(99, ec.SECP256R1())
NAMES = '[{ identity = "someone@example.com", issuer = "https://issuer.example" }]'


@pytest.fixture(scope="module")
def authority(sigstore_instance):
    return sigstore_instance.Authority()


@pytest.fixture
def judge(world, authority):
    """The result and detail of ``release-publishers`` for a release that was logged at a time."""

    def judged(
        *,
        logged_s=NOW_S,
        keys=(),
        rule=f"threshold = 1\nkeys = []\nidentities = {NAMES}",
        roots=None,
        how=None,
        tree=None,
    ):
        certificate = authority.issue(KEY.public_key(), **(how or {})).public_bytes(Encoding.DER)
        said = world.release(valid_from_ms=1, effective_after_ms=1)
        payload = Statement(statement.release_subjects(said), said).payload()
        plain = [world.ec_key(name) for name in keys]
        envelope = dsse.sign(statement.PAYLOAD_TYPE, payload, [*plain, KEY])
        verifiers = (*(p256.spki(key.public_key()) for key in plain), CertificateVerifier(certificate))
        leaf = entry.format_entry(Attestation(envelope, verifiers))
        logged = world.MemoryLog().log(leaf, time_s=logged_s, **(tree or {}))
        policy = policy_of(world, authority, rule, roots)
        data = bundles.format_bundle(Bundle(logged, None, None, None, ()))
        verdict = verify_bundle(data, policy=policy, now_ms=(NOW_S + 86_400) * 1000)
        (check,) = (check for check in verdict.checks if check.name == "release-publishers")
        return str(check.result), check.detail

    return judged


def policy_of(world, authority, rule, roots=None):
    text = world.policy_text()
    start, end = text.index("[publishers"), text.index("[rebuilders]")
    section = f'[publishers."agent"]\n{rule}\n[sigstore]\nroots = "roots"\n'
    data = json.dumps(authority.trusted_root()).encode() if roots is None else roots
    return world.parse_policy(
        (text[:start] + section + text[end:]).encode(),
        resolve=lambda name: data if name == "roots" else world.resolve(name),
        intel_root=b"",
    )


def test_an_identity_counts_if_witnesses_saw_its_release_in_the_certificates_minutes(judge):
    result, detail = judge()
    assert result == "pass"
    assert "1 of 1 publishers signed" in detail
    assert "someone@example.com (by https://issuer.example)" in detail


@pytest.mark.parametrize("logged_s", [NOW_S - 3600, NOW_S + 3600], ids=["before", "after"])
def test_it_does_not_count_if_they_saw_it_at_another_time(judge, logged_s):
    """Also if the relying party judges later: a stolen key would else sign for ever."""
    result, detail = judge(logged_s=logged_s)
    assert result == "fail"
    assert "certificate-time" in detail


def test_without_a_quorum_no_time_is_known_and_nothing_counts(judge):
    assert judge(tree={"witnesses": ()})[0] == "not-checked"


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ({"ct_keys": []}, "certificate-sct"),
        ({"signed_by": KEY}, "certificate-chain"),
        ({"issuer": "https://other.example", "legacy_issuer": "https://other.example"}, "0 of"),
    ],
)
def test_it_does_not_count_with_a_fault_in_its_certificate(judge, how, code):
    result, detail = judge(how=how)
    assert result == "fail"
    assert code in detail


def test_it_does_not_count_under_other_roots(judge, sigstore_instance):
    other = json.dumps(sigstore_instance.Authority().trusted_root()).encode()
    assert judge(roots=other)[0] == "fail"


def test_roots_without_ct_logs_are_the_policys_choice(judge, authority):
    assert judge(roots=authority.pem(), how={"ct_keys": []})[0] == "pass"


def test_a_listed_key_counts_beside_a_certificate_that_does_not(judge, sigstore_instance):
    other = json.dumps(sigstore_instance.Authority().trusted_root()).encode()
    rule = f'threshold = 1\nkeys = ["publisher.pub"]\nidentities = {NAMES}'
    assert judge(keys=("publisher",), rule=rule, roots=other)[0] == "pass"
    assert judge(keys=("rebuilder",), rule=rule, roots=other)[0] == "fail"


def test_keys_and_identities_add_up_to_the_threshold(judge):
    rule = f'threshold = 2\nkeys = ["publisher.pub"]\nidentities = {NAMES}'
    result, detail = judge(keys=("publisher",), rule=rule)
    assert result == "pass"
    assert "2 of 2 publishers signed" in detail
    assert judge(rule=rule)[0] == "fail"
    assert judge(keys=("publisher",), rule=rule, logged_s=NOW_S + 3600)[0] == "fail"


def test_a_policy_without_identities_is_as_it_was(world, story):
    verdict = verify_bundle(
        story.data, policy=world.make_policy(world.policy_text()), now_ms=(world.T0 + 130) * 1000
    )
    assert {check.name: str(check.result) for check in verdict.checks}["release-publishers"] == "pass"
    assert world.make_policy(world.policy_text()).sigstore is None
