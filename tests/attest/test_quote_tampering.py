"""The tamper matrix: one defect a row on an otherwise good quote, and the one code that refuses it.

The rows are numbered: SGX first, then TDX. Where the verification library alone would accept, the
row says so, and a test asserts it: if the library closes the gap one day, that test will tell.
"""

import dataclasses
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import dcap_qvl
import pytest

from assay.attest import p256
from assay.attest.measurement import Tee
from assay.attest.quote import sgx, tdx
from assay.attest.quote.collateral import Collateral, format_collateral, parse_collateral
from assay.attest.quote.parse import parse_quote
from assay.attest.quote.pck import PckExtension, unverified_pck
from assay.attest.quote.tdx import Td15, Td15Ex, TdBody
from assay.attest.quote.verify import VerifiedQuote, VerifiedSgxQuote, verify_quote, verify_sgx_quote
from assay.attest.roots import TrustedRoot
from assay.attest.simulated import certificates, pcs
from assay.attest.simulated.certificates import YEAR_S, Holder, revocation_list
from assay.attest.simulated.keys import private_key
from assay.attest.simulated.pcs import IsvLevel, Period, TcbLevel
from assay.attest.simulated.platform import (
    CPU_SVN,
    HEALTHY,
    OUT_OF_DATE,
    PCE_SVN,
    QE_FLAGS,
    QE_MR_SIGNER,
    SW_HARDENING_NEEDED,
    TD_ATTRIBUTES,
    TEE_TCB_SVN,
    Signer,
    SimulatedPlatform,
    Variant,
)
from assay.tlog.errors import LogError, MalformedError, StaleError, UntrustedError

T = 1_760_000_000
DAY = 86_400
SEED, FOREIGN_SEED = b"\x01" * 32, b"\x02" * 32
FIELDS = {
    "mr_enclave": b"\x11" * 32,
    "mr_signer": b"\x22" * 32,
    "isv_prod_id": 1,
    "isv_svn": 2,
    "report_data": hashlib.sha256(b"pk").digest() + bytes(32),
}


@dataclass(frozen=True)
class Case:
    quote: bytes
    collateral: Collateral
    root: TrustedRoot
    now_s: int = T


@cache
def machine(seed: bytes = SEED, variant: Variant = HEALTHY) -> SimulatedPlatform:
    return SimulatedPlatform(seed, epoch_s=T, variant=variant)


@cache
def case(seed: bytes = SEED, *, debug: bool = False, **variant) -> Case:
    platform = machine(seed, Variant(**variant))
    quote = platform.quote(platform.report(**FIELDS, debug=debug))
    return Case(quote, platform.collateral(issued_s=T - DAY), TrustedRoot("sim", platform.root_der))


def of(variant: Variant) -> Case:
    return case(**{f.name: getattr(variant, f.name) for f in dataclasses.fields(variant)})


def verify(given: Case) -> VerifiedQuote:
    return verify_quote(given.quote, given.collateral, root=given.root, now_s=given.now_s)


def library_accepts(given: Case) -> str:
    text = format_collateral(given.collateral).decode()
    collateral = dcap_qvl.QuoteCollateralV3.from_json(text)
    return dcap_qvl.verify_with_root_ca(given.quote, collateral, given.root.der, given.now_s).status


def flipped(position: int) -> Case:
    data = bytearray(case().quote)
    data[position] ^= 1
    return replace(case(), quote=bytes(data))


def written(offset: int, code: str, value: int) -> Case:
    data = bytearray(case().quote)
    struct.pack_into(code, data, offset, value)
    return replace(case(), quote=bytes(data))


def with_signature(given: Case, **parts) -> Case:
    quote = sgx.parse_quote(given.quote)
    signature = dataclasses.replace(quote.signature, **parts)
    return replace(given, quote=sgx.format_quote(dataclasses.replace(quote, signature=signature)))


def with_parts(given: Case, **parts) -> Case:
    return replace(given, collateral=replace(given.collateral, **parts))


def with_tcb_info(given: Case, *, signer: Signer | None = Signer.TCB_SIGNING, **arguments) -> Case:
    """Another TCB info; ``signer`` None leaves the old signature."""
    defaults = {"levels": machine().tcb_levels(), "period": Period(T - DAY, T + 29 * DAY)}
    text = pcs.tcb_info(**defaults | arguments)
    signature = (
        given.collateral.tcb_info_signature if signer is None else machine().sign_text(text, signer=signer)
    )
    return with_parts(given, tcb_info=text, tcb_info_signature=signature)


def with_text_of_tdx(given: Case) -> Case:
    info = given.collateral.tcb_info.replace('"id":"SGX"', '"id":"TDX"')
    given = with_parts(given, tcb_info=info, tcb_info_signature=machine().sign_text(info))
    return with_td_qe(given)


def with_td_qe(given: Case) -> Case:
    identity = given.collateral.qe_identity.replace('"id":"QE"', '"id":"TD_QE"')
    return with_parts(given, qe_identity=identity, qe_identity_signature=machine().sign_text(identity))


def twin_signature() -> Case:
    quote = sgx.parse_quote(case().quote)
    s = int.from_bytes(quote.signature.signature[32:], "big")
    twin = quote.signature.signature[:32] + (p256.ORDER - s).to_bytes(32, "big")
    return with_signature(case(), signature=twin)


def junk_in_pem() -> Case:
    pem = sgx.parse_quote(case().quote).signature.certification_data
    return with_signature(case(), certification_data=pem.replace(b"-----BEGIN", b"junk text\n-----BEGIN", 2))


def foreign_attestation_key() -> Case:
    key = private_key(FOREIGN_SEED, "attestation key")
    parts = sgx.parse_quote(case(FOREIGN_SEED).quote).signature
    signature = p256.sign(key, case().quote[:432])
    return with_signature(case(), signature=signature, attestation_key=parts.attestation_key)


def foreign_qe_block() -> Case:
    foreign = sgx.parse_quote(case(FOREIGN_SEED).quote).signature
    return with_signature(
        case(),
        qe_report=foreign.qe_report,
        qe_signature=foreign.qe_signature,
        qe_auth_data=foreign.qe_auth_data,
        certification_data=foreign.certification_data,
    )


def one_level(status: str) -> Case:
    return with_tcb_info(case(), levels=[TcbLevel(bytes(16), 0, T - DAY, status)])


def old_tcb_info_at(now_s: int) -> Case:
    given = with_tcb_info(case(), period=Period(T - 40 * DAY, T + 50 * DAY))
    identity = pcs.qe_identity(
        machine().qe_levels(),
        period=Period(T - 40 * DAY, T + 50 * DAY),
        mr_signer=QE_MR_SIGNER,
        isv_prod_id=1,
    )
    given = with_parts(given, qe_identity=identity, qe_identity_signature=machine().sign_text(identity))
    return replace(given, now_s=now_s)


def signer_role_tcb() -> Case:
    levels = (TcbLevel(bytes(16), 0, T - DAY),)
    return case(cpu_svn=bytes(16), tcb_levels=levels, tcb_info_signer=Signer.PCK)


def signer_role_qe() -> Case:
    return case(qe_mr_signer=b"\x66" * 32, qe_identity_signer=Signer.PCK)


def wrong_qe_signer() -> Case:
    genuine = case().collateral
    return with_parts(
        case(qe_mr_signer=b"\x66" * 32),
        qe_identity=genuine.qe_identity,
        qe_identity_signature=genuine.qe_identity_signature,
    )


def foreign_pck_chain() -> Case:
    chain = machine(FOREIGN_SEED).pck_chain_pem
    text = format_collateral(case().collateral).decode()
    parsed = parse_collateral((text[:-1] + ',"pck_certificate_chain":' + repr_json(chain) + "}").encode())
    return replace(case(), collateral=parsed)


def repr_json(text: str) -> str:
    return '"' + text.replace("\n", "\\n") + '"'


REFUSED: list[tuple[str, Callable[[], Case], type[LogError], str]] = [
    ("2 mrenclave bit", lambda: flipped(112), UntrustedError, "bad-quote-signature"),
    ("3 mrsigner bit", lambda: flipped(176), UntrustedError, "bad-quote-signature"),
    ("4 report_data bit", lambda: flipped(368), UntrustedError, "bad-quote-signature"),
    ("5 user_data bit", lambda: flipped(28), UntrustedError, "bad-quote-signature"),
    ("6 QE vendor id", lambda: flipped(12), UntrustedError, "not-intel-qe"),
    ("7 TEE type of TDX", lambda: written(4, "<I", 0x81), MalformedError, "unsupported"),
    ("8 version 4", lambda: written(0, "<H", 4), MalformedError, "unsupported"),
    ("9 key type P-384", lambda: written(2, "<H", 3), MalformedError, "unsupported"),
    ("10 quote signature", lambda: flipped(440), UntrustedError, "bad-quote-signature"),
    ("11 attestation key", lambda: flipped(505), UntrustedError, "bad-attestation-key-binding"),
    ("12 QE report mrsigner", lambda: flipped(564 + 128), UntrustedError, "bad-qe-signature"),
    ("13 QE signature", lambda: flipped(950), UntrustedError, "bad-qe-signature"),
    ("14 QE auth data", lambda: flipped(1014), UntrustedError, "bad-attestation-key-binding"),
    ("15 QE auth data of 31 bytes", lambda: case(qe_auth_data=bytes(31)), MalformedError, "malformed-quote"),
    ("16 QE auth data of 64 bytes", lambda: case(qe_auth_data=bytes(64)), MalformedError, "malformed-quote"),
    ("17 cert data type 4", lambda: written(1046, "<H", 4), MalformedError, "unsupported-cert-data"),
    ("18 cut by a byte", lambda: replace(case(), quote=case().quote[:-1]), MalformedError, "length-mismatch"),
    ("19 header only", lambda: replace(case(), quote=case().quote[:48]), MalformedError, "bad-length"),
    ("20 empty", lambda: replace(case(), quote=b""), MalformedError, "bad-length"),
    (
        "21 trailing byte",
        lambda: replace(case(), quote=case().quote + b"\0"),
        MalformedError,
        "length-mismatch",
    ),
    (
        "22 trailing MB",
        lambda: replace(case(), quote=case().quote + bytes(2**20)),
        MalformedError,
        "bad-length",
    ),
    ("25 another root", lambda: replace(case(FOREIGN_SEED), root=case().root), UntrustedError, "wrong-root"),
    (
        "26 quote of another root",
        lambda: replace(case(), quote=case(FOREIGN_SEED).quote),
        UntrustedError,
        "untrusted-chain",
    ),
    ("27 foreign attestation key", foreign_attestation_key, UntrustedError, "bad-attestation-key-binding"),
    ("28 foreign QE block", foreign_qe_block, UntrustedError, "untrusted-chain"),
    ("29 debug enclave", lambda: case(debug=True), UntrustedError, "debug"),
    ("30 debug QE", lambda: case(qe_flags=QE_FLAGS | sgx.FLAG_DEBUG), UntrustedError, "debug"),
    ("31 QE mrsigner", wrong_qe_signer, UntrustedError, "wrong-qe"),
    ("32 QE isvprodid", lambda: case(qe_isv_prod_id=9), UntrustedError, "wrong-qe"),
    ("34 QE isvsvn below all", lambda: case(qe_isv_svn=1), UntrustedError, "wrong-qe"),
    ("35 PCK revoked", lambda: case(pck_revoked=True), UntrustedError, "revoked"),
    ("36 CA revoked", lambda: case(ca_revoked=True), UntrustedError, "revoked"),
    ("37 31 days later", lambda: replace(case(), now_s=T + 31 * DAY), StaleError, "collateral-expired"),
    (
        "38 only TCB info expired",
        lambda: with_tcb_info(case(), period=Period(T - 40 * DAY, T - 10 * DAY)),
        StaleError,
        "collateral-expired",
    ),
    (
        "39 TCB info of the future",
        lambda: with_tcb_info(case(), period=Period(T + 3600, T + 30 * DAY)),
        StaleError,
        "collateral-not-yet-valid",
    ),
    (
        "40 before the PCK's notBefore",
        lambda: old_tcb_info_at(T - 31 * DAY),
        StaleError,
        "cert-not-yet-valid",
    ),
    ("41 before the CRLs", lambda: old_tcb_info_at(T - 10 * DAY), StaleError, "collateral-not-yet-valid"),
    ("44 below every level", lambda: case(pce_svn=1), UntrustedError, "tcb-unsupported"),
    ("45 level revoked", lambda: one_level("Revoked"), UntrustedError, "revoked"),
    ("46 status unknown", lambda: one_level("Fantastic"), MalformedError, "malformed-collateral"),
    ("47 FMSPC", lambda: with_tcb_info(case(), fmspc=b"\x01" * 6), UntrustedError, "wrong-collateral"),
    ("48 PCEID", lambda: with_tcb_info(case(), pce_id=b"\x07\x07"), UntrustedError, "pceid-mismatch"),
    (
        "49 TCB info edited",
        lambda: with_tcb_info(case(), evaluation_number=99, signer=None),
        UntrustedError,
        "bad-tcb-info-signature",
    ),
    (
        "50 TCB info re-spaced",
        lambda: with_parts(case(), tcb_info=case().collateral.tcb_info.replace(",", ", ")),
        UntrustedError,
        "bad-tcb-info-signature",
    ),
    (
        "51 QE identity edited",
        lambda: with_parts(case(), qe_identity=case().collateral.qe_identity.replace(":20", ":21")),
        UntrustedError,
        "bad-qe-identity-signature",
    ),
    ("52 collateral of TDX", lambda: with_text_of_tdx(case()), UntrustedError, "wrong-collateral"),
    ("53 QE identity of TDX", lambda: with_td_qe(case()), UntrustedError, "wrong-collateral"),
    ("54 TCB info signed by a PCK", signer_role_tcb, UntrustedError, "wrong-collateral-signer"),
    ("55 QE identity signed by a PCK", signer_role_qe, UntrustedError, "wrong-collateral-signer"),
    (
        "56 TCB info signed by the root",
        lambda: case(tcb_info_signer=Signer.ROOT),
        UntrustedError,
        "untrusted-chain",
    ),
    (
        "57 CRLs swapped",
        lambda: with_parts(
            case(), root_ca_crl=case().collateral.pck_crl, pck_crl=case().collateral.root_ca_crl
        ),
        UntrustedError,
        "wrong-root",
    ),
    (
        "58 root CRL twice",
        lambda: with_parts(case(), pck_crl=case().collateral.root_ca_crl),
        UntrustedError,
        "missing-crl",
    ),
    ("59 PCK CRL empty", lambda: with_parts(case(), pck_crl=b""), MalformedError, "malformed-collateral"),
    ("64 in 1970", lambda: replace(case(), now_s=0), StaleError, "collateral-not-yet-valid"),
    ("64 before 1970", lambda: replace(case(), now_s=-1), StaleError, "collateral-not-yet-valid"),
    ("65 at 2^63", lambda: replace(case(), now_s=2**63), StaleError, "collateral-expired"),
    ("65 at 2^64", lambda: replace(case(), now_s=2**64), StaleError, "collateral-expired"),
]

TD_FIELDS = {"mr_td": b"\x33" * 48, "report_data": hashlib.sha256(b"pk").digest() + bytes(32)}


@cache
def td_case(
    *, version: int = 4, attributes: int = TD_ATTRIBUTES, service_td: bytes = bytes(48), **variant
) -> Case:
    platform = machine(SEED, Variant(**variant))
    report = platform.td_report(**TD_FIELDS, attributes=attributes)
    quote = platform.td_quote(TdBody(report, None if version == 4 else Td15(TEE_TCB_SVN, service_td)))
    collateral = platform.collateral(issued_s=T - DAY, tee=Tee.TDX)
    return Case(quote, collateral, TrustedRoot("sim", platform.root_der))


def extended_case(**fields) -> Case:
    plain = {
        "vm_id": 1,
        "td_id": b"\x44" * 32,
        "device_info": bytes(48),
        "initial_service_td_hash": bytes(48),
        "initial_service_td_attributes": bytes(8),
        "initial_cpu_svn": bytes(16),
        "initial_tee_tcb_svn": bytes(16),
        "initial_tee_fmspc": bytes(12),
        "current_service_td_hash": bytes(48),
        "current_service_td_attributes": bytes(8),
    }
    body = TdBody(machine().td_report(**TD_FIELDS), Td15(TEE_TCB_SVN, bytes(48)), Td15Ex(**plain | fields))
    return replace(td_case(), quote=machine().td_quote(body))


def td_flipped(position: int) -> Case:
    data = bytearray(td_case().quote)
    data[position] ^= 1
    return replace(td_case(), quote=bytes(data))


def td_rows() -> list[tuple[str, Callable[[], Case], type[LogError], str]]:
    flips = {67: 48, 68: 64, 69: 112, 70: 168, 71: 176, 72: 184, 73: 232, 74: 376, 75: 520, 76: 568}
    return [
        (f"{row} TDX bit at {at}", partial(td_flipped, at), UntrustedError, "bad-quote-signature")
        for row, at in flips.items()
    ]


REFUSED += td_rows()
REFUSED += [
    ("77 debug TD", lambda: td_case(attributes=TD_ATTRIBUTES | tdx.TUD_DEBUG), UntrustedError, "debug"),
    (
        "78 TDX module of another signer",
        lambda: td_case(mr_signer_seam=b"\x07" * 48),
        UntrustedError,
        "wrong-tdx-module",
    ),
    (
        "80 TDX with collateral of SGX",
        lambda: replace(td_case(), collateral=case().collateral),
        UntrustedError,
        "wrong-collateral",
    ),
    (
        "82 TDX v5 with a service TD",
        lambda: td_case(version=5, service_td=b"\x01" * 48),
        UntrustedError,
        "td-attributes",
    ),
]

ACCEPTED: list[tuple[str, Callable[[], Case], str, tuple[str, ...]]] = [
    ("1 untouched", case, "UpToDate", ()),
    ("23 twin of the signature", twin_signature, "UpToDate", ()),
    ("24 junk between the PEM certificates", junk_in_pem, "UpToDate", ()),
    ("33 QE out of date", lambda: case(qe_isv_svn=6), "OutOfDate", ("INTEL-SA-00615",)),
    ("42 second level", lambda: of(SW_HARDENING_NEEDED), "SWHardeningNeeded", ("INTEL-SA-00615",)),
    ("43 third level", lambda: of(OUT_OF_DATE), "OutOfDate", ("INTEL-SA-00334", "INTEL-SA-00615")),
    (
        "60 garbage as CRL issuer chain",
        lambda: with_parts(case(), pck_crl_issuer_chain="garbage"),
        "UpToDate",
        (),
    ),
    ("61 PCK chain of another machine", foreign_pck_chain, "UpToDate", ()),
]

ACCEPTED += [
    ("66 TDX v4 untouched", td_case, "UpToDate", ()),
    (
        "79 TDX module of SVN 1",
        lambda: td_case(tee_tcb_svn=bytes.fromhex("0101020000000000") + bytes(8)),
        "OutOfDate",
        (),
    ),
    ("81 TDX v5 untouched", lambda: td_case(version=5), "UpToDate", ()),
]

SAME_EVIDENCE = ("1 ", "23 ", "24 ", "60 ", "61 ")

BEYOND_THE_LIBRARY = ("21 ", "22 ", "41 ", "48 ", "54 ", "55 ")


@pytest.mark.parametrize(
    ("make", "error", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_tampered_quote_is_refused_with_its_code(make, error, code):
    with pytest.raises(LogError) as caught:
        verify(make())
    assert (type(caught.value), caught.value.code) == (error, code)


@pytest.mark.parametrize(
    ("make", "status", "advisories"), [row[1:] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED]
)
def test_a_harmless_change_is_accepted_with_its_status(make, status, advisories):
    verified = verify(make())
    assert (verified.tcb_status, verified.advisories) == (status, advisories)
    loaded = FIELDS["mr_enclave"] if isinstance(verified, VerifiedSgxQuote) else TD_FIELDS["mr_td"]
    assert verified.measurement.value == loaded


@pytest.mark.parametrize("make", [row[1] for row in ACCEPTED if row[0].startswith(SAME_EVIDENCE)])
def test_malleable_bytes_do_not_change_the_evidence_id(make):
    assert verify(make()).evidence_id == hashlib.sha256(case().quote[:432]).hexdigest()


@pytest.mark.parametrize(
    "make",
    [row[1] for row in REFUSED if row[0].startswith(BEYOND_THE_LIBRARY)],
    ids=[row[0] for row in REFUSED if row[0].startswith(BEYOND_THE_LIBRARY)],
)
def test_the_library_alone_would_accept(make):
    assert library_accepts(make())


def test_the_table_covers_every_row_of_the_matrix():
    numbers = {int(row[0].split()[0]) for row in [*REFUSED, *ACCEPTED]}
    # 62 and 63 are cases of a policy: tests/attest/test_quote_policy.py.
    assert numbers == set(range(1, 83)) - {62, 63}


# Beyond the matrix: other ways to the same gaps.


@pytest.mark.parametrize(
    "attributes",
    [
        0,  # SEPT_VE_DISABLE is off
        *(TD_ATTRIBUTES | 1 << bit for bit in range(1, 8)),
        TD_ATTRIBUTES | tdx.SEC_MIGRATABLE,
    ],
)
def test_a_td_that_somebody_may_look_into_or_move_is_refused(attributes):
    with pytest.raises(UntrustedError) as caught:
        verify(td_case(attributes=attributes))
    assert caught.value.code in {"td-attributes", "debug"}


def test_the_extended_td_report_is_accepted_and_its_service_td_is_not():
    assert verify(extended_case(vm_id=255)).tcb_status == "UpToDate"
    for name in ("initial_service_td_hash", "current_service_td_hash"):
        with pytest.raises(UntrustedError) as caught:
            verify(extended_case(**{name: bytes(47) + b"\x01"}))
        assert caught.value.code == "td-attributes"


@pytest.mark.parametrize("given", [td_case(), td_case(version=5)], ids=["v4", "v5"])
def test_a_tdx_quotes_every_length_must_be_filled(given):
    end = len(given.quote)
    for data in (given.quote[:-1], given.quote + b"\0", given.quote[: end // 2], given.quote[:1230]):
        with pytest.raises(MalformedError) as caught:
            verify(replace(given, quote=data))
        assert caught.value.code in {"length-mismatch", "unsupported-cert-data"}
    with pytest.raises(MalformedError) as caught:
        verify(replace(given, quote=given.quote + bytes(2**20)))
    assert caught.value.code == "bad-length"


@pytest.mark.parametrize("make", [case, td_case], ids=["sgx", "tdx"])
def test_a_quoting_enclave_that_binds_something_beside_the_key_is_refused(make):
    given = make()
    parsed = parse_quote(given.quote)
    qe_report = dataclasses.replace(
        parsed.signature.qe_report, report_data=parsed.signature.qe_report.report_data[:32] + b"\x01" * 32
    )
    signature = dataclasses.replace(
        parsed.signature,
        qe_report=qe_report,
        qe_signature=p256.sign(machine().pck.key, sgx.format_report(qe_report)),
    )
    changed = dataclasses.replace(parsed, signature=signature)
    data = sgx.format_quote(changed) if make is case else tdx.format_quote(changed)
    assert library_accepts(replace(given, quote=data))
    with pytest.raises(UntrustedError) as caught:
        verify(replace(given, quote=data))
    assert caught.value.code == "bad-attestation-key-binding"


def test_a_verifier_of_sgx_takes_no_td():
    given = td_case()
    with pytest.raises(MalformedError) as caught:
        verify_sgx_quote(given.quote, given.collateral, root=given.root, now_s=T)
    assert caught.value.code == "unsupported"


@pytest.mark.parametrize("part", ["tcb_info_issuer_chain", "qe_identity_issuer_chain"])
def test_issuer_chains_are_refused_if_too_long_or_unreadable(part):
    chain = getattr(case().collateral, part)
    root_pem = machine().root.pem
    for text, codes in {
        "": {"malformed-collateral"},
        "garbage": {"malformed-collateral"},
        "\ud800": {"malformed-collateral"},
        chain + root_pem: {"wrong-collateral-signer", "untrusted-chain"},
        root_pem: {"untrusted-chain"},
        machine().ca.pem + root_pem: {"untrusted-chain"},
        machine(FOREIGN_SEED).tcb_signer.pem + root_pem: {"untrusted-chain"},
    }.items():
        with pytest.raises(LogError) as caught:
            verify(with_parts(case(), **{part: text}))
        assert caught.value.code in codes, text[:40]


@pytest.mark.parametrize("part", ["tcb_info_issuer_chain", "qe_identity_issuer_chain"])
def test_the_root_need_not_be_in_the_chain_and_text_around_it_is_not_seen(part):
    leaf = machine().tcb_signer.pem
    assert verify(with_parts(case(), **{part: leaf})).tcb_status == "UpToDate"
    assert verify(with_parts(case(), **{part: "text\n" + leaf + "text\n"})).tcb_status == "UpToDate"


@pytest.mark.parametrize("crl", ["root_ca_crl", "pck_crl"])
def test_each_crl_must_have_been_issued(crl):
    issuer = machine().root if crl == "root_ca_crl" else machine().ca
    future = revocation_list(issuer, [], issued_s=T + 1, expires_s=T + DAY)
    with pytest.raises(StaleError) as caught:
        verify(with_parts(case(), **{crl: future}))
    assert caught.value.code == "collateral-not-yet-valid"
    assert verify(replace(with_parts(case(), **{crl: future}), now_s=T + 1)).valid_from_s == T + 1


@pytest.mark.parametrize("crl", ["root_ca_crl", "pck_crl"])
def test_each_crl_must_be_fresh(crl):
    issuer = machine().root if crl == "root_ca_crl" else machine().ca
    past = revocation_list(issuer, [], issued_s=T - 9 * DAY, expires_s=T)
    with pytest.raises(StaleError) as caught:
        verify(with_parts(case(), **{crl: past}))
    assert caught.value.code == "collateral-expired"


def test_the_evaluation_number_is_the_lower_of_both():
    assert verify(case()).evaluation_number == 20
    assert verify(with_tcb_info(case(), evaluation_number=19)).evaluation_number == 19
    assert verify(with_tcb_info(case(), evaluation_number=21)).evaluation_number == 20


def test_a_worse_qe_never_improves_the_platform():
    both = case(qe_isv_svn=6, cpu_svn=SW_HARDENING_NEEDED.cpu_svn)
    assert verify(both).tcb_status == "OutOfDate"


def test_a_level_for_better_hardware_does_not_apply():
    levels = [
        TcbLevel(b"\x08" + CPU_SVN[1:], PCE_SVN, T - DAY),
        TcbLevel(bytes(16), 0, T - DAY, "OutOfDate"),
    ]
    assert verify(with_tcb_info(case(), levels=levels)).tcb_status == "OutOfDate"


def test_a_qe_level_may_be_revoked():
    identity = pcs.qe_identity(
        [IsvLevel(8, T - DAY, "Revoked")],
        period=Period(T - DAY, T + DAY),
        mr_signer=QE_MR_SIGNER,
        isv_prod_id=1,
    )
    given = with_parts(case(), qe_identity=identity, qe_identity_signature=machine().sign_text(identity))
    with pytest.raises(UntrustedError) as caught:
        verify(given)
    assert caught.value.code == "revoked"


def rogue_signer(common_name: str, *, issuer: Holder | None, extension: PckExtension | None = None) -> Holder:
    """An end-entity certificate under the root that looks like the TCB signer in all but one respect."""
    kind = certificates._Kind("rogue", common_name, DAY, DAY)
    return certificates._issue(SEED, kind, epoch_s=T, issuer=issuer or machine().root, extension=extension)


def rogue_cases() -> dict[str, tuple[Holder, str]]:
    extension = unverified_pck(sgx.parse_quote(case().quote)).extension
    name, root_pem, ca = "SIMULATED SGX TCB Signing", machine().root.pem, machine().ca
    return {
        "other name": (rogue_signer("SIMULATED SGX Signing", issuer=None), root_pem),
        "name continued": (rogue_signer(name + " Test", issuer=None), root_pem),
        "issued by a CA": (rogue_signer(name, issuer=ca), ca.pem),
        "issued by a CA, whole chain": (rogue_signer(name, issuer=ca), ca.pem + root_pem),
        "a PCK certificate": (rogue_signer(name, issuer=None, extension=extension), root_pem),
        "three certificates": (machine().tcb_signer, root_pem * 2),
    }


@pytest.mark.parametrize("text", ["tcb_info", "qe_identity"])
@pytest.mark.parametrize("name", sorted(rogue_cases()))
def test_each_property_of_the_tcb_signer_counts_alone(name, text):
    signer, rest = rogue_cases()[name]
    signature = p256.sign(signer.key, getattr(case().collateral, text).encode())
    parts = {f"{text}_issuer_chain": signer.pem + rest, f"{text}_signature": signature}
    given = with_parts(case(), **parts)
    assert library_accepts(given) == "UpToDate"
    with pytest.raises(UntrustedError) as caught:
        verify(given)
    assert caught.value.code == "wrong-collateral-signer"


@pytest.mark.parametrize("text", ["tcb_info", "qe_identity"])
def test_another_tcb_signer_of_the_root_is_accepted(text):
    """Intel changes this certificate every few years."""
    signer = rogue_signer("SIMULATED SGX TCB Signing", issuer=None)
    signature = p256.sign(signer.key, getattr(case().collateral, text).encode())
    parts = {f"{text}_issuer_chain": signer.pem + machine().root.pem, f"{text}_signature": signature}
    assert verify(with_parts(case(), **parts)).tcb_status == "UpToDate"


def with_identity(period: Period) -> Case:
    identity = pcs.qe_identity(machine().qe_levels(), period=period, mr_signer=QE_MR_SIGNER, isv_prod_id=1)
    return with_parts(case(), qe_identity=identity, qe_identity_signature=machine().sign_text(identity))


def test_the_window_is_that_of_the_narrowest_part():
    narrow = Period(T - 60, T + 60)
    for given in (with_identity(narrow), with_tcb_info(case(), period=narrow)):
        verified = verify(given)
        assert (verified.valid_from_s, verified.valid_until_s) == (narrow.issued_s, narrow.expires_s)


def with_identity_text(old: str, new: str) -> Case:
    identity = case().collateral.qe_identity.replace(old, new)
    assert identity != case().collateral.qe_identity
    return with_parts(case(), qe_identity=identity, qe_identity_signature=machine().sign_text(identity))


NO_CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


def with_pck_chain(pem: str) -> Case:
    return with_signature(case(), certification_data=pem.encode())


def with_info_text(old: str, new: str) -> Case:
    info = case().collateral.tcb_info.replace(old, new)
    assert info != case().collateral.tcb_info
    return with_parts(case(), tcb_info=info, tcb_info_signature=machine().sign_text(info))


@pytest.mark.parametrize(
    ("make", "error", "code"),
    [
        (
            lambda: with_identity_text('miscselect":"00000000', 'miscselect":"00000001'),
            UntrustedError,
            "wrong-qe",
        ),
        (lambda: with_identity_text('attributes":"11', 'attributes":"13'), UntrustedError, "wrong-qe"),
        (lambda: with_identity_text('"version":2', '"version":3'), UntrustedError, "wrong-collateral"),
        (lambda: with_identity_text("UpToDate", "Fine"), MalformedError, "malformed-collateral"),
        (lambda: with_identity_text("{", "["), MalformedError, "malformed-collateral"),
        (lambda: with_info_text('"id":"SGX"', '"id":"TDX"'), UntrustedError, "wrong-collateral"),
        (lambda: with_info_text("sgxtcbcomponents", "components"), MalformedError, "malformed-collateral"),
        (lambda: with_info_text('"pceId":"0000",', ""), MalformedError, "malformed-collateral"),
        (lambda: with_info_text('"pceId":"0000"', '"pceId":"00"'), UntrustedError, "pceid-mismatch"),
        (lambda: with_info_text('"pceId":"0000"', '"pceId":"zz"'), MalformedError, "malformed-collateral"),
        (lambda: with_identity(Period(T - 9 * DAY, T - 1)), StaleError, "collateral-expired"),
        (lambda: with_identity(Period(T + 1, T + DAY)), StaleError, "collateral-not-yet-valid"),
        (lambda: with_pck_chain(machine().pck.pem), UntrustedError, "untrusted-chain"),
        (lambda: with_pck_chain(""), MalformedError, "malformed-quote"),
        (lambda: with_pck_chain(machine().pck_chain_pem[:900]), MalformedError, "malformed-quote"),
        (lambda: with_pck_chain(NO_CERTIFICATE * 3), MalformedError, "malformed-quote"),
        (
            lambda: with_pck_chain(machine().tcb_signer.pem + machine().root.pem),
            MalformedError,
            "malformed-quote",
        ),
        (lambda: with_pck_chain(machine().root.pem), UntrustedError, "untrusted-chain"),
        (lambda: with_parts(case(), root_ca_crl=b""), MalformedError, "malformed-collateral"),
        (
            lambda: with_parts(case(), tcb_info_signature=bytes(64)),
            UntrustedError,
            "bad-tcb-info-signature",
        ),
        (
            lambda: with_parts(case(), tcb_info_signature=bytes(63)),
            MalformedError,
            "malformed-collateral",
        ),
        (
            lambda: with_parts(case(), qe_identity_signature=bytes(65)),
            MalformedError,
            "malformed-collateral",
        ),
        (
            lambda: with_parts(case(), root_ca_crl=case(FOREIGN_SEED).collateral.root_ca_crl),
            UntrustedError,
            "wrong-root",
        ),
        (
            lambda: replace(
                case(), now_s=T + 6 * YEAR_S, collateral=machine().collateral(issued_s=T + 6 * YEAR_S)
            ),
            StaleError,
            "cert-expired",
        ),
    ],
)
def test_properly_signed_nonsense_and_missing_parts_are_refused(make, error, code):
    with pytest.raises(LogError) as caught:
        verify(make())
    assert (type(caught.value), caught.value.code) == (error, code)
