"""Which blobs a leaf refers to: what copies of a log carry beside its tiles."""

from assay.attest import entry
from assay.attest.entry import Registration
from assay.tlog.errors import MalformedError

_REGISTRATION = b'{"apiVersion":"0.1.0","kind":"enclave",'
"""How the leaf of a registration begins, and no other canonical entry does."""


def referred_blobs(leaf: bytes) -> tuple[bytes, ...]:
    """The SHA-256 hashes of the evidence that a leaf was judged with; none for a leaf that cannot be parsed."""
    if not leaf.startswith(_REGISTRATION):
        return ()
    try:
        parsed = entry.parse_entry(leaf)
    except MalformedError:
        return ()
    return tuple(parsed.appraisal.collateral.values()) if isinstance(parsed, Registration) else ()
