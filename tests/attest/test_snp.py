"""SEV-SNP reports: layout, certificates, verdict and policy; one defect a test, and the one code that refuses it."""

import hashlib
import json
import struct
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from assay.attest.measurement import Measurement, Tee
from assay.attest.quote import snp
from assay.attest.quote.snp import (
    SnpProduct,
    SnpSigningKey,
    SnpTcb,
    format_report,
    format_tcb,
    parse_report,
    parse_tcb,
)
from assay.attest.quote.snp_certificates import OID_PREFIX, SnpChain, parse_chain_pem
from assay.attest.quote.snp_policy import SnpPolicy, judge_snp
from assay.attest.quote.verify_snp import ChipBinding, Revocation, VerifiedSnpReport, verify_snp_report
from assay.attest.roots import Platform
from assay.attest.roots.pinned import (
    AMD_ARK_SPKI_SHA256,
    SIMULATED_AMD_ORGANIZATION,
    SnpRoot,
    amd_root,
)
from assay.attest.simulated.certificates import DAY_S, YEAR_S
from assay.attest.simulated.snp import POLICY, TCB, SimulatedSnp, SnpVariant
from assay.attest.simulated.vendor_certificates import (
    PSS,
    Authority,
    Profile,
    RsaName,
    issue,
    p384_key,
    rsa_key,
    rsa_revocation_list,
    rsa_start,
)
from assay.tlog.errors import LogError, MalformedError, StaleError, UntrustedError

T = 1_760_000_000
SEED = b"\x01" * 32
MEASUREMENT, REPORT_DATA = b"\x11" * 48, b"\x22" * 64
P384_ORDER = (
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
)
MILAN, GENOA, TURIN = SnpProduct
VCEK, VLEK, NONE = SnpSigningKey


@cache
def machine(**variant) -> SimulatedSnp:
    return SimulatedSnp(SEED, epoch_s=T, variant=SnpVariant(**variant))


def report_of(platform: SimulatedSnp, **changes) -> snp.SnpReport:
    return replace(platform.report(measurement=MEASUREMENT, report_data=REPORT_DATA), **changes)


def signed(platform: SimulatedSnp | None = None, **changes) -> bytes:
    platform = platform or machine()
    return platform.sign(report_of(platform, **changes))


def verify(
    report: bytes | None = None,
    chain: SnpChain | None = None,
    *,
    platform: SimulatedSnp | None = None,
    root: SnpRoot | None = None,
    now_s: int = T,
    crl: bytes | None = None,
) -> VerifiedSnpReport:
    platform = platform or machine()
    return verify_snp_report(
        signed(platform) if report is None else report,
        chain or platform.chain,
        root=root or platform.root,
        now_s=now_s,
        crl=crl,
    )


def refused(kind: type[LogError], code: str, *arguments, **options) -> None:
    with pytest.raises(kind) as caught:
        verify(*arguments, **options)
    assert (type(caught.value), caught.value.code) == (kind, code)


class Real:
    """One of the shared vectors."""

    def __init__(self, vectors, name: str) -> None:
        folder = vectors / "quotes" / "snp" / name
        self.meta = json.loads((folder / "meta.json").read_text())
        self.report = (folder / "quote.bin").read_bytes()
        parts = json.loads((folder / "collateral.json").read_text())
        self.chain = parse_chain_pem("".join(parts[key] for key in ("vcek", "ask", "ark")).encode())
        self.now_s = self.meta["verify_at"]

    def verify(self, report: bytes | None = None, *, product: SnpProduct = MILAN) -> VerifiedSnpReport:
        return verify_snp_report(
            report or self.report, self.chain, root=amd_root(product), now_s=self.now_s, crl=None
        )


# --- real reports


@pytest.mark.parametrize("name", ["virtee_milan", "veraison_genoa"])
def test_a_real_report_verifies_with_exactly_its_fields(vectors, name):
    real = Real(vectors, name)
    expected = real.meta["expected"]
    verified = real.verify(product=SnpProduct(expected["product"]))
    report, tcb = verified.report, verified.reported_tcb
    found = {
        "status": "verified",
        "product": str(verified.product),
        "signing_key": verified.signing_key.name,
        "tcb": {"bl": tcb.bootloader, "tee": tcb.tee, "snp": tcb.snp, "ucode": tcb.microcode},
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": hex(report.policy),
        "vmpl": report.vmpl,
        "debug": report.debug,
    }
    names = ("measurement", "report_data", "host_data", "id_key_digest", "chip_id", "reported_tcb")
    assert found | {name: getattr(report, name).hex() for name in names} == expected
    assert verified.platform is Platform.AMD
    assert verified.chip is ChipBinding.MATCHED
    assert verified.revocation is Revocation.NOT_CHECKED
    assert verified.evidence_id == hashlib.sha256(real.report[:0x2A0]).hexdigest()
    assert verified.chip_id_sha256 == hashlib.sha256(bytes.fromhex(expected["chip_id"])).hexdigest()
    assert verified.valid_from_s <= real.now_s < verified.valid_until_s


def test_a_real_report_of_a_debug_guest_is_refused(vectors):
    real = Real(vectors, "debug_policy")
    assert parse_report(real.report).debug
    with pytest.raises(UntrustedError) as caught:
        real.verify()
    assert caught.value.code == "debug"


@pytest.mark.parametrize("name", ["virtee_milan", "veraison_genoa", "debug_policy"])
def test_a_real_report_reads_and_writes_the_same(vectors, name):
    data = Real(vectors, name).report
    assert format_report(parse_report(data)) == data


def test_every_flipped_byte_of_a_real_report_is_refused(vectors):
    real = Real(vectors, "virtee_milan")
    assert_every_flip_is_refused(real.report, real.verify)


@pytest.mark.parametrize(("name", "product"), [("virtee_milan", GENOA), ("veraison_genoa", MILAN)])
def test_a_real_report_is_refused_under_the_root_of_another_product(vectors, name, product):
    with pytest.raises(UntrustedError) as caught:
        Real(vectors, name).verify(product=product)
    assert caught.value.code == "wrong-root"


def test_a_real_report_is_refused_under_the_simulated_root_and_the_other_way_round(vectors):
    real = Real(vectors, "virtee_milan")
    refused(UntrustedError, "wrong-root", real.report, real.chain, now_s=real.now_s)
    refused(UntrustedError, "wrong-root", root=amd_root(MILAN))


def test_a_real_report_of_another_chip_is_not_signed_by_this_one(vectors):
    milan, other = Real(vectors, "virtee_milan"), Real(vectors, "debug_policy")
    with pytest.raises(UntrustedError) as caught:
        milan.verify(other.report)
    assert caught.value.code == "bad-quote-signature"


@pytest.mark.parametrize(
    ("file", "product"),
    [
        (f"ask_ark_{line}{key}.pem", SnpProduct(line.capitalize()))
        for line, key in [
            ("milan", ""),
            ("milan", "_vlek"),
            ("genoa", ""),
            ("genoa", "_vlek"),
            ("turin", "_vcek"),
            ("turin", "_vlek"),
        ]
    ],
)
def test_the_pins_are_of_amds_root_certificates(vectors, file, product):
    data = (vectors / "quotes" / "roots" / file).read_bytes()
    certificate = x509.load_pem_x509_certificates(data)[1]
    assert Authority(certificate, rsa_key(RsaName.ARK)).spki_sha256 == AMD_ARK_SPKI_SHA256[product]
    assert amd_root(product).platform_of(certificate) is Platform.AMD


# --- layout


def assert_every_flip_is_refused(report: bytes, check) -> None:
    codes = set()
    for position in range(len(report)):
        data = bytearray(report)
        data[position] ^= 1 << position % 8
        with pytest.raises((MalformedError, UntrustedError)) as caught:
            check(bytes(data))
        codes.add(caught.value.code)
        assert position < 0x330 or caught.value.code == "malleable"
    assert codes == {"bad-quote-signature", "unsupported", "malleable"}


def test_every_flipped_byte_of_a_simulated_report_is_refused():
    assert_every_flip_is_refused(signed(), verify)


@pytest.mark.parametrize("size", [0, 1, 0x2A0, 1183, 1185, 4096])
def test_a_report_of_another_size_is_refused(size):
    refused(MalformedError, "bad-length", signed().ljust(size, b"\0")[:size])


@pytest.mark.parametrize("position", [0x330, 0x331, 1000, 1183])
def test_no_byte_behind_the_signature_is_free(position):
    data = bytearray(signed())
    data[position] = 1
    refused(MalformedError, "malleable", bytes(data))


@pytest.mark.parametrize("version", [0, 1, 6, 2**32 - 1])
def test_an_unknown_version_is_refused(version):
    data = struct.pack("<I", version) + signed()[4:]
    refused(MalformedError, "unsupported", data)


@pytest.mark.parametrize("algorithm", [0, 2, 2**32 - 1])
def test_an_unknown_signature_algorithm_is_refused(algorithm):
    data = signed()
    refused(MalformedError, "unsupported", data[:0x34] + struct.pack("<I", algorithm) + data[0x38:])


def test_fields_stand_where_the_table_says():
    data = bytearray(signed())
    marks = {
        0x004: ("guest_svn", 4), 0x008: ("policy", 8), 0x010: ("family_id", 16), 0x020: ("image_id", 16),
        0x030: ("vmpl", 4), 0x038: ("current_tcb", 8), 0x040: ("platform_info", 8), 0x048: ("flags", 4),
        0x04C: ("reserved1", 4), 0x050: ("report_data", 64), 0x090: ("measurement", 48),
        0x0C0: ("host_data", 32), 0x0E0: ("id_key_digest", 48), 0x110: ("author_key_digest", 48),
        0x140: ("report_id", 32), 0x160: ("report_id_migration_agent", 32), 0x180: ("reported_tcb", 8),
        0x188: ("cpuid", 3), 0x18B: ("reserved2", 21), 0x1A0: ("chip_id", 64), 0x1E0: ("committed_tcb", 8),
        0x1E8: ("current_build", 4), 0x1EC: ("committed_build", 4), 0x1F0: ("launch_tcb", 8),
        0x1F8: ("launch_mitigations", 8), 0x200: ("current_mitigations", 8), 0x208: ("reserved3", 152),
        0x2A0: ("signature_r", 72), 0x2E8: ("signature_s", 72),
    }  # fmt: skip
    for offset, (_, size) in marks.items():
        data[offset : offset + size] = hashlib.shake_256(bytes((offset % 251,))).digest(size)
    report = parse_report(bytes(data))
    for offset, (name, size) in marks.items():
        value = getattr(report, name)
        raw = value.to_bytes(size, "little") if isinstance(value, int) else value
        assert raw == bytes(data[offset : offset + size]), name
    assert {name for name, _ in marks.values()} | {"version", "signature_algorithm"} == {
        field.name for field in fields(report)
    }
    assert format_report(report) == bytes(data)


@given(st.binary(max_size=64) | st.binary(min_size=1184, max_size=1184))
def test_any_bytes_are_refused_or_read_and_written_the_same(data):
    try:
        report = parse_report(data)
    except MalformedError:
        return
    assert format_report(report) == data


@given(st.integers(2, 5), st.binary(min_size=0x2A0 + 144 - 4, max_size=0x2A0 + 144 - 4))
def test_any_bytes_of_the_right_kind_are_read_and_written_the_same(version, data):
    data = struct.pack("<I", version) + data[:0x30] + struct.pack("<I", 1) + data[0x34:]
    assert format_report(parse_report(data + bytes(368))) == data + bytes(368)


@pytest.mark.parametrize(
    "changes",
    [{"vmpl": -1}, {"vmpl": 2**32}, {"policy": 2**64}, {"chip_id": b""}, {"measurement": b"1" * 49}],
)
def test_a_field_that_does_not_fit_is_refused(changes):
    with pytest.raises(MalformedError):
        report_of(machine(), **changes)


@pytest.mark.parametrize(
    ("product", "data", "tcb"),
    [
        (MILAN, "0102000000000304", SnpTcb(1, 2, 3, 4)),
        (GENOA, "0102000000000304", SnpTcb(1, 2, 3, 4)),
        (TURIN, "0501020300000004", SnpTcb(1, 2, 3, 4, 5)),
    ],
)
def test_a_tcb_version_is_laid_out_as_its_product_does(product, data, tcb):
    assert parse_tcb(bytes.fromhex(data), product=product) == tcb
    assert format_tcb(tcb, product=product).hex() == data


@pytest.mark.parametrize(("product", "reserved"), [(MILAN, (2, 3, 4, 5)), (TURIN, (4, 5, 6))])
def test_a_reserved_byte_of_a_tcb_version_is_zero(product, reserved):
    for position in reserved:
        data = bytearray(8)
        data[position] = 1
        with pytest.raises(MalformedError) as caught:
            parse_tcb(bytes(data), product=product)
        assert caught.value.code == "unsupported"


def test_a_tcb_version_of_another_size_or_product_is_refused():
    for data in (b"", bytes(7), bytes(9)):
        with pytest.raises(MalformedError):
            parse_tcb(data, product=MILAN)
    with pytest.raises(MalformedError):
        format_tcb(SnpTcb(1, 2, 3, 4), product=TURIN)
    with pytest.raises(MalformedError):
        format_tcb(SnpTcb(1, 2, 3, 4, 5), product=MILAN)
    for svn in (-1, 256):
        with pytest.raises(MalformedError):
            SnpTcb(1, 2, 3, svn)


# --- simulated reports that verify


@pytest.mark.parametrize("version", snp.VERSIONS)
@pytest.mark.parametrize("product", SnpProduct)
@pytest.mark.parametrize("key", [VCEK, VLEK])
def test_every_version_product_and_signing_key_verifies(version, product, key):
    platform = machine(product=product, signing_key=key)
    report = platform.report(measurement=MEASUREMENT, report_data=REPORT_DATA, version=version)
    verified = verify(platform.sign(report), platform=platform)
    assert verified.product is product
    assert verified.signing_key is key
    assert verified.reported_tcb == verified.launch_tcb == TCB[product]
    assert verified.platform is Platform.SIMULATED
    assert verified.root_name == "simulated-snp"
    assert verified.measurement == Measurement(Tee.SNP, MEASUREMENT)
    assert verified.report_data == REPORT_DATA
    assert verified.chip is (ChipBinding.MATCHED if key is VCEK else ChipBinding.NOT_OF_A_CHIP)
    assert verified.csp_id == (None if key is VCEK else "SIMULATION")


def test_the_simulation_is_deterministic_and_differs_by_seed():
    again, other = SimulatedSnp(SEED, epoch_s=T), SimulatedSnp(b"\x02" * 32, epoch_s=T)
    assert (again.chain, signed(again)) == (machine().chain, signed())
    assert again.revocation_list(again.leaf, issued_s=T) == machine().revocation_list(again.leaf, issued_s=T)
    assert other.chain.leaf != again.chain.leaf
    assert signed(other) != signed(again)


def test_every_name_of_the_simulation_says_what_it_is():
    platform = machine()
    for authority in (platform.ark, platform.intermediate, platform.leaf):
        organization = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, SIMULATED_AMD_ORGANIZATION)
        assert organization in authority.certificate.subject
        assert organization in authority.certificate.issuer


@pytest.mark.parametrize("name", RsaName)
def test_the_fixed_keys_of_the_simulation_are_rsa_keys_that_follow_from_their_labels(name):
    label, first, second = name.value
    numbers = rsa_key(name).private_numbers()
    numbers.private_key()  # refuses composite numbers
    assert numbers.public_numbers.n.bit_length() == 4096
    assert {numbers.p, numbers.q} == {rsa_start(f"{label} p") + first, rsa_start(f"{label} q") + second}


def test_a_root_that_says_nothing_of_itself_is_custom():
    ark = issue(profile("ARK-Milan", organization="Somebody"), rsa_key(RsaName.ARK), issuer=None)
    verified = verify(chain=chain_of(ark=ark), root=SnpRoot("x", ark.spki_sha256, MILAN))
    assert (verified.platform, verified.root_name) == (Platform.CUSTOM, "x")


def test_the_chain_may_come_as_pem():
    assert parse_chain_pem(machine().chain_pem.encode()) == machine().chain


def test_the_twin_of_a_signature_verifies_with_the_same_id():
    report = report_of(machine())
    data = machine().sign(report)
    s = int.from_bytes(data[0x2E8:0x330], "little")
    twin = data[:0x2E8] + (P384_ORDER - s).to_bytes(72, "little") + bytes(368)
    assert twin != data
    assert verify(twin).evidence_id == verify(data).evidence_id == report.evidence_id


# --- the report against its key


@pytest.mark.parametrize("r_or_s", ["signature_r", "signature_s"])
@pytest.mark.parametrize("number", [0, 1, P384_ORDER, 2**576 - 1])
def test_numbers_that_are_no_signature_are_refused(r_or_s, number):
    report = replace(parse_report(signed()), **{r_or_s: number.to_bytes(72, "little")})
    refused(UntrustedError, "bad-quote-signature", format_report(report))


def test_a_signature_by_another_chip_is_refused():
    other = SimulatedSnp(b"\x02" * 32, epoch_s=T)
    refused(UntrustedError, "bad-quote-signature", signed(other))


def test_a_signature_plus_the_order_is_refused():
    data = signed()
    s = int.from_bytes(data[0x2E8:0x330], "little") + P384_ORDER
    refused(UntrustedError, "bad-quote-signature", data[:0x2E8] + s.to_bytes(72, "little") + bytes(368))


@pytest.mark.parametrize("key", [1, 2, 6, 7])
def test_a_report_that_names_another_signing_key_than_the_vcek_is_refused(key):
    refused(UntrustedError, "wrong-signing-key", signed(flags=key << 2))


@pytest.mark.parametrize("key", [0, 3, 7])
def test_a_report_that_names_another_signing_key_than_the_vlek_is_refused(key):
    platform = machine(signing_key=VLEK)
    refused(UntrustedError, "wrong-signing-key", signed(platform, flags=key << 2), platform=platform)


COMPONENTS = [
    (product, name)
    for product in SnpProduct
    for name in ("bootloader", "tee", "snp", "microcode", "fmc")
    if name != "fmc" or product is TURIN
]


@pytest.mark.parametrize(("product", "name"), COMPONENTS)
@pytest.mark.parametrize("step", [-1, 1])
def test_a_key_derived_for_another_tcb_version_is_refused(product, name, step):
    tcb = replace(TCB[product], tee=1)
    other = replace(tcb, **{name: getattr(tcb, name) + step})
    platform = machine(product=product, tcb=tcb, key_tcb=other)
    refused(UntrustedError, "tcb-mismatch", platform=platform)
    reported = format_tcb(other, product=product)
    assert verify(signed(platform, reported_tcb=reported), platform=platform).reported_tcb == other


@pytest.mark.parametrize("svn", [0, 127, 128, 255])
def test_versions_at_the_edges_of_their_der_are_read(svn):
    platform = machine(tcb=SnpTcb(svn, svn, svn, svn))
    assert verify(platform=platform).reported_tcb.components == (svn,) * 4


@pytest.mark.parametrize("field", ["reported_tcb", "current_tcb", "committed_tcb", "launch_tcb"])
def test_an_unknown_component_of_a_tcb_version_is_refused(field):
    value = format_tcb(TCB[MILAN], product=MILAN)
    refused(MalformedError, "unsupported", signed(**{field: value[:3] + b"\x01" + value[4:]}))


@pytest.mark.parametrize("product", [MILAN, TURIN])
def test_a_report_of_another_chip_than_its_key_is_refused(product):
    refused(UntrustedError, "chip-mismatch", platform=machine(product=product, foreign_chip=True))


def test_a_masked_chip_is_reported_as_such():
    assert verify(platform=machine(chip_masked=True)).chip is ChipBinding.MASKED


def test_a_hidden_chip_that_the_report_does_not_call_masked_is_refused():
    refused(UntrustedError, "chip-mismatch", signed(chip_id=bytes(64)))


def test_a_masked_chip_with_another_chips_id_is_refused():
    platform = machine(chip_masked=True)
    refused(UntrustedError, "chip-mismatch", signed(platform, chip_id=b"\x07" * 64), platform=platform)


def test_a_guest_that_may_be_debugged_is_refused():
    refused(UntrustedError, "debug", signed(policy=POLICY | snp.POLICY_DEBUG))


def test_checks_come_in_their_documented_order():
    every = {"policy": POLICY | snp.POLICY_DEBUG, "chip_id": b"\x07" * 64, "reported_tcb": bytes(8)}
    refused(UntrustedError, "wrong-signing-key", signed(flags=4, **every))
    refused(UntrustedError, "tcb-mismatch", signed(**every))
    del every["reported_tcb"]
    refused(UntrustedError, "chip-mismatch", signed(**every))
    revoking = machine().revocation_list(machine().leaf, issued_s=T)
    broken = format_report(replace(parse_report(signed()), signature_r=bytes(72)))
    refused(UntrustedError, "revoked", broken, crl=revoking)
    refused(UntrustedError, "wrong-root", broken, crl=revoking, root=amd_root(MILAN))
    refused(MalformedError, "bad-length", b"", crl=revoking, root=amd_root(MILAN))


# --- certificates


def profile(common_name: str, *, organization: str = SIMULATED_AMD_ORGANIZATION, **changes) -> Profile:
    defaults = {"from_s": T - YEAR_S, "until_s": T + YEAR_S, "is_ca": True}
    return Profile(common_name, organization, **defaults | changes)


def leaf_extensions(**changes: bytes | None) -> tuple[tuple[str, bytes], ...]:
    """Of the usual VCEK, changed by arc (with _ for the dot); None leaves one out."""
    leaf = machine().leaf.certificate
    found = {
        extension.oid.dotted_string: extension.value.public_bytes()
        for extension in leaf.extensions
        if extension.oid.dotted_string.startswith(OID_PREFIX)
    }
    found |= {OID_PREFIX + arc.strip("a").replace("_", "."): value for arc, value in changes.items()}
    return tuple((oid, value) for oid, value in found.items() if value is not None)


LEAF_KEY = p384_key(SEED, "endorsement key")


def leaf_of(
    issuer: Authority, *, name: str = "SEV-VCEK", key=LEAF_KEY, extensions=None, **changes
) -> Authority:
    extensions = leaf_extensions() if extensions is None else extensions
    return issue(profile(name, **{"is_ca": False, "extensions": extensions} | changes), key, issuer=issuer)


def chain_of(*, ark=None, intermediate=None, leaf=None) -> SnpChain:
    """A chain whose missing parts are issued as they should be."""
    ark = ark or machine().ark
    intermediate = intermediate or issue(profile("SEV-Milan"), rsa_key(RsaName.ASK), issuer=ark)
    leaf = leaf or leaf_of(intermediate)
    return SnpChain(leaf.der, intermediate.der, ark.der)


def ask(**changes) -> Authority:
    return issue(profile("SEV-Milan", **changes), rsa_key(RsaName.ASK), issuer=machine().ark)


def test_the_makers_of_this_file_make_chains_that_verify():
    assert verify(chain=chain_of()).chip is ChipBinding.MATCHED


def test_any_other_root_key_is_refused():
    other = SnpRoot("other", "0" * 64, MILAN)
    refused(UntrustedError, "wrong-root", root=other)


def test_the_name_of_the_root_is_not_enough():
    ark = issue(profile("ARK-Milan"), rsa_key(RsaName.ASK), issuer=None)
    refused(UntrustedError, "wrong-root", chain=chain_of(ark=ark))


@pytest.mark.parametrize("pin", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "0" * 64 + "\n"])
def test_a_pin_that_could_match_nothing_is_refused(pin):
    with pytest.raises(MalformedError) as caught:
        SnpRoot("x", pin, MILAN)
    assert caught.value.code == "malformed-root"


@pytest.mark.parametrize(
    ("order", "code"),
    [
        (("leaf", "ark", "intermediate"), "wrong-root"),
        (("ark", "intermediate", "leaf"), "wrong-root"),
        (("intermediate", "leaf", "ark"), "untrusted-chain"),
        (("leaf", "leaf", "ark"), "untrusted-chain"),
        (("leaf", "ark", "ark"), "untrusted-chain"),
        (("intermediate", "intermediate", "ark"), "untrusted-chain"),
        (("ark", "ark", "ark"), "untrusted-chain"),
    ],
)
def test_certificates_in_another_order_are_refused(order, code):
    chain = SnpChain(*(getattr(machine().chain, name) for name in order))
    refused(UntrustedError, code, chain=chain)


def test_a_root_whose_name_and_key_do_not_sign_it_is_refused():
    pinned = rsa_key(RsaName.ARK)
    other = issue(profile("ARK-Milan"), rsa_key(RsaName.ASK), issuer=None)
    ark = issue(profile("ARK-Milan"), pinned, issuer=other)
    refused(UntrustedError, "untrusted-chain", chain=chain_of(ark=ark))


def test_an_intermediate_that_another_key_signed_under_the_roots_name_is_refused():
    impostor = issue(profile("ARK-Milan"), rsa_key(RsaName.ASK), issuer=None)
    intermediate = issue(profile("SEV-Milan"), rsa_key(RsaName.ASK), issuer=impostor)
    refused(UntrustedError, "untrusted-chain", chain=chain_of(intermediate=intermediate))


def test_an_intermediate_of_another_issuers_name_is_refused():
    named = issue(profile("ARK-Genoa"), rsa_key(RsaName.ARK), issuer=None)
    intermediate = issue(profile("SEV-Milan"), rsa_key(RsaName.ASK), issuer=named)
    refused(UntrustedError, "untrusted-chain", chain=chain_of(intermediate=intermediate))


def test_a_leaf_issued_by_the_root_itself_is_refused():
    refused(UntrustedError, "untrusted-chain", chain=chain_of(leaf=leaf_of(machine().ark)))


def test_a_leaf_of_another_line_of_products_is_refused():
    intermediate = issue(profile("SEV-Genoa"), rsa_key(RsaName.ASK), issuer=machine().ark)
    refused(UntrustedError, "untrusted-chain", chain=chain_of(intermediate=intermediate))


def test_a_vcek_under_the_vleks_intermediate_is_refused_and_the_other_way_round():
    vlek = issue(profile("SEV-VLEK-Milan"), rsa_key(RsaName.ASK), issuer=machine().ark)
    refused(UntrustedError, "untrusted-chain", chain=chain_of(intermediate=vlek))
    leaf = leaf_of(ask(), name="SEV-VLEK", extensions=leaf_extensions(a4=None, a5=b"\x16\x01x"))
    refused(UntrustedError, "untrusted-chain", chain=chain_of(leaf=leaf))


@pytest.mark.parametrize("name", ["SEV-VCEK ", "sev-vcek", "SEV-Milan", "SEV-VCEK-Milan"])
def test_a_leaf_of_another_name_is_refused(name):
    refused(UntrustedError, "untrusted-chain", chain=chain_of(leaf=leaf_of(ask(), name=name)))


def test_a_leaf_that_is_a_ca_and_an_intermediate_that_is_none_are_refused():
    refused(UntrustedError, "untrusted-chain", chain=chain_of(leaf=leaf_of(ask(), is_ca=True)))
    refused(UntrustedError, "untrusted-chain", chain=chain_of(intermediate=ask(is_ca=False)))


@pytest.mark.parametrize(
    "key", [ec.derive_private_key(7, ec.SECP256R1()), ec.derive_private_key(7, ec.SECP521R1())]
)
def test_a_leaf_on_another_curve_is_refused(key):
    refused(UntrustedError, "untrusted-chain", chain=chain_of(leaf=leaf_of(ask(), key=key)))


def test_a_leaf_with_an_rsa_key_is_refused():
    refused(UntrustedError, "untrusted-chain", chain=chain_of(leaf=leaf_of(ask(), key=rsa_key(RsaName.ASK))))


def test_a_pinned_root_on_a_curve_is_refused():
    ark = issue(profile("ARK-Milan"), p384_key(SEED, "ec root"), issuer=None)
    intermediate = issue(profile("SEV-Milan"), rsa_key(RsaName.ASK), issuer=ark)
    chain = chain_of(ark=ark, intermediate=intermediate)
    refused(UntrustedError, "untrusted-chain", chain=chain, root=SnpRoot("ec", ark.spki_sha256, MILAN))


@cache
def short_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def test_rsa_keys_of_another_size_are_refused():
    ark = issue(profile("ARK-Milan"), short_key(), issuer=None)
    root = SnpRoot("short", ark.spki_sha256, MILAN)
    refused(UntrustedError, "untrusted-chain", chain=chain_of(ark=ark), root=root)
    intermediate = issue(profile("SEV-Milan"), short_key(), issuer=machine().ark)
    refused(UntrustedError, "untrusted-chain", chain=chain_of(intermediate=intermediate))


def utc(time_s: int) -> datetime:
    return datetime.fromtimestamp(time_s, tz=UTC)


def by_hand(*extensions: tuple[x509.ExtensionType, bool], serial: int = 1, algorithm=None, rsa_padding=PSS):
    """The usual leaf from the library's own builder, for what the makers refuse to make."""
    issuer = ask()
    builder = x509.CertificateBuilder(
        issuer_name=issuer.certificate.subject,
        subject_name=leaf_of(issuer).certificate.subject,
        public_key=LEAF_KEY.public_key(),
        serial_number=serial,
        not_valid_before=utc(T - DAY_S),
        not_valid_after=utc(T + DAY_S),
    )
    for oid, value in leaf_extensions():
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
        builder = builder.add_extension(unknown, critical=False)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    return builder.sign(issuer.key, algorithm or SHA384(), rsa_padding=rsa_padding)


def resigned(certificate: x509.Certificate, old: bytes, new: bytes) -> bytes:
    """The certificate with one change of the same length, signed again by the simulated ASK."""
    der, tbs = certificate.public_bytes(Encoding.DER), certificate.tbs_certificate_bytes
    assert len(old) == len(new)
    assert tbs.count(old) == 1
    start = der.index(tbs) + len(tbs)
    changed = tbs.replace(old, new)
    signature = rsa_key(RsaName.ASK).sign(changed, PSS, SHA384())
    content = changed + der[start : -len(signature)] + signature
    return b"\x30\x82" + len(content).to_bytes(2, "big") + content


def with_leaf(der: bytes) -> SnpChain:
    return replace(chain_of(), leaf=der)


def test_a_leaf_without_any_usual_extension_verifies_as_amds_do():
    assert verify(chain=with_leaf(by_hand().public_bytes(Encoding.DER))).chip is ChipBinding.MATCHED


def test_a_leaf_with_serial_number_zero_verifies_as_amds_do():
    der = resigned(by_hand(), b"\xa0\x03\x02\x01\x02\x02\x01\x01", b"\xa0\x03\x02\x01\x02\x02\x01\x00")
    crl = machine().revocation_list(issued_s=T)
    assert verify(chain=with_leaf(der), crl=crl).revocation is Revocation.CHECKED


@pytest.mark.parametrize(
    ("algorithm", "rsa_padding"),
    [
        (SHA256(), padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=32)),
        (SHA384(), padding.PKCS1v15()),
        (SHA256(), padding.PKCS1v15()),
    ],
    ids=["PSS with SHA-256", "PKCS 1 with SHA-384", "PKCS 1 with SHA-256"],
)
def test_certificates_signed_with_another_algorithm_are_refused(algorithm, rsa_padding):
    leaf = by_hand(algorithm=algorithm, rsa_padding=rsa_padding)
    refused(UntrustedError, "untrusted-chain", chain=with_leaf(leaf.public_bytes(Encoding.DER)))


@pytest.mark.parametrize(
    "extension",
    [
        x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
        x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH]),
    ],
)
def test_an_extension_that_is_not_understood_may_not_be_critical(extension):
    refused(
        UntrustedError,
        "untrusted-chain",
        chain=with_leaf(by_hand((extension, True)).public_bytes(Encoding.DER)),
    )
    assert verify(chain=with_leaf(by_hand((extension, False)).public_bytes(Encoding.DER)))


def test_an_extension_that_occurs_twice_is_refused():
    arc = bytes.fromhex("060a2b060104019c780103")
    fourth = x509.UnrecognizedExtension(x509.ObjectIdentifier(OID_PREFIX + "3.4"), b"\x02\x01\x00")
    der = resigned(by_hand((fourth, False)), arc + b"\x04", arc + b"\x01")
    refused(MalformedError, "malformed-collateral", chain=with_leaf(der))


@pytest.mark.parametrize(
    "value",
    [
        None, b"", b"\x02\x00", b"\x02\x01", b"\x02\x02\x00\x04", b"\x02\x01\x80", b"\x02\x02\x01\x00", b"\x02\x01\xff",
        b"\x02\x01\x04\x00", b"\x04\x01\x04", b"\x02\x81\x01\x04", b"\x0a\x01\x04", b"\x02\x03\x00\x00\x04", b"\x04",
    ],
)  # fmt: skip
@pytest.mark.parametrize("arc", ["a3_1", "a3_2", "a3_3", "a3_8"])
def test_a_version_that_is_missing_or_in_another_spelling_is_refused(arc, value):
    leaf = leaf_of(ask(), extensions=leaf_extensions(**{arc: value}))
    refused(MalformedError, "malformed-collateral", chain=chain_of(leaf=leaf))


@pytest.mark.parametrize("arc", ["a3_4", "a3_5", "a3_6", "a3_7", "a3_9"])
def test_a_component_that_milan_has_not_is_zero(arc):
    leaf = leaf_of(ask(), extensions=leaf_extensions(**{arc: b"\x02\x01\x00"}))
    assert verify(chain=chain_of(leaf=leaf))
    for value in (b"\x02\x01\x01", b"", b"\x02\x02\x00\x00"):
        leaf = leaf_of(ask(), extensions=leaf_extensions(**{arc: value}))
        refused(MalformedError, "malformed-collateral", chain=chain_of(leaf=leaf))


def test_turins_key_names_an_fmc():
    platform = machine(product=TURIN)
    kept = tuple(
        (extension.oid.dotted_string, extension.value.public_bytes())
        for extension in platform.leaf.certificate.extensions
        if extension.oid.dotted_string.startswith(OID_PREFIX)
        and not extension.oid.dotted_string.endswith("3.9")
    )
    leaf = leaf_of(platform.intermediate, extensions=kept)
    chain = replace(platform.chain, leaf=leaf.der)
    refused(MalformedError, "malformed-collateral", signed(platform), chain, platform=platform)


@pytest.mark.parametrize(
    "change",
    [
        {"a4": None},
        {"a4": b""},
        {"a4": machine().hardware_id[:63]},
        {"a4": machine().hardware_id[:8]},
        {"a4": machine().hardware_id + b"\0"},
        {"a4": b"\x04\x08" + machine().hardware_id[:8]},
        {"a4": b"\x04\x40" + machine().hardware_id + b"\0"},
        {"a5": b"\x16\x01x"},
    ],
)
def test_a_vcek_names_its_chip_and_no_cloud(change):
    leaf = leaf_of(ask(), extensions=leaf_extensions(**change))
    refused(MalformedError, "malformed-collateral", chain=chain_of(leaf=leaf))


def test_the_chip_may_stand_in_an_octet_string():
    leaf = leaf_of(ask(), extensions=leaf_extensions(a4=b"\x04\x40" + machine().hardware_id))
    assert verify(chain=chain_of(leaf=leaf)).chip is ChipBinding.MATCHED


@pytest.mark.parametrize(
    "change",
    [
        {"a5": None}, {"a5": b""}, {"a5": b"\x16\x00"}, {"a5": b"\x16\x02x"}, {"a5": b"\x16\x01xx"},
        {"a5": b"\x0c\x01x"}, {"a5": b"\x16\x01\x07"}, {"a5": b"\x16\x01\xff"}, {"a5": b"\x16\x81\x80" + b"x" * 128},
        {"a5": b"\x16\x80" + b"x" * 128}, {"a4": bytes(64)},
    ],
)  # fmt: skip
def test_a_vlek_names_its_cloud_and_no_chip(change):
    platform = machine(signing_key=VLEK)
    usual = {"a4": None, "a5": b"\x16\x05CLOUD"}
    leaf = leaf_of(platform.intermediate, name="SEV-VLEK", extensions=leaf_extensions(**usual))
    chain = replace(platform.chain, leaf=leaf.der)
    assert verify(signed(platform), chain, platform=platform).csp_id == "CLOUD"
    leaf = leaf_of(platform.intermediate, name="SEV-VLEK", extensions=leaf_extensions(**usual | change))
    chain = replace(platform.chain, leaf=leaf.der)
    refused(MalformedError, "malformed-collateral", signed(platform), chain, platform=platform)


@pytest.mark.parametrize("part", ["leaf", "intermediate", "ark"])
@pytest.mark.parametrize("der", [b"", b"\x30\x00", b"certificate", bytes(70_000)])
def test_what_is_no_certificate_is_refused(part, der):
    refused(MalformedError, "malformed-collateral", chain=replace(machine().chain, **{part: der}))


@pytest.mark.parametrize("part", ["leaf", "intermediate", "ark"])
def test_a_certificate_with_a_byte_more_is_refused(part):
    der = getattr(machine().chain, part)
    refused(MalformedError, "malformed-collateral", chain=replace(machine().chain, **{part: der + b"\0"}))


@pytest.mark.parametrize(
    "pem",
    [
        "",
        "text",
        machine().leaf.pem + machine().ark.pem,
        machine().chain_pem + machine().ark.pem,
        machine().chain_pem + " " * 70_000,
        machine().leaf.pem.replace("CERTIFICATE", "CERT") + machine().ark.pem * 2,
    ],
)
def test_a_text_without_three_certificates_is_refused(pem):
    with pytest.raises(MalformedError) as caught:
        parse_chain_pem(pem.encode())
    assert caught.value.code == "malformed-collateral"


# --- time


def test_every_certificate_counts_from_its_first_to_its_last_second():
    chain = chain_of()
    start, end = T - YEAR_S, T + YEAR_S
    verified = verify(chain=chain)
    assert (verified.valid_from_s, verified.valid_until_s) == (start, end + 1)
    assert verify(chain=chain, now_s=start)
    assert verify(chain=chain, now_s=end)
    refused(StaleError, "cert-not-yet-valid", chain=chain, now_s=start - 1)
    refused(StaleError, "cert-expired", chain=chain, now_s=end + 1)


@pytest.mark.parametrize("part", ["ark", "intermediate", "leaf"])
@pytest.mark.parametrize(
    ("code", "dates"),
    [
        ("cert-expired", {"until_s": T - 1}),
        ("cert-not-yet-valid", {"from_s": T + 1}),
    ],
)
def test_one_certificate_out_of_its_time_is_enough(part, code, dates):
    if part == "ark":
        ark = issue(profile("ARK-Milan", **dates), rsa_key(RsaName.ARK), issuer=None)
        chain = chain_of(ark=ark)
    elif part == "intermediate":
        chain = chain_of(intermediate=ask(**dates))
    else:
        chain = chain_of(leaf=leaf_of(ask(), **dates))
    refused(StaleError, code, chain=chain)


@pytest.mark.parametrize(
    ("now_s", "code"), [(0, "cert-not-yet-valid"), (-1, "cert-not-yet-valid"), (2**63, "cert-expired")]
)
def test_times_far_away_are_refused(now_s, code):
    refused(StaleError, code, now_s=now_s)


# --- revocation


def crl(*revoked: Authority, issued_s: int = T - DAY_S) -> bytes:
    return machine().revocation_list(*revoked, issued_s=issued_s)


def test_a_list_that_was_checked_shows_in_the_result():
    assert verify().revocation is Revocation.NOT_CHECKED
    verified = verify(crl=crl())
    assert verified.revocation is Revocation.CHECKED
    assert (verified.valid_from_s, verified.valid_until_s) == (T - DAY_S, T - DAY_S + YEAR_S)


@pytest.mark.parametrize("part", ["intermediate", "leaf"])
def test_a_revoked_certificate_is_refused(part):
    refused(UntrustedError, "revoked", crl=crl(machine().ark, getattr(machine(), part)))


def test_a_list_of_other_certificates_is_none_of_ours():
    other = SimulatedSnp(b"\x02" * 32, epoch_s=T)
    assert verify(crl=crl(machine().ark, other.leaf)).revocation is Revocation.CHECKED


def test_a_list_counts_from_its_issue_until_its_next_update():
    assert verify(crl=crl(issued_s=T)).revocation is Revocation.CHECKED
    refused(StaleError, "collateral-not-yet-valid", crl=crl(issued_s=T + 1))
    assert verify(crl=crl(issued_s=T - YEAR_S + 1)).revocation is Revocation.CHECKED
    refused(StaleError, "collateral-expired", crl=crl(issued_s=T - YEAR_S))


def test_a_list_by_another_key_or_of_another_name_is_refused():
    platform = machine()
    by_ask = rsa_revocation_list(platform.intermediate, [], issued_s=T, expires_s=T + 1)
    refused(UntrustedError, "wrong-collateral-signer", crl=by_ask)
    impostor = Authority(platform.ark.certificate, rsa_key(RsaName.ASK))
    refused(
        UntrustedError,
        "wrong-collateral-signer",
        crl=rsa_revocation_list(impostor, [], issued_s=T, expires_s=T + 1),
    )
    renamed = Authority(platform.intermediate.certificate, rsa_key(RsaName.ARK))
    refused(
        UntrustedError,
        "wrong-collateral-signer",
        crl=rsa_revocation_list(renamed, [], issued_s=T, expires_s=T + 1),
    )


def crl_by_hand(*, algorithm=None, rsa_padding=PSS, extension=None) -> bytes:
    builder = x509.CertificateRevocationListBuilder(
        issuer_name=machine().ark.certificate.subject, last_update=utc(T), next_update=utc(T + 1)
    )
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    made = builder.sign(rsa_key(RsaName.ARK), algorithm or SHA384(), rsa_padding=rsa_padding)
    return made.public_bytes(Encoding.DER)


def test_a_list_signed_with_another_algorithm_is_refused():
    assert verify(crl=crl_by_hand())
    refused(UntrustedError, "wrong-collateral-signer", crl=crl_by_hand(rsa_padding=padding.PKCS1v15()))
    pss256 = padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=32)
    refused(
        UntrustedError, "wrong-collateral-signer", crl=crl_by_hand(algorithm=SHA256(), rsa_padding=pss256)
    )


@pytest.mark.parametrize(
    "extension",
    [
        x509.DeltaCRLIndicator(1),
        x509.IssuingDistributionPoint(
            full_name=[x509.UniformResourceIdentifier("https://crl.example")],
            relative_name=None,
            only_contains_user_certs=True,
            only_contains_ca_certs=False,
            only_some_reasons=None,
            indirect_crl=False,
            only_contains_attribute_certs=False,
        ),
    ],
)
def test_a_list_that_covers_only_a_part_is_refused(extension):
    refused(MalformedError, "malformed-collateral", crl=crl_by_hand(extension=extension))


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"list", crl() + b"\0", crl()[:-1], bytes(2**20 + 1)])
def test_what_is_no_list_is_refused(data):
    refused(MalformedError, "malformed-collateral", crl=data)


def test_every_sampled_flip_of_a_list_is_refused():
    data = crl(machine().ark)
    for position in range(0, len(data), 7):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises((MalformedError, UntrustedError)) as caught:
            verify(crl=bytes(changed))
        assert caught.value.code in {"malformed-collateral", "wrong-collateral-signer"}


# --- policy


def policy(**changes) -> SnpPolicy:
    good = SnpPolicy(
        minimum_tcb={MILAN: TCB[MILAN], TURIN: TCB[TURIN]},
        vmpls=frozenset({0}),
        allow_migration_agent=False,
        require_revocation=False,
    )
    return replace(good, **changes)


def judged(code: str, verified: VerifiedSnpReport, wanted: SnpPolicy) -> None:
    with pytest.raises(UntrustedError) as caught:
        judge_snp(verified, wanted)
    assert caught.value.code == code


def test_a_platform_at_the_minimum_is_good_enough():
    assert judge_snp(verify(), policy()) == verify()
    turin = verify(platform=machine(product=TURIN))
    assert judge_snp(turin, policy()) is turin


@pytest.mark.parametrize(("product", "name"), COMPONENTS)
def test_one_component_below_the_minimum_is_too_low_however_high_the_others_are(product, name):
    raised = replace(TCB[product], **{name: getattr(TCB[product], name) + 1})
    high = SnpTcb(*(255 for _ in TCB[product].components))
    platform = machine(product=product, tcb=replace(high, **{name: getattr(TCB[product], name)}))
    judged("tcb-too-low", verify(platform=platform), policy(minimum_tcb={product: raised}))


def test_a_guest_launched_by_old_firmware_is_too_low():
    old = format_tcb(replace(TCB[MILAN], snp=1), product=MILAN)
    judged("tcb-too-low", verify(signed(launch_tcb=old)), policy())


def test_a_product_that_the_policy_does_not_name_is_refused():
    judged("tcb-unsupported", verify(platform=machine(product=GENOA)), policy())


@pytest.mark.parametrize("vmpl", [1, 2, 3, 4, 2**32 - 1])
def test_a_privilege_level_that_the_policy_does_not_name_is_refused(vmpl):
    judged("vmpl", verify(signed(vmpl=vmpl)), policy())


def test_a_privilege_level_that_the_policy_names_is_good():
    judge_snp(verify(signed(vmpl=2)), policy(vmpls=frozenset({2})))
    judged("vmpl", verify(), policy(vmpls=frozenset({2})))


def test_a_guest_that_an_agent_may_migrate_needs_the_policys_word():
    verified = verify(signed(policy=POLICY | snp.POLICY_MIGRATION_AGENT))
    judged("migration-agent", verified, policy())
    judge_snp(verified, policy(allow_migration_agent=True))


def test_a_policy_that_wants_a_revocation_list_refuses_without_one():
    judged("missing-crl", verify(), policy(require_revocation=True))
    judge_snp(verify(crl=crl()), policy(require_revocation=True))


@pytest.mark.parametrize(
    "changes",
    [
        {"minimum_tcb": {}},
        {"minimum_tcb": {TURIN: SnpTcb(0, 0, 0, 0)}},
        {"minimum_tcb": {MILAN: SnpTcb(0, 0, 0, 0, 0)}},
        {"vmpls": frozenset()},
        {"vmpls": frozenset({4})},
        {"vmpls": frozenset({-1, 0})},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(changes):
    with pytest.raises(MalformedError):
        policy(**changes)
