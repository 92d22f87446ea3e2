"""What a provisioning service (PCS v4, PCCS) answered, as it came: what collateral is put together from.

The four answers of one platform family change at different times and are shared by many entries, so a log keeps
each as a blob of its own. Whoever has the blobs can put the collateral together again and compare. Nothing here
is verified: the quote verifier judges what comes out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from assay.attest import jcs
from assay.attest.quote.certificates import parse_chain
from assay.attest.quote.collateral import Collateral, format_collateral, parse_collateral
from assay.attest.quote.signed_text import split_signed_text
from assay.tlog import strict
from assay.tlog.errors import MalformedError, UntrustedError

MAX_BODY_SIZE = 256 * 1024
"""Real answers have at most some 20 KiB."""
MAX_CHAIN_SIZE = 16 * 1024
"""Of an issuer chain in its header, where two certificates take some 3 KiB."""
MAX_ARCHIVED_SIZE = 1024 * 1024

PCK_CRL_CHAIN = "sgx-pck-crl-issuer-chain"
TCB_INFO_CHAIN = "tcb-info-issuer-chain"
OLD_TCB_INFO_CHAIN = "sgx-tcb-info-issuer-chain"
QE_IDENTITY_CHAIN = "sgx-enclave-identity-issuer-chain"
KEPT_HEADERS = (PCK_CRL_CHAIN, TCB_INFO_CHAIN, OLD_TCB_INFO_CHAIN, QE_IDENTITY_CHAIN)
"""The headers that are content, in lower case. Dates and request ids would make equal answers different blobs."""

_ESCAPE = re.compile("%([0-9A-Fa-f]{2})?")
_HEX_TEXT = re.compile(rb"(?:[0-9A-Fa-f]{2})+")
_PRINTABLE = re.compile("[ -~]*")
MAX_URL_SIZE = 1024
_MAX_HEADER_SIZE = 3 * MAX_CHAIN_SIZE
"""Of an issuer chain, if every character is an escape."""


@dataclass(frozen=True, slots=True)
class PcsResponse:
    """A GET that was answered with 200.

    Attributes:
        url: what was asked.
        headers: those of :data:`KEPT_HEADERS` that came, by lower-case name, undecoded.
        body: the answer's bytes.
    """

    url: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Refuse what could be archived and not be read again.

        Raises:
            MalformedError: other headers, one that is too long or not printable ASCII, or such a URL or body.
        """
        if not self.headers.keys() <= set(KEPT_HEADERS):
            raise MalformedError("a response with headers that are no content")
        for what, text, most in (
            ("url", self.url, MAX_URL_SIZE),
            *((name, value, _MAX_HEADER_SIZE) for name, value in self.headers.items()),
        ):
            if len(text) > most or not _PRINTABLE.fullmatch(text):
                raise MalformedError(f"{what}: too long, or not printable ASCII")
        if len(self.body) > MAX_BODY_SIZE:
            raise MalformedError(f"body: longer than {MAX_BODY_SIZE} bytes")


@dataclass(frozen=True, slots=True)
class PcsResponses:
    """The four answers that make the collateral of one platform family; an appraisal names them by these names."""

    pck_crl: PcsResponse
    qe_identity: PcsResponse
    root_ca_crl: PcsResponse
    tcb_info: PcsResponse

    def archived(self) -> dict[str, bytes]:
        """Name -> blob."""
        return {each.name: format_response(getattr(self, each.name)) for each in fields(self)}


def format_response(response: PcsResponse) -> bytes:
    """The blob: RFC 8785 ``{"body": base64, "headers": {name: value}, "url"}``."""
    return jcs.canonical(
        {
            "body": strict.base64_text(response.body),
            "headers": dict(response.headers),
            "url": response.url,
        }
    )


def parse_response(data: bytes) -> PcsResponse:
    """Read a blob.

    Raises:
        MalformedError: not the one spelling of a response, or one with other headers.
    """
    value = jcs.parse_canonical(data, what="response", max_bytes=MAX_ARCHIVED_SIZE)
    members = jcs.Fields(value, what="response", required=("body", "headers", "url"))
    headers = members.fields("headers", required=(), optional=KEPT_HEADERS)
    return PcsResponse(
        url=members.text("url", max_length=MAX_URL_SIZE),
        headers={
            name: headers.text(name, max_length=_MAX_HEADER_SIZE, empty=True)
            for name in KEPT_HEADERS
            if headers.has(name)
        },
        body=members.base64("body", max_length=MAX_BODY_SIZE),
    )


def parse_responses(blobs: Mapping[str, bytes]) -> PcsResponses:
    """Read the four answers from their blobs by name.

    Raises:
        MalformedError: a name is missing or unknown, or a blob is no response.
    """
    if blobs.keys() != {each.name for each in fields(PcsResponses)}:
        raise MalformedError("not the four answers that make collateral")
    return PcsResponses(**{name: parse_response(blob) for name, blob in blobs.items()})


def assemble_collateral(responses: PcsResponses) -> Collateral:
    """Put collateral together from answers; each part is read, none is verified.

    TCB info and QE identity are cut out byte for byte, CRLs are DER or hex text, issuer chains are
    percent-encoded PEM in a header.

    Raises:
        MalformedError: a part that is missing or does not parse (code ``malformed-collateral``).
    """
    try:
        return _assemble(responses)
    except MalformedError as error:
        raise MalformedError(str(error), code="malformed-collateral") from error


def verify_responses(collateral: Collateral, responses: PcsResponses) -> PcsResponses:
    """Check that collateral is what these answers give, and return them.

    Raises:
        MalformedError: the answers do not parse (code ``malformed-collateral``).
        UntrustedError: they give other collateral (code ``other-responses``).
    """
    if assemble_collateral(responses) != collateral:
        raise UntrustedError("the archived responses give other collateral", code="other-responses")
    return responses


def _assemble(responses: PcsResponses) -> Collateral:
    tcb_info, tcb_info_signature = split_signed_text(
        responses.tcb_info.body, member="tcbInfo", max_bytes=MAX_BODY_SIZE
    )
    qe_identity, qe_identity_signature = split_signed_text(
        responses.qe_identity.body, member="enclaveIdentity", max_bytes=MAX_BODY_SIZE
    )
    collateral = Collateral(
        pck_crl_issuer_chain=_chain(responses.pck_crl, PCK_CRL_CHAIN),
        root_ca_crl=_crl(responses.root_ca_crl.body, what="root CRL"),
        pck_crl=_crl(responses.pck_crl.body, what="PCK CRL"),
        tcb_info_issuer_chain=_chain(responses.tcb_info, TCB_INFO_CHAIN, OLD_TCB_INFO_CHAIN),
        tcb_info=tcb_info,
        tcb_info_signature=tcb_info_signature,
        qe_identity_issuer_chain=_chain(responses.qe_identity, QE_IDENTITY_CHAIN),
        qe_identity=qe_identity,
        qe_identity_signature=qe_identity_signature,
    )
    return parse_collateral(format_collateral(collateral))  # all parts together have a bound, too


def _chain(response: PcsResponse, *names: str) -> str:
    """The issuer chain as PEM, from the first of these headers that is there."""
    present = [response.headers[name] for name in names if name in response.headers]
    if not present:
        raise MalformedError(f"the answer has no header {names[0]}")
    text = percent_decoded(present[0], what=names[0])
    if len(text) > MAX_CHAIN_SIZE:
        raise MalformedError(f"{names[0]}: longer than {MAX_CHAIN_SIZE} bytes")
    parse_chain(text.encode(), what=names[0], code="malformed-collateral")
    return text


def percent_decoded(value: str, *, what: str) -> str:
    """Undo percent-encoding (RFC 3986 §2.1) of ASCII text. A plus sign is a plus sign: PEM has them.

    Raises:
        MalformedError: a per cent sign that encodes nothing, or something beyond ASCII.
    """
    codes = _ESCAPE.findall(value)
    if "" in codes:
        raise MalformedError(f"{what}: a per cent sign without two digits")
    text = _ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), value)
    if not text.isascii():
        raise MalformedError(f"{what}: not ASCII")
    return text


def _crl(body: bytes, *, what: str) -> bytes:
    """A CRL's DER; a PCCS writes it as hex text. No DER is hex text: its second byte would be a digit."""
    der = bytes.fromhex(body.decode("ascii")) if _HEX_TEXT.fullmatch(body.strip()) else body
    try:
        if x509.load_der_x509_crl(der).public_bytes(Encoding.DER) != der:
            raise MalformedError(f"{what}: more than one CRL")
    except (ValueError, x509.InvalidVersion) as error:
        raise MalformedError(f"{what}: neither DER nor hex text of a CRL") from error
    return der
