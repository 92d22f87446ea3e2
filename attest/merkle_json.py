"""Salted commitments to the fields of a receipt, opened one by one.

A receipt is public, a prompt is not. The receipt therefore carries one root over all fields; whoever holds
a field's 32-byte salt can show that field and nothing else, and deleting the salts erases the content for
good. Every field is always committed to (null when there is none), so the root does not tell which exist.

Byte layout (``lp(x)`` is u64 big-endian length ‖ x)::

    leaf data = "assay-field-v1" ‖ salt[32] ‖ lp(name) ‖ lp(RFC 8785 of the value)
    root      = RFC 6962 root of the leaves in the order of FIELDS, whose number the profile fixes
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from assay.attest import jcs
from assay.tlog import merkle, proof, strict
from assay.tlog.errors import MalformedError, UntrustedError
from assay.tlog.merkle import Hash, Node

SALT_SIZE = 32

FIELDS = (
    "delegation",
    "key_release",
    "model",
    "nonce",
    "parameters",
    "parent_receipts",
    "prompt",
    "result",
    "tool_calls",
)
"""The fields of a receipt, in the order of their leaves."""

_LEAF_TAG = b"assay-field-v1"


@dataclass(frozen=True, slots=True)
class Opening:
    """One field shown: its value, its salt, and the path from its leaf to the root."""

    name: str
    value: jcs.Json
    salt: bytes
    path: tuple[Hash, ...]

    def to_json(self) -> jcs.Json:
        """``{"path": [base64], "salt": base64, "value": any}``; the name is the key it stands under."""
        return {
            "path": [strict.base64_text(hash_) for hash_ in self.path],
            "salt": strict.base64_text(self.salt),
            "value": self.value,
        }


@dataclass(frozen=True, slots=True)
class Commitments:
    """The root of all fields, and what opens them. Only the root leaves the enclave in clear."""

    root: Hash
    openings: Mapping[str, Opening]


def commit(values: Mapping[str, jcs.Json], salts: Mapping[str, bytes]) -> Commitments:
    """Commit to all :data:`FIELDS`; absent values are null.

    Args:
        values: field name -> value.
        salts: field name -> 32 random bytes, one for every field.

    Raises:
        MalformedError: an unknown field, a missing or short salt, a value that has no canonical JSON.
    """
    if unknown := set(values) - set(FIELDS):
        raise MalformedError(f"{min(unknown)!r} is not a field of a receipt")
    if set(salts) != set(FIELDS):
        raise MalformedError("salts: one for every field of a receipt")
    leaves = [_leaf(name, values.get(name), salts[name]) for name in FIELDS]
    reader = _Leaves(leaves)
    openings = {
        name: Opening(
            name,
            values.get(name),
            salts[name],
            tuple(proof.prove_inclusion(index=index, size=len(leaves), reader=reader)),
        )
        for index, name in enumerate(FIELDS)
    }
    return Commitments(merkle.root_of(leaves), openings)


def verify_opening(opening: Opening, *, root: Hash) -> jcs.Json:
    """Check that the root commits to this field with this value, and return the value.

    Raises:
        MalformedError: an unknown field, a salt of another length, a path of another length.
        UntrustedError: another value, salt or path (code ``commitment``).
    """
    if opening.name not in FIELDS:
        raise MalformedError(f"{strict.shown(opening.name)} is not a field of a receipt")
    leaf = _leaf(opening.name, opening.value, opening.salt)
    index = FIELDS.index(opening.name)
    try:
        proof.verify_inclusion(leaf, index=index, size=len(FIELDS), proof=opening.path, root=root)
    except UntrustedError as error:
        raise UntrustedError(
            f"the receipt does not commit to this value of {opening.name!r}", code="commitment"
        ) from error
    return opening.value


def parse_openings(value: jcs.Json, *, what: str) -> dict[str, Opening]:
    """Read ``{name: opening}`` as :meth:`Opening.to_json` writes it; any subset of the fields.

    Raises:
        MalformedError: not that.
    """
    fields = jcs.Fields(value, what=what, required=(), optional=FIELDS)
    return {name: _parse_opening(fields, name) for name in FIELDS if fields.has(name)}


def _parse_opening(fields: jcs.Fields, name: str) -> Opening:
    members = fields.fields(name, required=("path", "salt", "value"))
    path = [
        merkle.as_hash(_base64_item(item, members.name("path")), what=members.name("path"))
        for item in members.array("path", max_items=8)
    ]
    return Opening(name, members.value("value"), members.base64("salt", length=SALT_SIZE), tuple(path))


def _base64_item(item: jcs.Json, what: str) -> bytes:
    if not isinstance(item, str):
        raise MalformedError(f"{what}: not a str")
    return strict.base64_bytes(item, what=what)


def _leaf(name: str, value: jcs.Json, salt: bytes) -> Hash:
    if len(salt) != SALT_SIZE:
        raise MalformedError(f"salt of {name!r}: {len(salt)} bytes, not {SALT_SIZE}")
    encoded = jcs.canonical(value)
    return merkle.leaf_hash(_LEAF_TAG + salt + _prefixed(name.encode()) + _prefixed(encoded))


def _prefixed(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data


class _Leaves:
    """A hash reader over the few leaves of one commitment."""

    def __init__(self, leaves: Sequence[Hash]) -> None:
        self._leaves = leaves

    def read_hashes(self, nodes: Sequence[Node]) -> list[Hash]:
        return [
            merkle.root_of(self._leaves[node.index << node.level : (node.index + 1) << node.level])
            for node in nodes
        ]
