"""What ``gramine-sgx-sigstruct-view --output-format json`` says of a SIGSTRUCT, read in order to be compared.

Its text holds neither the modulus nor the signature, so nothing in it is vouched for. It tells whether the tool's
user and we speak of the same enclave, and never replaces the SIGSTRUCT itself. Members::

    mr_signer, mr_enclave          hex of 32 bytes
    isv_prod_id, isv_svn           integers
    debug_enclave                  true or false
    attribute_flags, attribute_flags_mask, attribute_xfrms, attribute_xfrm_mask, misc_select, misc_mask
                                   with -v only: numbers as hex text, with or without 0x
    date                           with -v only: YYYY-MM-DD
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from assay.attest import jcs
from assay.attest.gramine.sigstruct import SignedBody
from assay.tlog import strict
from assay.tlog.errors import MalformedError, UntrustedError

MAX_VIEW_SIZE = 65_536

_SHORT = ("mr_signer", "mr_enclave", "isv_prod_id", "isv_svn", "debug_enclave")
_HEX_BITS = {
    "attribute_flags": 64,
    "attribute_flags_mask": 64,
    "attribute_xfrms": 64,
    "attribute_xfrm_mask": 64,
    "misc_select": 32,
    "misc_mask": 32,
}
_HEX = re.compile(r"(?:0x)?([0-9a-f]{1,16})")


@dataclass(frozen=True, slots=True)
class SigStructView:
    """A SIGSTRUCT as the tool shows it.

    Attributes:
        mr_signer: hash of a key that the text does not hold.
        fields: values by the names of :class:`SignedBody`; with ``-v`` all that the tool prints.
    """

    mr_signer: bytes
    fields: Mapping[str, bytes | int | bool | str]


def parse_view(data: bytes) -> SigStructView:
    """Parse the tool's JSON, with and without ``-v``.

    Raises:
        MalformedError: not JSON, a missing, unknown or repeated member, or one of another type or range.
    """
    value = jcs.parse_json(data, what="sigstruct view", max_bytes=MAX_VIEW_SIZE)
    members = jcs.Fields(value, what="sigstruct view", required=_SHORT, optional=(*_HEX_BITS, "date"))
    fields: dict[str, bytes | int | bool | str] = {
        "mr_enclave": members.hex("mr_enclave", length=32),
        "isv_prod_id": members.integer("isv_prod_id", high=0xFFFF),
        "isv_svn": members.integer("isv_svn", high=0xFFFF),
        "debug_enclave": members.boolean("debug_enclave"),
    }
    fields |= {name: _number(members, name, bits) for name, bits in _HEX_BITS.items() if members.has(name)}
    if members.has("date"):
        fields["date"] = members.text("date")
    return SigStructView(members.hex("mr_signer", length=32), fields)


def verify_view(view: SigStructView, body: SignedBody, *, mr_signer: bytes | None) -> SigStructView:
    """Return the view if it shows this body.

    Args:
        view: what the tool printed.
        body: what it must be of, with the date that a SIGSTRUCT has; a date is the signer's to choose, so a caller
            without the SIGSTRUCT takes the view's.
        mr_signer: the expected signer, or None if there is no expectation.

    Raises:
        UntrustedError: a field has another value (code ``sigstruct-mismatch``).
    """
    expected = {name: getattr(body, name) for name in view.fields}
    found = dict(view.fields)
    if mr_signer is not None:
        expected["mr_signer"], found["mr_signer"] = mr_signer, view.mr_signer
    for name, value in found.items():
        if value != expected[name]:
            raise UntrustedError(
                f"sigstruct view: {name} is {_shown(value)}, expected {_shown(expected[name])}",
                code="sigstruct-mismatch",
            )
    return view


def _number(members: jcs.Fields, name: str, bits: int) -> int:
    match = _HEX.fullmatch(members.text(name))
    if match is None or (value := int(match[1], 16)) >= 1 << bits:
        raise MalformedError(f"{members.name(name)}: not the hex of {bits} bits")
    return value


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    return hex(value) if type(value) is int else strict.shown(str(value))
