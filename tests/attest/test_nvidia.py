"""GPU evidence: layout, certificates and verdict; one defect a test, and the one code that refuses it."""

import hashlib
import json
import struct
from dataclasses import replace
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import given
from hypothesis import strategies as st

from assay.attest.quote import nvidia
from assay.attest.quote.nvidia import (
    GpuEvidence,
    MeasurementBlock,
    OpaqueField,
    format_evidence,
    gpu_nonce,
    parse_evidence,
)
from assay.attest.quote.verify_nvidia import (
    FWID_HEAD,
    GpuRevocation,
    References,
    VerifiedGpuEvidence,
    verify_gpu_evidence,
)
from assay.attest.roots import Platform
from assay.attest.roots.pinned import (
    NVIDIA_DEVICE_ROOT_SPKI_SHA256,
    SIMULATED_NVIDIA_ORGANIZATION,
    GpuRoot,
    nvidia_root,
)
from assay.attest.simulated.certificates import DAY_S, YEAR_S
from assay.attest.simulated.gpu import DEVICE, GpuVariant, SimulatedGpu
from assay.attest.simulated.vendor_certificates import Authority, Profile, issue, p384_key
from assay.tlog.errors import LogError, MalformedError, StaleError, UntrustedError

T = 1_760_000_000
SEED = b"\x01" * 32
NONCE = b"\x33" * 32
P384_ORDER = (
    0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
)
KEY = p384_key(SEED, "gpu firmware")


@cache
def gpu(**variant) -> SimulatedGpu:
    return SimulatedGpu(SEED, epoch_s=T, variant=GpuVariant(**variant))


def signed(**changes) -> bytes:
    return gpu().sign(replace(gpu().evidence(nonce=NONCE), **changes))


def verify(
    evidence: bytes | None = None,
    chain: str | None = None,
    *,
    root: GpuRoot | None = None,
    now_s: int = T,
    nonce: bytes = NONCE,
) -> VerifiedGpuEvidence:
    return verify_gpu_evidence(
        signed() if evidence is None else evidence,
        (gpu().chain_pem if chain is None else chain).encode(),
        root=root or gpu().root,
        now_s=now_s,
        nonce=nonce,
    )


def refused(kind: type[LogError], code: str, *arguments, **options) -> None:
    with pytest.raises(kind) as caught:
        verify(*arguments, **options)
    assert (type(caught.value), caught.value.code) == (kind, code)


class Real:
    """One of the shared vectors."""

    def __init__(self, vectors, name: str) -> None:
        folder = vectors / "quotes" / "nvidia" / name
        self.meta = json.loads((folder / "meta.json").read_text())
        self.evidence = (folder / "quote.bin").read_bytes()
        self.chain = json.loads((folder / "collateral.json").read_text())["certificate_chain"]
        self.now_s = self.meta["verify_at"]
        self.nonce = bytes.fromhex(self.meta["expected"]["nonce"])

    def verify(self, evidence: bytes | None = None, *, chain: str | None = None) -> VerifiedGpuEvidence:
        return verify_gpu_evidence(
            evidence or self.evidence,
            (chain or self.chain).encode(),
            root=nvidia_root(),
            now_s=self.now_s,
            nonce=self.nonce,
        )


# --- real evidence


@pytest.mark.parametrize(
    ("name", "vbios", "chip"),
    [("hopper", "96.00.A5.00.01", None), ("blackwell", "97.00.E4.00.11", b"GB100\0")],
)
def test_real_evidence_verifies_with_exactly_its_fields(vectors, name, vbios, chip):
    real = Real(vectors, name)
    expected = real.meta["expected"]
    verified = real.verify()
    evidence = verified.evidence
    leaf = x509.load_pem_x509_certificates(real.chain.encode())[0]
    assert expected == {
        "status": "verified",
        "arch": name.upper(),
        "nonce": evidence.nonce.hex(),
        "response_nonce": evidence.response_nonce.hex(),
        "driver_version": verified.driver_version,
        "vbios_version_bytes": evidence.field(nvidia.VBIOS_VERSION).hex(),
        "measurement_blocks": len(evidence.blocks),
        "measurement_1": evidence.measurements[1].hex(),
        "leaf_subject": leaf.subject.rfc4514_string(),
        "leaf_serial": hex(leaf.serial_number),
    }
    assert verified.platform is Platform.NVIDIA
    assert verified.vbios_version == vbios
    assert f"CN={verified.device}," in expected["leaf_subject"]
    assert evidence.field(nvidia.CHIP_INFO) == chip
    assert len(verified.firmware_id) == 48
    assert (verified.references, verified.revocation) == (References.NOT_CHECKED, GpuRevocation.NOT_CHECKED)
    assert verified.evidence_id == hashlib.sha256(real.evidence[:-96]).hexdigest()
    assert verified.valid_from_s <= real.now_s < verified.valid_until_s


@pytest.mark.parametrize("name", ["hopper", "blackwell"])
def test_real_evidence_reads_and_writes_the_same(vectors, name):
    data = Real(vectors, name).evidence
    assert format_evidence(parse_evidence(data)) == data


@pytest.mark.parametrize("name", ["hopper", "blackwell"])
def test_sampled_flips_of_real_evidence_are_refused(vectors, name):
    real = Real(vectors, name)
    every = range(len(real.evidence))
    assert_flips_are_refused(real.evidence, real.verify, sorted({*every[:64], *every[::61], *every[-100::9]}))


@pytest.mark.slow
def test_every_flipped_byte_of_real_evidence_is_refused(vectors):
    real = Real(vectors, "hopper")
    assert_flips_are_refused(real.evidence, real.verify, range(len(real.evidence)))


def test_real_evidence_with_the_certificates_of_another_device_is_refused(vectors):
    hopper, blackwell = Real(vectors, "hopper"), Real(vectors, "blackwell")
    with pytest.raises(UntrustedError) as caught:
        hopper.verify(chain=blackwell.chain)
    assert caught.value.code == "bad-quote-signature"


def test_real_evidence_is_refused_under_the_simulated_root_and_the_other_way_round(vectors):
    real = Real(vectors, "hopper")
    refused(UntrustedError, "wrong-root", real.evidence, real.chain, now_s=real.now_s, nonce=real.nonce)
    refused(UntrustedError, "wrong-root", root=nvidia_root())


def test_the_pin_is_of_nvidias_root_certificate(vectors):
    data = (vectors / "quotes" / "roots" / "nvidia_device_root.pem").read_bytes()
    certificate = x509.load_pem_x509_certificate(data)
    assert Authority(certificate, KEY).spki_sha256 == NVIDIA_DEVICE_ROOT_SPKI_SHA256
    assert nvidia_root().platform_of(certificate) is Platform.NVIDIA


# --- layout


def assert_flips_are_refused(evidence: bytes, check, positions) -> None:
    codes = set()
    for position in positions:
        data = bytearray(evidence)
        data[position] ^= 1 << position % 8
        with pytest.raises((MalformedError, UntrustedError)) as caught:
            check(bytes(data))
        codes.add(caught.value.code)
    assert {"bad-quote-signature", "unsupported", "nonce-mismatch"} <= codes
    assert codes <= {
        "bad-quote-signature", "unsupported", "nonce-mismatch", "length-mismatch", "malformed-quote"
    }  # fmt: skip


def test_sampled_flips_of_simulated_evidence_are_refused():
    every = range(len(signed()))
    assert_flips_are_refused(signed(), verify, sorted({*every[:64], *every[::29], *every[-100::9]}))


@pytest.mark.slow
def test_every_flipped_byte_of_simulated_evidence_is_refused():
    assert_flips_are_refused(signed(), verify, range(len(signed())))


@pytest.mark.parametrize("size", [0, 37, 174, 64 * 1024 + 1])
def test_evidence_of_an_impossible_size_is_refused(size):
    refused(MalformedError, "bad-length", signed().ljust(size, b"\0")[:size])


def test_every_truncation_is_refused():
    data = signed()
    for size in range(175, len(data), 13):
        refused(MalformedError, "length-mismatch", data[:size])


@pytest.mark.parametrize("more", [b"\0", bytes(96)])
def test_bytes_behind_the_signature_are_refused(more):
    refused(MalformedError, "length-mismatch", signed() + more)


@pytest.mark.parametrize("position", [0, 1, 2, 3, 37, 38])
def test_another_message_is_refused(position):
    data = bytearray(signed())
    data[position] ^= 0x10
    refused(MalformedError, "unsupported", bytes(data))


def small(**changes) -> GpuEvidence:
    """Two blocks and one field, so that offsets are easy: blocks at 45, opaque data at 45 + 18 + 32 + 2."""
    blocks = (MeasurementBlock(1, 1, b"ab"), MeasurementBlock(2, 1, b"cd"))
    good = GpuEvidence(NONCE, 0, bytes(2), blocks, bytes(32), (OpaqueField(3, b"590\0"),), bytes(96))
    return replace(good, **changes)


def written(offset: int, code: str, value: int) -> bytes:
    data = bytearray(format_evidence(small()))
    struct.pack_into(code, data, offset, value)
    return bytes(data)


def test_fields_stand_where_the_table_says():
    data = format_evidence(
        small(slot=5, parameters=b"\x06\x07", response_nonce=b"\x08" * 32, signature=b"\x09" * 96)
    )
    assert data.hex() == (
        "11e001ff" + "33" * 32 + "05" + "1160" + "0607" + "02" + "120000"
        + "01" "01" "0500" "01" "0200" "6162" + "02" "01" "0500" "01" "0200" "6364"
        + "08" * 32 + "0800" + "0300" "0400" "35393000" + "09" * 96
    )  # fmt: skip
    parsed = parse_evidence(data)
    assert (parsed.slot, parsed.parameters) == (5, b"\x06\x07")
    assert parsed.measurements == {1: b"ab", 2: b"cd"}
    assert parsed.field(3) == b"590\0"
    assert parsed.field(4) is None


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (written(41, "<B", 1), "malformed-quote"),
        (written(41, "<B", 3), "malformed-quote"),
        (written(41, "<B", 0), "malformed-quote"),
        (written(42, "<B", 17), "length-mismatch"),
        (written(42, "<B", 19), "length-mismatch"),
        (written(42, "<B", 9), "malformed-quote"),
        (written(44, "<B", 1), "length-mismatch"),
        (written(45, "<B", 2), "malformed-quote"),
        (written(46, "<B", 2), "unsupported"),
        (written(47, "<H", 4), "length-mismatch"),
        (written(50, "<H", 1), "length-mismatch"),
        (written(50, "<H", 3), "length-mismatch"),
        (written(95, "<H", 7), "length-mismatch"),
        (written(95, "<H", 9), "length-mismatch"),
        (written(99, "<H", 3), "length-mismatch"),
        (written(99, "<H", 5), "length-mismatch"),
    ],
)
def test_lengths_and_counts_that_do_not_add_up_are_refused(data, code):
    with pytest.raises(MalformedError) as caught:
        parse_evidence(data)
    assert caught.value.code == code


def test_an_index_and_a_field_occur_once():
    twice = (MeasurementBlock(1, 1, b"ab"), MeasurementBlock(1, 1, b"cd"))
    refused(MalformedError, "malformed-quote", signed(blocks=twice))
    refused(MalformedError, "malformed-quote", signed(opaque=(OpaqueField(3, b"1"), OpaqueField(3, b"2"))))


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_or_read_and_written_the_same(data):
    head = bytes.fromhex("11e001ff") + bytes(33) + bytes.fromhex("1160")
    for candidate in (data, head + data):
        try:
            parsed = parse_evidence(candidate)
        except MalformedError:
            continue
        assert format_evidence(parsed) == candidate


evidences = st.builds(
    GpuEvidence,
    nonce=st.binary(min_size=32, max_size=32),
    slot=st.integers(0, 255),
    parameters=st.binary(min_size=2, max_size=2),
    blocks=st.lists(
        st.builds(MeasurementBlock, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=60)),
        max_size=8,
        unique_by=lambda block: block.index,
    ).map(tuple),
    response_nonce=st.binary(min_size=32, max_size=32),
    opaque=st.lists(
        st.builds(OpaqueField, st.integers(0, 65535), st.binary(max_size=60)),
        max_size=8,
        unique_by=lambda field: field.number,
    ).map(tuple),
    signature=st.binary(min_size=96, max_size=96),
)


@given(evidences)
def test_what_was_written_is_read(evidence):
    assert parse_evidence(format_evidence(evidence)) == evidence


@given(evidences, st.data())
def test_a_change_of_one_byte_is_refused_or_read_as_it_is_written(evidence, data):
    changed = bytearray(format_evidence(evidence))
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = parse_evidence(bytes(changed))
    except MalformedError:
        return
    assert format_evidence(parsed) == changed


# --- verdict


def test_simulated_evidence_verifies_as_simulated():
    verified = verify()
    assert verified.platform is Platform.SIMULATED
    assert verified.root_name == "simulated-gpu"
    assert (verified.driver_version, verified.vbios_version) == ("590.12", "96.00.A5.00.01")
    assert verified.device == DEVICE
    assert verified.firmware_id == gpu().firmware_id
    assert len(verified.evidence.measurements) == 64
    assert (verified.valid_from_s, verified.valid_until_s) == (T - 30 * DAY_S, T + 28 * YEAR_S + 1)
    assert verified.key_id == gpu().leaf.spki_sha256


def test_what_is_not_checked_says_so():
    verified = verify()
    assert (verified.references, verified.revocation) == ("not-checked", "not-checked")


def test_the_simulation_is_deterministic_and_differs_by_seed():
    again, other = SimulatedGpu(SEED, epoch_s=T), SimulatedGpu(b"\x02" * 32, epoch_s=T)
    assert again.chain_pem == gpu().chain_pem
    assert again.sign(again.evidence(nonce=NONCE)) == signed()
    assert other.root.spki_sha256 != again.root.spki_sha256
    assert other.sign(other.evidence(nonce=NONCE)) != signed()


def test_every_name_of_the_simulation_says_what_it_is():
    for authority in (*gpu().authorities, gpu().leaf):
        organization = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, SIMULATED_NVIDIA_ORGANIZATION)
        assert organization in authority.certificate.subject
        assert organization in authority.certificate.issuer


@pytest.mark.parametrize("nonce", [b"", bytes(32), NONCE[:-1], NONCE + b"\0", b"\x34" + NONCE[1:]])
def test_evidence_for_another_nonce_is_refused(nonce):
    refused(UntrustedError, "nonce-mismatch", nonce=nonce)


def test_a_gpu_is_bound_to_one_cpu_environment():
    ours, theirs = b"\x01" * 64, b"\x02" * 64
    bound = gpu_nonce(ours, NONCE)
    assert bound == hashlib.sha256(ours + NONCE).digest()
    evidence = signed(nonce=bound)
    assert verify(evidence, nonce=bound).evidence.nonce == bound
    refused(UntrustedError, "nonce-mismatch", evidence, nonce=gpu_nonce(theirs, NONCE))
    refused(UntrustedError, "nonce-mismatch", evidence, nonce=gpu_nonce(ours, bytes(32)))


@pytest.mark.parametrize(
    ("report_data", "nonce"),
    [(bytes(63), NONCE), (bytes(65), NONCE), (bytes(64), b""), (bytes(65), bytes(31))],
)
def test_a_binding_of_other_sizes_is_refused(report_data, nonce):
    with pytest.raises(MalformedError):
        gpu_nonce(report_data, nonce)


def test_the_twin_of_a_signature_verifies_with_the_same_id():
    data = signed()
    twin = data[:-48] + (P384_ORDER - int.from_bytes(data[-48:], "big")).to_bytes(48, "big")
    assert twin != data
    assert verify(twin).evidence_id == verify(data).evidence_id


@pytest.mark.parametrize(
    "signature", [bytes(96), bytes(48) + signed()[-48:], signed()[-96:-48] + bytes(48), b"\xff" * 96]
)
def test_numbers_that_are_no_signature_are_refused(signature):
    refused(UntrustedError, "bad-quote-signature", signed()[:-96] + signature)


def test_evidence_signed_by_another_gpu_is_refused():
    other = SimulatedGpu(b"\x02" * 32, epoch_s=T)
    refused(UntrustedError, "bad-quote-signature", other.sign(other.evidence(nonce=NONCE)))


def test_evidence_of_other_firmware_than_its_certificate_is_refused():
    refused(UntrustedError, "wrong-firmware", chain=gpu(foreign_firmware=True).chain_pem)
    assert verify(signed(opaque=())).firmware_id is None
    whole = gpu().firmware_id
    for value in (b"", whole[:-1], whole[1:], whole[::-1], whole + b"\0"):
        refused(UntrustedError, "wrong-firmware", signed(opaque=(OpaqueField(nvidia.FIRMWARE_ID, value),)))


@pytest.mark.parametrize(
    ("number", "data"),
    [
        (nvidia.DRIVER_VERSION, b""),
        (nvidia.DRIVER_VERSION, b"\0"),
        (nvidia.DRIVER_VERSION, b"590\n"),
        (nvidia.DRIVER_VERSION, b"590.12\0\0"),
        (nvidia.DRIVER_VERSION, b"590\x1b[2J"),
        (nvidia.DRIVER_VERSION, "५90".encode()),
        (nvidia.DRIVER_VERSION, b"5" * 64),
        (nvidia.VBIOS_VERSION, b""),
        (nvidia.VBIOS_VERSION, bytes.fromhex("00a5009601000001")),
        (nvidia.VBIOS_VERSION, bytes(7)),
    ],
)
def test_a_version_that_cannot_be_read_is_refused(number, data):
    refused(MalformedError, "malformed-quote", signed(opaque=(OpaqueField(number, data),)))


def test_a_switch_writes_its_version_as_text_and_has_no_driver():
    verified = verify(signed(opaque=(OpaqueField(nvidia.VBIOS_VERSION, b"96.10.55.00.01"),)))
    assert (verified.vbios_version, verified.driver_version) == ("96.10.55.00.01", None)


# --- certificates


def profile(name: str, **changes) -> Profile:
    defaults = {"from_s": T - YEAR_S, "until_s": T + YEAR_S, "is_ca": True}
    return Profile(name, **{"organization": SIMULATED_NVIDIA_ORGANIZATION} | defaults | changes)


DICE = b"\x30\x41\xa6\x3f" + FWID_HEAD + gpu().firmware_id


def chain_of(
    *, keys: dict[int, ec.EllipticCurvePrivateKey] | None = None, **changes: dict
) -> tuple[str, GpuRoot]:
    """A chain of five, changed by position counted from the leaf: ``at0={"until_s": 1}``."""
    issuer, pem = None, ""
    for position in (4, 3, 2, 1, 0):
        leaf = position == 0
        extensions = (("2.23.133.5.4.1.1", DICE),) if leaf else ()
        usual = {"is_ca": not leaf, "extensions": extensions}
        key = (keys or {}).get(position) or (KEY if leaf else p384_key(SEED, f"chain {position}"))
        made = issue(
            profile(f"CA {position}", **usual | changes.get(f"at{position}", {})), key, issuer=issuer
        )
        if position == 4:
            root = GpuRoot("own", made.spki_sha256)
        issuer, pem = made, made.pem + pem
    return pem, root


def test_the_makers_of_this_file_make_chains_that_verify():
    pem, root = chain_of()
    assert verify(chain=pem, root=root).platform is Platform.SIMULATED


def test_a_root_that_says_nothing_of_itself_is_custom():
    pem, root = chain_of(at4={"organization": "Somebody"})
    assert verify(chain=pem, root=root).platform is Platform.CUSTOM


def parts_of(pem: str) -> list[str]:
    end = "-----END CERTIFICATE-----\n"
    return [part + end for part in pem.split(end)[:-1]]


def test_certificates_in_another_order_or_number_are_refused():
    leaf, device, provisioner, product, root = parts_of(gpu().chain_pem)
    for parts in ([device, leaf, provisioner, product, root], [leaf, device, product, provisioner, root]):
        refused(UntrustedError, "untrusted-chain", chain="".join(parts))
    refused(UntrustedError, "wrong-root", chain=root + product + provisioner + device + leaf)
    refused(UntrustedError, "untrusted-chain", chain=leaf + device + provisioner + root + root)
    for parts in (
        [],
        [leaf],
        [leaf, device, product, root],
        [leaf, device, provisioner, product, root, root],
    ):
        refused(MalformedError, "malformed-collateral", chain="".join(parts))


def test_a_text_that_is_too_long_is_refused():
    refused(MalformedError, "malformed-collateral", chain=gpu().chain_pem + " " * 70_000)


def test_any_other_root_key_is_refused():
    refused(UntrustedError, "wrong-root", root=GpuRoot("other", "0" * 64))
    pem, _ = chain_of()
    refused(UntrustedError, "wrong-root", chain=pem)


def test_a_certificate_by_another_key_is_refused():
    real, root = chain_of()
    other, _ = chain_of(keys={2: p384_key(SEED, "impostor")})
    for position in (1, 2):
        mixed = parts_of(real)
        mixed[position] = parts_of(other)[position]
        refused(UntrustedError, "untrusted-chain", chain="".join(mixed), root=root)


@pytest.mark.parametrize("position", [0, 1, 2, 3, 4])
def test_all_but_the_leaf_are_cas(position):
    pem, root = chain_of(**{f"at{position}": {"is_ca": position == 0}})
    refused(UntrustedError, "untrusted-chain", chain=pem, root=root)


@pytest.mark.parametrize("position", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP521R1()])
def test_keys_on_another_curve_are_refused(position, curve):
    pem, root = chain_of(keys={position: ec.derive_private_key(7, curve)})
    refused(UntrustedError, "untrusted-chain", chain=pem, root=root)


@pytest.mark.parametrize("position", [0, 1, 2, 3, 4])
@pytest.mark.parametrize(
    ("code", "dates"),
    [("cert-expired", {"until_s": T - 1}), ("cert-not-yet-valid", {"from_s": T + 1})],
)
def test_one_certificate_out_of_its_time_is_enough(position, code, dates):
    pem, root = chain_of(**{f"at{position}": dates})
    refused(StaleError, code, chain=pem, root=root)


def test_a_certificate_signed_with_another_hash_is_refused():
    pem, root = chain_of()
    parts = parts_of(pem)
    old = x509.load_pem_x509_certificate(parts[0].encode())
    builder = x509.CertificateBuilder(
        issuer_name=old.issuer,
        subject_name=old.subject,
        public_key=old.public_key(),
        serial_number=1,
        not_valid_before=old.not_valid_before_utc,
        not_valid_after=old.not_valid_after_utc,
    )
    made = Authority(builder.sign(p384_key(SEED, "chain 1"), SHA256()), KEY)
    refused(UntrustedError, "untrusted-chain", chain="".join([made.pem, *parts[1:]]), root=root)
