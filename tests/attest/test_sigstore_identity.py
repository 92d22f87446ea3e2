"""Certificates of Sigstore's form, and whose identities count: under pinned roots, at one time, or not at all.

The CA and the CT key are the test's own (tests/sigstore_instance.py): they give NO INDEPENDENCE. Two bundles of
Sigstore's own staging instance are read too.
"""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.attest import p256
from assay.attest.sigstore_certificate import Identity, parse_signing_certificate
from assay.attest.sigstore_identity import IdentityJudgement, verify_identity
from assay.attest.sigstore_roots import SigstoreRoots, parse_roots
from assay.tlog.errors import LogError, MalformedError, StaleError, UntrustedError

KEY = ec.derive_private_key(77, ec.SECP256R1())
SOMEONE = Identity("someone@example.com", "https://issuer.example")


@pytest.fixture(scope="module")
def authority(sigstore_instance):
    return sigstore_instance.Authority()


@pytest.fixture(scope="module")
def other(sigstore_instance):
    return sigstore_instance.Authority()


def roots_of(authority) -> SigstoreRoots:
    return parse_roots(json.dumps(authority.trusted_root()).encode())


def issued(authority, key=None, **how) -> bytes:
    return authority.issue((key or KEY).public_key(), **how).public_bytes(Encoding.DER)


def now_s() -> int:
    return int(datetime.now(UTC).timestamp())


def judge(der: bytes, roots: SigstoreRoots, at_s: int | None = None) -> Identity:
    return verify_identity(
        parse_signing_certificate(der), IdentityJudgement(roots, now_s() if at_s is None else at_s)
    )


def refused(work, code: str, kind: type[LogError]) -> None:
    with pytest.raises(kind) as caught:
        work()
    assert caught.value.code == code


# Certificates


def test_a_certificate_names_its_identity_issuer_and_key(authority):
    parsed = parse_signing_certificate(issued(authority))
    assert parsed.identity == SOMEONE
    assert parsed.spki == p256.spki(KEY.public_key())
    assert len(parsed.scts) == 1


@pytest.mark.parametrize(
    "how", [{"issuer": None}, {"legacy_issuer": None}], ids=["the old extension alone", "the new one alone"]
)
def test_either_extension_names_the_issuer(authority, how):
    assert parse_signing_certificate(issued(authority, **how)).identity == SOMEONE


def test_a_workflow_is_named_by_its_uri(authority):
    uri = "https://github.com/o/r/.github/workflows/w.yml@refs/heads/main"
    der = issued(authority, identity=x509.UniformResourceIdentifier(uri))
    assert parse_signing_certificate(der).identity == Identity(uri, SOMEONE.issuer)


def eku(*purposes):
    return (x509.ExtendedKeyUsage(purposes), False)


def san(*names):
    return (x509.SubjectAlternativeName(names), True)


NAME = x509.RFC822Name("a@b.example")
FAULTS = {
    "no issuer": {"issuer": None, "legacy_issuer": None},
    "two issuers": {"legacy_issuer": "https://other.example"},
    "an empty issuer": {"issuer": "", "legacy_issuer": None},
    "a space in the issuer": {"issuer": "https://issuer .example", "legacy_issuer": None},
    "no purpose": {"omit": [x509.ExtendedKeyUsage]},
    "another purpose": {"omit": [x509.ExtendedKeyUsage], "extra": [eku(ExtendedKeyUsageOID.SERVER_AUTH)]},
    "two purposes": {
        "omit": [x509.ExtendedKeyUsage],
        "extra": [eku(ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.SERVER_AUTH)],
    },
    "no key usage": {"omit": [x509.KeyUsage]},
    "no name": {"omit": [x509.SubjectAlternativeName]},
    "two names": {
        "omit": [x509.SubjectAlternativeName],
        "extra": [san(NAME, x509.RFC822Name("c@d.example"))],
    },
    "a host's name": {"identity": x509.DNSName("host.example")},
    "another kind of name": {
        "identity": x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.7"), b"\x0c\x01x")
    },
    "a name that is too long": {"identity": x509.UniformResourceIdentifier("https://" + "x" * 600)},
    "a CA": {"extra": [(x509.BasicConstraints(ca=True, path_length=None), True)]},
    "more bytes than are read": {
        "extra": [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(4000)), False)]
    },
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_certificate_is_refused_for(authority, name):
    refused(
        lambda: parse_signing_certificate(issued(authority, **FAULTS[name])), "certificate", MalformedError
    )


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()],
    ids=["P-384", "Ed25519"],
)
def test_only_keys_on_p256_are_read(authority, key):
    refused(lambda: parse_signing_certificate(issued(authority, key)), "certificate", MalformedError)


def test_too_many_timestamps_are_refused(authority):
    der = issued(authority, ct_keys=[authority.ct_key] * 9)
    refused(lambda: parse_signing_certificate(der), "certificate", MalformedError)


@pytest.mark.parametrize("data", [b"", b"0", b"garbage", bytes(100)])
def test_other_bytes_are_no_certificate(data):
    refused(lambda: parse_signing_certificate(data), "certificate", MalformedError)


def test_nothing_stands_behind_a_certificate(authority):
    refused(lambda: parse_signing_certificate(issued(authority) + b"\0"), "certificate", MalformedError)


# Identities


def test_an_identity_counts_under_the_pinned_roots(authority):
    assert judge(issued(authority), roots_of(authority)) == SOMEONE


def test_pem_roots_ask_for_no_timestamp_of_a_ct_log(authority):
    roots = parse_roots(authority.pem())
    assert not roots.needs_sct
    assert judge(issued(authority, ct_keys=[]), roots) == SOMEONE


def test_one_good_timestamp_is_enough(authority, other):
    der = issued(authority, ct_keys=[other.ct_key, authority.ct_key])
    assert judge(der, roots_of(authority)) == SOMEONE


def test_another_ca_of_the_same_name_is_refused(authority, other):
    assert authority.ca.subject == other.ca.subject
    refused(lambda: judge(issued(other), roots_of(authority)), "certificate-chain", UntrustedError)


def test_a_certificate_signed_by_another_key_than_the_cas_is_refused(authority):
    forged = issued(authority, signed_by=ec.generate_private_key(ec.SECP256R1()))
    refused(lambda: judge(forged, roots_of(authority)), "certificate-chain", UntrustedError)


def test_a_self_signed_certificate_is_refused(authority):
    refused(
        lambda: judge(issued(authority, signed_by=KEY), roots_of(authority)),
        "certificate-chain",
        UntrustedError,
    )


def test_an_unknown_critical_extension_is_refused(authority):
    critical = (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)
    refused(
        lambda: judge(issued(authority, extra=[critical]), roots_of(authority)),
        "certificate-chain",
        UntrustedError,
    )


def test_a_certificate_counts_in_its_minutes_only(authority):
    der, roots = issued(authority), roots_of(authority)
    parsed = parse_signing_certificate(der)
    first, last = (int(each.timestamp()) for each in (parsed.not_before, parsed.not_after))
    assert judge(der, roots, first) == judge(der, roots, last) == SOMEONE
    for at_s in (0, first - 1, last + 1, last + 10**8):
        refused(lambda at_s=at_s: judge(der, roots, at_s), "certificate-time", StaleError)


def test_a_certificate_that_outlives_its_ca_does_not_count_after_it(authority):
    der = issued(authority, minutes=3 * 24 * 60)
    refused(
        lambda: judge(der, roots_of(authority), now_s() + 2 * 86_400), "certificate-chain", UntrustedError
    )


@pytest.mark.parametrize("end", [False, True])
def test_a_ca_counts_in_its_period_only(authority, end):
    value = authority.trusted_root()
    moment = authority.since + (timedelta(minutes=1) if end else timedelta(hours=5))
    text = moment.isoformat().replace("+00:00", "Z")
    period = value["certificateAuthorities"][0]["validFor"]
    period = {**period, "end": text} if end else {"start": text}
    value["certificateAuthorities"][0]["validFor"] = period
    roots = parse_roots(json.dumps(value).encode())
    refused(lambda: judge(issued(authority), roots), "certificate-chain", UntrustedError)


def test_a_certificate_without_a_timestamp_is_refused_if_the_roots_name_a_ct_log(authority):
    refused(
        lambda: judge(issued(authority, ct_keys=[]), roots_of(authority)), "certificate-sct", UntrustedError
    )


def test_a_timestamp_by_another_ct_log_is_refused(authority, other):
    der = issued(authority, ct_keys=[other.ct_key])
    refused(lambda: judge(der, roots_of(authority)), "certificate-sct", UntrustedError)


def test_a_timestamp_under_the_name_of_the_ct_log_by_another_key_is_refused(authority, other):
    roots = roots_of(authority)
    (log,) = roots.ct_logs
    swapped = replace(roots, ct_logs=(replace(log, key=other.ct_key.public_key()),))
    refused(lambda: judge(issued(authority), swapped), "certificate-sct", UntrustedError)


def test_a_timestamp_of_another_certificate_is_refused(authority):
    """The extension of one certificate in another one."""
    stolen = next(
        each.value
        for each in authority.issue(KEY.public_key()).extensions
        if isinstance(each.value, x509.PrecertificateSignedCertificateTimestamps)
    )
    der = issued(authority, ct_keys=[], extra=[(stolen, False)])
    refused(lambda: judge(der, roots_of(authority)), "certificate-sct", UntrustedError)


def test_a_ct_log_counts_in_its_period_only(authority):
    value = authority.trusted_root()
    start = value["ctlogs"][0]["publicKey"]["validFor"]["start"]
    value["ctlogs"][0]["publicKey"]["validFor"] = {"start": start, "end": start}
    roots = parse_roots(json.dumps(value).encode())
    refused(lambda: judge(issued(authority), roots), "certificate-sct", UntrustedError)


def test_ct_logs_with_keys_that_are_not_read_still_demand_a_timestamp(authority):
    value = authority.trusted_root()
    value["ctlogs"][0]["publicKey"]["keyDetails"] = "PKCS1_RSA_PKCS1V5"
    roots = parse_roots(json.dumps(value).encode())
    assert (roots.ct_logs, roots.needs_sct) == ((), True)
    refused(lambda: judge(issued(authority), roots), "certificate-sct", UntrustedError)


def test_every_byte_of_a_certificate_matters(authority):
    """But for the CA's own signature's twin, which the log's identity of an entry leaves out."""
    good, roots, at_s = issued(authority), roots_of(authority), now_s()
    for position in range(0, len(good), 7):
        bad = bytearray(good)
        bad[position] ^= 1
        with pytest.raises(LogError):
            judge(bytes(bad), roots, at_s)


@given(st.binary(max_size=300), st.integers(0, 600), st.integers(0, 40))
@settings(max_examples=150, deadline=None)
def test_hostile_bytes_give_deliberate_errors_only(authority, inserted, at, removed):
    good = issued(authority)
    bad = good[:at] + inserted + good[at + removed :]
    try:
        identity = judge(bad, roots_of(authority))
    except LogError:
        return
    assert (bad, identity) == (good, SOMEONE)


# Roots


def changed(authority, change) -> bytes:
    value = authority.trusted_root()
    change(value)
    return json.dumps(value).encode()


def first_ca(value):
    return value["certificateAuthorities"][0]


WRONG_ROOTS = {
    "another media type": lambda value: value.update(mediaType="application/json"),
    "version 0.2": lambda value: value.update(mediaType="application/vnd.dev.sigstore.trustedroot.v0.2+json"),
    "no CA": lambda value: value.update(certificateAuthorities=[]),
    "CAs that are no list": lambda value: value.update(certificateAuthorities={}),
    "a CA that is no object": lambda value: value.update(certificateAuthorities=["x"]),
    "no certificate": lambda value: first_ca(value)["certChain"].update(certificates=[]),
    "garbage for a certificate": lambda value: first_ca(value)["certChain"].update(
        certificates=[{"rawBytes": "AAAA"}]
    ),
    "no base64": lambda value: first_ca(value)["certChain"].update(certificates=[{"rawBytes": "!"}]),
    "no period": lambda value: first_ca(value).pop("validFor"),
    "no start": lambda value: first_ca(value).update(validFor={}),
    "no time": lambda value: first_ca(value).update(validFor={"start": "yesterday"}),
    "a time without a zone": lambda value: first_ca(value).update(validFor={"start": "2025-01-01T00:00:00"}),
    "a CT log without a key": lambda value: value["ctlogs"][0].pop("publicKey"),
    "garbage for a CT key": lambda value: value["ctlogs"][0]["publicKey"].update(rawBytes="AAAA"),
}


@pytest.mark.parametrize("name", WRONG_ROOTS)
def test_roots_are_refused_with(authority, name):
    refused(lambda: parse_roots(changed(authority, WRONG_ROOTS[name])), "sigstore-roots", MalformedError)


def test_a_chain_ends_in_a_self_signed_certificate(authority):
    leaf = base64.b64encode(issued(authority)).decode()
    data = changed(
        authority, lambda value: first_ca(value)["certChain"].update(certificates=[{"rawBytes": leaf}])
    )
    refused(lambda: parse_roots(data), "sigstore-roots", MalformedError)


def test_other_files_are_no_roots(authority):
    leaf = authority.issue(KEY.public_key()).public_bytes(Encoding.PEM)
    for data in (
        b"",
        b"{}",
        b"[]",
        b"null",
        b"-----BEGIN",
        b"-----BEGIN CERTIFICATE-----\n",
        leaf,
        authority.pem() * 9,
    ):
        refused(lambda data=data: parse_roots(data), "sigstore-roots", MalformedError)


# Sigstore's own


@pytest.mark.parametrize("name", ["happy_path", "dsse_happy_path"])
def test_certificates_of_sigstores_staging_instance_count(vectors, name):
    folder = vectors / "rekor" / name
    material = json.loads((folder / "bundle.sigstore.json").read_bytes())["verificationMaterial"]
    der = base64.b64decode(material["certificate"]["rawBytes"])
    roots = parse_roots((folder / "trusted_root.json").read_bytes())
    issued_s = int(parse_signing_certificate(der).not_before.timestamp())
    identity = judge(der, roots, issued_s + 60)
    assert identity.issuer == "https://token.actions.githubusercontent.com"
    assert identity.identity.startswith("https://github.com/sigstore-conformance/")
    refused(lambda: judge(der, roots, issued_s + 3600), "certificate-time", StaleError)


def test_the_private_instance_vouches_for_nothing_of_sigstores(vectors, authority):
    folder = vectors / "rekor" / "happy_path"
    material = json.loads((folder / "bundle.sigstore.json").read_bytes())["verificationMaterial"]
    der = base64.b64decode(material["certificate"]["rawBytes"])
    at_s = int(parse_signing_certificate(der).not_before.timestamp())
    refused(lambda: judge(der, roots_of(authority), at_s), "certificate-chain", UntrustedError)
