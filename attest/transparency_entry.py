"""A log's proof of an entry as Sigstore's bundles carry it: a TransparencyLogEntry of ``sigstore_rekor.proto`` as JSON.

What goes out is strict, because clients are: every field, none more, 64-bit integers as text (CLIENTS.md of
sigstore/rekor-tiles).
"""

import hashlib
from collections.abc import Sequence

from assay.attest import hashedrekord, jcs
from assay.tlog import strict
from assay.tlog.checkpoint import parse_signed_checkpoint
from assay.tlog.keys import KeyType, VerifierKey
from assay.tlog.tlog_proof import TlogProof


def log_id(keys: Sequence[VerifierKey]) -> bytes:
    """The 32 bytes that Sigstore's clients know a log by.

    They are the whole hash of whose first four bytes are the key id of the log's Ed25519 key (c2sp.org/signed-note).
    """
    (key,) = (key for key in keys if key.type is KeyType.ED25519)
    return hashlib.sha256(f"{key.name}\n".encode() + bytes([key.type]) + key.public_key).digest()


def transparency_log_entry(
    leaf: bytes, proof: TlogProof, *, keys: Sequence[VerifierKey]
) -> dict[str, jcs.Json]:
    """The answer to a request: the entry with its proof of inclusion, as Sigstore's bundles carry it.

    Args:
        leaf: the entry's exact bytes.
        proof: of this entry, under a checkpoint of this log.
        keys: the log's own.
    """
    checkpoint = parse_signed_checkpoint(proof.checkpoint).checkpoint
    return {
        "logIndex": str(proof.index),
        "logId": {"keyId": strict.base64_text(log_id(keys))},
        "kindVersion": {"kind": hashedrekord.KIND, "version": hashedrekord.API_VERSION},
        "integratedTime": "0",
        "inclusionPromise": None,
        "inclusionProof": {
            "logIndex": str(proof.index),
            "rootHash": strict.base64_text(checkpoint.root),
            "treeSize": str(checkpoint.size),
            "hashes": [strict.base64_text(each) for each in proof.hashes],
            "checkpoint": {"envelope": proof.checkpoint.decode()},
        },
        "canonicalizedBody": strict.base64_text(leaf),
    }
