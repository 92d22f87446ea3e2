"""What a manifest says of its SIGSTRUCT: attributes, XFRM, MISCSELECT and the product's ids.

None of these is part of MRENCLAVE except through the manifest's text, and the loader takes them from the
SIGSTRUCT: a manifest that says ``debug = false`` can be signed with DEBUG set and keeps its MRENCLAVE. So
whoever has both compares them field by field.
"""

from collections.abc import Mapping
from typing import Any

from assay.attest.gramine.sigstruct import FLAG_DEBUG, FLAG_MODE64, MISC_EXINFO, SignedBody, SigStruct
from assay.tlog.errors import MalformedError, UntrustedError

_XFRM = 0x3
_XFRM_MASK = 0xFFFFFFFFFFF9FF1B
_FEATURES = {"avx": 0x4, "avx512": 0xE4, "amx": 0x60000, "mpx": 0x18, "pkru": 0x200}
"""XFRM bits in the order in which Gramine applies them: avx's are among avx512's, so the order matters."""
_NEVER_UNSPECIFIED = ("mpx", "pkru")


def body_from_manifest(table: Mapping[str, Any], mr_enclave: bytes, *, date: str) -> SignedBody:
    """The SIGSTRUCT body that Gramine signs for a parsed manifest.

    Raises:
        MalformedError: an option of another type, out of range or unknown.
    """
    sgx = _member(table, "sgx", dict, {})
    xfrm, mask = _xfrm(_member(sgx, "cpu_features", dict, {}))
    return SignedBody(
        mr_enclave=mr_enclave,
        isv_prod_id=_u16(sgx, "isvprodid"),
        isv_svn=_u16(sgx, "isvsvn"),
        attribute_flags=FLAG_MODE64 | (FLAG_DEBUG if _member(sgx, "debug", bool, False) else 0),
        attribute_xfrms=xfrm,
        attribute_xfrm_mask=mask,
        misc_select=MISC_EXINFO if _member(sgx, "use_exinfo", bool, False) else 0,
        date=date,
    )


def verify_signed_for(sigstruct: SigStruct, table: Mapping[str, Any], mr_enclave: bytes) -> SigStruct:
    """Return the SIGSTRUCT if it is what Gramine would have signed for this manifest and measurement.

    The date, VENDOR and SWDEFINED are the signer's to choose. Its signature is not checked here.

    Raises:
        MalformedError: see :func:`body_from_manifest`.
        UntrustedError: a field has another value (code ``sigstruct-mismatch``).
    """
    signed = sigstruct.body
    expected = body_from_manifest(table, mr_enclave, date=signed.date)
    for name in SignedBody.__dataclass_fields__:
        found, wanted = getattr(signed, name), getattr(expected, name)
        if name not in ("date", "vendor", "software_defined") and found != wanted:
            raise UntrustedError(
                f"SIGSTRUCT: {name} is {_shown(found)}, but manifest and libpal give {_shown(wanted)}",
                code="sigstruct-mismatch",
            )
    return sigstruct


def _shown(value: bytes | int) -> str:
    return value.hex() if isinstance(value, bytes) else hex(value)


def _xfrm(features: Mapping[str, Any]) -> tuple[int, int]:
    if unknown := features.keys() - _FEATURES.keys():
        raise MalformedError(f"manifest: sgx.cpu_features.{min(unknown)} is unknown")
    xfrm, mask = _XFRM, _XFRM_MASK
    for name, bits in _FEATURES.items():
        default = "disabled" if name in _NEVER_UNSPECIFIED else "unspecified"
        match features.get(name, default):
            case "required":
                xfrm, mask = xfrm | bits, mask | bits
            case "disabled":
                xfrm, mask = xfrm & ~bits, mask | bits
            case "unspecified" if name not in _NEVER_UNSPECIFIED:
                pass
            case _:
                raise MalformedError(f"manifest: sgx.cpu_features.{name} has an unknown value")
    return xfrm, mask


def _u16(sgx: Mapping[str, Any], name: str) -> int:
    value = sgx.get(name, 0)
    if type(value) is not int or not 0 <= value < 1 << 16:
        raise MalformedError(f"manifest: sgx.{name} must be 0 to 65535")
    return value


def _member(table: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = table.get(name, default)
    if not isinstance(value, kind):
        raise MalformedError(f"manifest: {name} must be of type {kind.__name__}")
    return value
