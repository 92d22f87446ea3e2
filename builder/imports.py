"""SIGSTRUCTs that others published: Gramine's ``.sig`` files, and leaves of logs that hold SIGSTRUCTs.

A leaf is one line of JSON, as the enclave transparency log of Fortanix publishes it: ``{"description", "revision",
"sgx_enclave_identity", "sources": [{"repository", "source_git_sha1"}]}`` with the SIGSTRUCT in base64. Its bytes are
what the log hashed, so they are kept as they are. Every SIGSTRUCT is verified as the processor does: RSA
signature, Q1 and Q2. That vouches for its fields under its own MRSIGNER, and for nothing else: whose key it is, and
whether the enclave is a good one, is not in it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from assay.attest import jcs
from assay.attest.gramine.sigstruct import SIGSTRUCT_SIZE, SigStruct, verify_sigstruct
from assay.tlog import merkle, strict
from assay.tlog.errors import LogError, MalformedError
from assay.tlog.merkle import Hash

MAX_LEAF_SIZE = 65_536
MAX_LEAVES = 200_000
_MAX_SOURCES = 256


@dataclass(frozen=True, slots=True)
class Source:
    """Where an enclave's publisher says that its source is: a repository's name and a git commit, 40 hex digits."""

    repository: str
    commit: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a SIGSTRUCT or its leaf is refused: a stable code and a sentence."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Imported:
    """One SIGSTRUCT of a file.

    Attributes:
        file: its name.
        line: from 1; 0 for a file that is one SIGSTRUCT.
        leaf_hash: RFC 6962 hash of the leaf's bytes; None without a leaf.
        sigstruct: verified, or None if it is refused.
        description: what the publisher calls it; ``revision`` and ``sources`` likewise are the publisher's word.
        refusal: why it is refused, or None.
    """

    file: str
    line: int
    leaf_hash: Hash | None
    sigstruct: SigStruct | None
    description: str
    revision: str
    sources: tuple[Source, ...]
    refusal: Refusal | None

    def to_json(self) -> dict[str, Any]:
        """All that is known of it; the SIGSTRUCT's fields are null if it is refused."""
        return {
            "file": self.file,
            "line": self.line,
            "leaf_hash": None if self.leaf_hash is None else self.leaf_hash.hex(),
            "description": self.description,
            "revision": self.revision,
            "sources": [{"repository": each.repository, "commit": each.commit} for each in self.sources],
            "sigstruct": None if self.sigstruct is None else sigstruct_json(self.sigstruct),
            "refused": None
            if self.refusal is None
            else {"code": self.refusal.code, "reason": self.refusal.reason},
        }


@dataclass(frozen=True, slots=True)
class Group:
    """How many verified SIGSTRUCTs there are of one signer, product and security version."""

    mr_signer: bytes
    isv_prod_id: int
    isv_svn: int
    debug: bool
    count: int
    enclaves: int

    def to_json(self) -> dict[str, Any]:
        """Six members; ``enclaves`` counts different MRENCLAVEs."""
        return {
            "mr_signer": self.mr_signer.hex(),
            "isv_prod_id": self.isv_prod_id,
            "isv_svn": self.isv_svn,
            "debug": self.debug,
            "count": self.count,
            "enclaves": self.enclaves,
        }


def sigstruct_json(sigstruct: SigStruct) -> dict[str, Any]:
    """The fields of a SIGSTRUCT under Gramine's names; 64-bit numbers in hex."""
    body = sigstruct.body
    return {
        "mr_enclave": body.mr_enclave.hex(),
        "mr_signer": sigstruct.mr_signer.hex(),
        "isv_prod_id": body.isv_prod_id,
        "isv_svn": body.isv_svn,
        "debug_enclave": body.debug_enclave,
        "attribute_flags": hex(body.attribute_flags),
        "attribute_flags_mask": hex(body.attribute_flags_mask),
        "attribute_xfrms": hex(body.attribute_xfrms),
        "attribute_xfrm_mask": hex(body.attribute_xfrm_mask),
        "misc_select": hex(body.misc_select),
        "misc_mask": hex(body.misc_mask),
        "date": body.date,
        "vendor": hex(body.vendor),
        "isv_family_id": body.isv_family_id.hex(),
        "isv_ext_prod_id": body.isv_ext_prod_id.hex(),
    }


def import_sigstruct(file: str, data: bytes) -> Imported:
    """Import a file that is one SIGSTRUCT; a bad one gives a refusal, not an error."""
    sigstruct, refusal = _verified(data)
    return Imported(file, 0, None, sigstruct, "", "", (), refusal)


def import_leaves(file: str, lines: Iterable[bytes]) -> Iterator[Imported]:
    """Import a log's leaves, a line each; a bad one gives a refusal, not an error.

    Args:
        file: their file's name.
        lines: with or without their newlines, each read with a bound of :data:`MAX_LEAF_SIZE` + 2 bytes.

    Raises:
        MalformedError: more than :data:`MAX_LEAVES` (code ``too-large``).
    """
    for number, line in enumerate(lines, 1):
        if number > MAX_LEAVES:
            raise MalformedError(f"{file}: more than {MAX_LEAVES} leaves", code="too-large")
        yield _import_leaf(file, number, line.removesuffix(b"\n"))


def summary(imported: Iterable[Imported]) -> list[Group]:
    """The verified ones by signer, product, security version and debug, in this order."""
    found: dict[tuple[bytes, int, int, bool], Counter[bytes]] = {}
    for each in imported:
        if each.sigstruct is not None:
            body = each.sigstruct.body
            key = (each.sigstruct.mr_signer, body.isv_prod_id, body.isv_svn, body.debug_enclave)
            found.setdefault(key, Counter())[body.mr_enclave] += 1
    return [Group(*key, count=found[key].total(), enclaves=len(found[key])) for key in sorted(found)]


def _import_leaf(file: str, number: int, line: bytes) -> Imported:
    leaf_hash = merkle.leaf_hash(line)
    try:
        fields = _leaf_fields(line)
        described = (_text(fields, "description"), _text(fields, "revision"), _sources(fields))
        data = _identity(fields)
    except LogError as error:
        return Imported(file, number, leaf_hash, None, "", "", (), Refusal(error.code, str(error)))
    sigstruct, refusal = _verified(data)
    return Imported(file, number, leaf_hash, sigstruct, *described, refusal)


def _leaf_fields(line: bytes) -> Mapping[str, Any]:
    value = jcs.parse_json(line, what="leaf", max_bytes=MAX_LEAF_SIZE)
    if not isinstance(value, dict):
        raise MalformedError("leaf: not a JSON object")
    return value


def _identity(fields: Mapping[str, Any]) -> bytes:
    text = fields.get("sgx_enclave_identity")
    if not isinstance(text, str):
        raise MalformedError("leaf: no sgx_enclave_identity", code="no-sigstruct")
    return strict.base64_bytes(text, what="leaf.sgx_enclave_identity", length=SIGSTRUCT_SIZE)


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name, "")
    if not isinstance(value, str):
        raise MalformedError(f"leaf.{name}: not text")
    return value


def _sources(fields: Mapping[str, Any]) -> tuple[Source, ...]:
    items = fields.get("sources", [])
    if not isinstance(items, list) or len(items) > _MAX_SOURCES:
        raise MalformedError(f"leaf.sources: not a list of at most {_MAX_SOURCES}")
    return tuple(_source(item) for item in items)


def _source(item: object) -> Source:
    match item:
        case {"repository": str(repository), "source_git_sha1": str(commit)}:
            strict.hex_bytes(commit, what="leaf.sources: source_git_sha1", length=20)
            return Source(repository, commit)
        case _:
            raise MalformedError("leaf.sources: not {repository, source_git_sha1}")


def _verified(data: bytes) -> tuple[SigStruct | None, Refusal | None]:
    try:
        return verify_sigstruct(data), None
    except LogError as error:
        return None, Refusal(error.code, str(error))
