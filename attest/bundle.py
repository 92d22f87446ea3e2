"""The bundle: one file with everything that is needed to verify an answer or a release offline.

``application/vnd.assay.bundle.v0.1+json``: canonical JSON and a final newline. It never carries a key or a
policy that its verifier uses; those are the verifier's own. Members (``logged`` = ``{"leaf": base64,
"proof": text of a .tlog-proof}``):

==============  ==============================================================================
``mediaType``   the type above
``subject``     logged: the ``receipt`` entry, or the release's ``attestation`` entry itself
``answer``      null, or what the caller of an answer holds: ``{"openings", "signature", "timestamp"}``
``enclave``     null, or logged + ``collateral`` (base64 of the canonical collateral)
``release``     null, or logged: the release statement that covers the enclave's measurement
``rebuilds``    list of logged: rebuilders' verdicts on that release
==============  ==============================================================================

Deleting members of ``answer.openings`` erases those fields; what remains still verifies.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from assay.attest import jcs, merkle_json
from assay.attest.merkle_json import Opening
from assay.tlog import strict, tlog_proof
from assay.tlog.errors import MalformedError
from assay.tlog.tlog_proof import TlogProof

MEDIA_TYPE = "application/vnd.assay.bundle.v0.1+json"
MAX_BUNDLE_SIZE = 4 << 20
MAX_REBUILDS = 64


@dataclass(frozen=True, slots=True)
class Logged:
    """A leaf and the proof that a log holds it."""

    leaf: bytes
    proof: TlogProof

    def to_json(self) -> dict[str, jcs.Json]:
        """``{"leaf", "proof"}``."""
        return {
            "leaf": strict.base64_text(self.leaf),
            "proof": tlog_proof.format_proof(self.proof).decode(),
        }


@dataclass(frozen=True, slots=True)
class LoggedEnclave:
    """A registration, and the collateral that the log judged its quote with."""

    logged: Logged
    collateral: bytes

    def to_json(self) -> jcs.Json:
        """``{"collateral", "leaf", "proof"}``."""
        return {**self.logged.to_json(), "collateral": strict.base64_text(self.collateral)}


@dataclass(frozen=True, slots=True)
class HeldAnswer:
    """What only the caller has: opened fields of the receipt, and the output signature with its time."""

    openings: Mapping[str, Opening]
    timestamp_ms: int
    signature: bytes

    def to_json(self) -> jcs.Json:
        """``{"openings", "signature", "timestamp"}``."""
        return {
            "openings": {name: opening.to_json() for name, opening in self.openings.items()},
            "signature": strict.base64_text(self.signature),
            "timestamp": self.timestamp_ms,
        }


@dataclass(frozen=True, slots=True)
class Bundle:
    """See the module's table. Parsed; nothing in it is believed."""

    subject: Logged
    answer: HeldAnswer | None
    enclave: LoggedEnclave | None
    release: Logged | None
    rebuilds: tuple[Logged, ...]


def format_bundle(bundle: Bundle) -> bytes:
    """The bundle's file."""
    value = {
        "answer": None if bundle.answer is None else bundle.answer.to_json(),
        "enclave": None if bundle.enclave is None else bundle.enclave.to_json(),
        "mediaType": MEDIA_TYPE,
        "rebuilds": [logged.to_json() for logged in bundle.rebuilds],
        "release": None if bundle.release is None else bundle.release.to_json(),
        "subject": bundle.subject.to_json(),
    }
    return jcs.canonical(value) + b"\n"


def parse_bundle(data: bytes) -> Bundle:
    """Parse a bundle in its only spelling.

    Raises:
        MalformedError: larger than 4 MiB, not canonical, another media type, or malformed members.
    """
    if not data.endswith(b"\n"):
        raise MalformedError("bundle: no final newline")
    value = jcs.parse_canonical(data[:-1], what="bundle", max_bytes=MAX_BUNDLE_SIZE)
    names = ("answer", "enclave", "mediaType", "rebuilds", "release", "subject")
    fields = jcs.Fields(value, what="bundle", required=names)
    if fields.text("mediaType") != MEDIA_TYPE:
        raise MalformedError(f"bundle.mediaType: not {MEDIA_TYPE}")
    return Bundle(
        subject=_parse_logged(fields.value("subject"), what="bundle.subject"),
        answer=fields.nullable("answer", lambda key: _parse_answer(fields.value(key))),
        enclave=fields.nullable("enclave", lambda key: _parse_enclave(fields.value(key))),
        release=fields.nullable(
            "release", lambda key: _parse_logged(fields.value(key), what="bundle.release")
        ),
        rebuilds=tuple(
            _parse_logged(item, what="bundle.rebuilds")
            for item in fields.array("rebuilds", max_items=MAX_REBUILDS)
        ),
    )


def _parse_logged(value: jcs.Json, *, what: str) -> Logged:
    return _logged(jcs.Fields(value, what=what, required=("leaf", "proof")))


def _logged(fields: jcs.Fields) -> Logged:
    proof = fields.value("proof")
    if not isinstance(proof, str):
        raise MalformedError(f"{fields.name('proof')}: not a str")
    return Logged(fields.base64("leaf"), tlog_proof.parse_proof(proof.encode()))


def _parse_enclave(value: jcs.Json) -> LoggedEnclave:
    fields = jcs.Fields(value, what="bundle.enclave", required=("collateral", "leaf", "proof"))
    return LoggedEnclave(_logged(fields), fields.base64("collateral", max_length=1 << 20))


def _parse_answer(value: jcs.Json) -> HeldAnswer:
    fields = jcs.Fields(value, what="bundle.answer", required=("openings", "signature", "timestamp"))
    openings = merkle_json.parse_openings(fields.value("openings"), what=fields.name("openings"))
    return HeldAnswer(openings, fields.integer("timestamp"), fields.base64("signature", length=64))
