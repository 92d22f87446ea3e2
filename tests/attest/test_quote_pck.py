"""The PCK certificate's SGX extension: the parser, held against Intel's certificates and the simulator."""

import contextlib
import dataclasses
import ssl
from pathlib import Path

import dcap_qvl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from assay.attest.quote import pck, sgx
from assay.attest.simulated.pck_extension import format_pck_extension
from assay.tlog.errors import MalformedError

SIM = Path(__file__).parents[1] / "vectors" / "quotes" / "sim"
QUOTE = (SIM / "sgx_up_to_date" / "quote.bin").read_bytes()
REAL = {"debug_enclave": "processor", "oasis_v3": "platform", "phala_v3": "processor"}
EXTENSION = pck.unverified_pck(sgx.parse_quote(QUOTE)).extension
DER = format_pck_extension(EXTENSION)

extensions = st.builds(
    pck.PckExtension,
    ppid=st.binary(min_size=16, max_size=16),
    cpu_svn=st.binary(min_size=16, max_size=16),
    pce_svn=st.integers(0, 2**16 - 1),
    pce_id=st.binary(min_size=2, max_size=2),
    fmspc=st.binary(min_size=6, max_size=6),
    sgx_type=st.integers(0, 255),
    platform_instance_id=st.none() | st.binary(min_size=16, max_size=16),
    configuration=st.none()
    | st.builds(pck.PlatformConfiguration, st.booleans(), st.booleans(), st.booleans()),
)


def embedded(data: bytes) -> bytes:
    chain = sgx.parse_quote(data).signature.certification_data
    leaf = x509.load_pem_x509_certificates(chain)[0]
    return leaf.extensions.get_extension_for_oid(pck.SGX_EXTENSION).value.public_bytes()


def with_certification(kind: int, data: bytes) -> sgx.QuoteV3:
    quote = sgx.parse_quote(QUOTE)
    signature = dataclasses.replace(quote.signature, certification_type=kind, certification_data=data)
    return dataclasses.replace(quote, signature=signature)


def refused(der: bytes) -> None:
    with pytest.raises(MalformedError) as caught:
        pck.parse_pck_extension(der)
    assert caught.value.code == "malformed-quote"


@pytest.mark.parametrize("name", REAL)
def test_intel_extensions_are_read_as_the_library_does_and_re_encoded_exactly(vectors, name):
    data = (vectors / "quotes" / "sgx" / name / "quote.bin").read_bytes()
    found, theirs = pck.unverified_pck(sgx.parse_quote(data)), dcap_qvl.parse_quote(data).pck_extension()
    assert found.ca == REAL[name]
    assert format_pck_extension(found.extension) == embedded(data)
    for field in ("ppid", "cpu_svn", "pce_svn", "pce_id", "fmspc", "sgx_type", "platform_instance_id"):
        assert getattr(found.extension, field) == getattr(theirs, field), field


def test_the_simulated_extension_is_re_encoded_exactly():
    assert embedded(QUOTE) == DER
    assert EXTENSION.fmspc.hex() == "51d000000001"
    assert EXTENSION.cpu_svn.hex() == "07090303ffff01000000000000000000"


@given(extensions)
def test_every_extension_comes_back(extension):
    assert pck.parse_pck_extension(format_pck_extension(extension)) == extension


def test_every_truncation_and_trailing_byte_is_refused():
    for size in range(len(DER)):
        refused(DER[:size])
    refused(DER + b"\0")


def test_no_flipped_bit_reads_as_the_original():
    for position in range(len(DER)):
        data = bytearray(DER)
        data[position] ^= 0x01
        with contextlib.suppress(MalformedError):
            assert pck.parse_pck_extension(bytes(data)) != EXTENSION, position


@given(st.binary(max_size=600))
def test_garbage_is_refused(data):
    refused(data)


def test_svns_in_two_versions_are_refused():
    other = dataclasses.replace(EXTENSION, cpu_svn=bytes([6]) + EXTENSION.cpu_svn[1:])
    der = bytearray(DER)
    position = DER.index(EXTENSION.cpu_svn)
    der[position : position + 16] = other.cpu_svn
    refused(bytes(der))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("0a0101", "020101", id="sgx type as INTEGER"),
        pytest.param("0101ff", "010101", id="boolean neither 00 nor FF"),
        pytest.param("020200ff", "0202fffe", id="negative integer"),
        pytest.param("020107", "020187", id="negative small integer"),
        pytest.param("2a864886f84d010d0104", "2a864886f84d010d0103", id="element twice"),
        pytest.param("2a864886f84d010d0101", "2a864886f84d010c0101", id="foreign OID"),
    ],
)
def test_elements_of_another_shape_are_refused(old, new):
    assert old in DER.hex()
    refused(bytes.fromhex(DER.hex().replace(old, new, 1)))


@pytest.mark.parametrize(
    "der",
    ["", "30", "3080", "308100", "3081020000", "30820001", "308300000100", "0500", "30023000", "3000" * 2],
)
def test_lengths_and_containers_of_another_form_are_refused(der):
    refused(bytes.fromhex(der))


def appended(element: str) -> bytes:
    body = DER[4:] + bytes.fromhex(element)
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


def replaced(old: str, new: str) -> bytes:
    """The extension with one element in another encoding, of a possibly other length."""
    assert old in DER.hex()
    body = bytes.fromhex(DER[4:].hex().replace(old, new, 1))
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


def test_an_element_that_intel_may_add_is_skipped():
    assert pck.parse_pck_extension(appended("300f060a2a864886f84d010d0108010100")) == EXTENSION


def test_an_element_twice_is_refused_even_if_it_says_the_same():
    refused(appended("300f060a2a864886f84d010d01050a0101"))


PCE_ID = "3010060a2a864886f84d010d010304020000"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param("308110060a2a864886f84d010d010304020000", id="length in two octets"),
        pytest.param("30820010060a2a864886f84d010d010304020000", id="length in three octets"),
        pytest.param("3011060a2a864886f84d010d01030481020000", id="inner length in two octets"),
        pytest.param("3011060a2a864886f84d010d01030403000000", id="three bytes of PCEID"),
        pytest.param("300f060a2a864886f84d010d0103040100", id="one byte of PCEID"),
        pytest.param("3012060a2a864886f84d010d0103040200000500", id="three members"),
        pytest.param("300c060a2a864886f84d010d0103", id="one member"),
        pytest.param("", id="absent"),
    ],
)
def test_an_element_in_another_encoding_is_refused(other):
    assert pck.parse_pck_extension(replaced(PCE_ID, PCE_ID)) == EXTENSION
    refused(replaced(PCE_ID, other))


def test_an_integer_with_a_needless_zero_is_refused():
    short, long = "300f060a2a864886f84d010d01050a0101", "3010060a2a864886f84d010d01050a020001"
    refused(replaced(short, long))


def test_a_quote_without_a_pem_chain_is_refused():
    with pytest.raises(MalformedError) as caught:
        pck.unverified_pck(with_certification(4, b"anything"))
    assert caught.value.code == "unsupported-cert-data"


def test_a_chain_without_a_pck_certificate_is_refused():
    root_pem = sgx.parse_quote(QUOTE).signature.certification_data.split(b"-----END CERTIFICATE-----\n")[2]
    for chain in (
        b"",
        b"text",
        root_pem + b"-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nAA\n",
    ):
        with pytest.raises(MalformedError) as caught:
            pck.unverified_pck(with_certification(5, chain))
        assert caught.value.code == "malformed-quote"


@pytest.mark.parametrize("version", [1, 3, 4, 127])
def test_a_certificate_of_another_x509_version_is_refused_not_a_crash(version):
    chain = sgx.parse_quote(QUOTE).signature.certification_data
    leaf = x509.load_pem_x509_certificates(chain)[0].public_bytes(Encoding.DER)
    marker = bytes.fromhex("a003020102")
    assert leaf.count(marker) >= 1
    changed = leaf.replace(marker, marker[:-1] + bytes([version]), 1)
    pem = ssl.DER_cert_to_PEM_cert(changed).encode()
    with pytest.raises(MalformedError) as caught:
        pck.unverified_pck(with_certification(5, pem))
    assert caught.value.code == "malformed-quote"
