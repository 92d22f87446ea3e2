"""in-toto statements (Statement v1) and the predicates that Assay admits.

A statement says something of subjects named by digest; it travels as canonical JSON inside a DSSE
envelope of type ``application/vnd.in-toto+json``. Each predicate has one reader here, which is what
"known and well-formed" means to the log. Field names are Gramine's where Gramine has them.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from assay.attest import jcs
from assay.attest.gramine.sigstruct import SIGSTRUCT_SIZE, verify_sigstruct
from assay.attest.lint import LintResult, parse_lint
from assay.attest.measurement import Measurement, Tee
from assay.tlog import strict
from assay.tlog.errors import MalformedError, UntrustedError
from assay.tlog.merkle import Hash

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_STATEMENT_SIZE = 49_152
LOG_TAIL_SIZE = 8192
MAX_DIFFERENCES = 32
MAX_DIFFERENCE_LENGTH = 512

MEASUREMENT_PREDICATE = "urn:assay:measurement:v1"
PROVENANCE_PREDICATE = "https://slsa.dev/provenance/v1"
REBUILD_PREDICATE = "urn:assay:rebuild:v1"

_DIGEST_SIZES = {"sha256": 32, "sgxMrEnclave": 32, "gitCommit": 20}


@dataclass(frozen=True, slots=True)
class Subject:
    """What a statement is about: a name and digests by algorithm (``sha256``, ``sgxMrEnclave``, ``gitCommit``)."""

    name: str
    digest: Mapping[str, bytes]

    def to_json(self) -> jcs.Json:
        """``{"digest": {algorithm: hex}, "name"}``."""
        return {"digest": {name: value.hex() for name, value in self.digest.items()}, "name": self.name}


@dataclass(frozen=True, slots=True)
class Digests:
    """What two builds of one release must agree on, byte for byte."""

    mr_enclave: bytes
    manifest_sha256: bytes
    tree_sha256: bytes
    libpal_sha256: bytes

    def to_json(self) -> jcs.Json:
        """Four members in lower-case hex."""
        return {
            "libpal_sha256": self.libpal_sha256.hex(),
            "manifest_sha256": self.manifest_sha256.hex(),
            "mr_enclave": self.mr_enclave.hex(),
            "tree_sha256": self.tree_sha256.hex(),
        }


@dataclass(frozen=True, slots=True)
class Release:
    """``urn:assay:measurement:v1``: a publisher's word that this measurement is this release.

    Attributes:
        product: whose release it is; a policy names the product's publishers.
        release: the version, without ``@``.
        digests: of what was built.
        mr_signer: SHA-256 of the SIGSTRUCT's modulus, or None if the release is not signed for launch.
        sigstruct_sha256: of the SIGSTRUCT's 1808 bytes; None exactly when ``mr_signer`` is.
        sigstruct: these bytes, so that whoever starts the enclave needs the statement only; statements of before have
            their hash alone.
        attributes_flags: SGX attribute flags of the SIGSTRUCT; debug (bit 1) is never set.
        gramine_version: whose layout the measurement follows.
        source_sha256: digest over the measured source files; ``source_commit`` (git, hex) if known.
        advisories: Intel advisories that the publisher accepts for this measurement, sorted.
        valid_from_ms: Unix ms; ``valid_until_ms`` None means without end.
        effective_after_ms: before this time clients need not accept it, so that it can be objected to.
        supersedes: leaf hash of the release that this one replaces, or None.
        lint: what a linter found in the manifest and what of it the publisher allows; None if the statement is silent.
    """

    product: str
    release: str
    digests: Digests
    mr_signer: bytes | None
    sigstruct_sha256: bytes | None
    isv_prod_id: int
    isv_svn: int
    attributes_flags: int
    gramine_version: str
    trusted_files_sha256: bytes
    source_sha256: bytes
    source_commit: str | None
    advisories: tuple[str, ...]
    valid_from_ms: int
    valid_until_ms: int | None
    effective_after_ms: int
    supersedes: Hash | None
    lint: LintResult | None = None
    sigstruct: bytes | None = None

    @property
    def measurement(self) -> Measurement:
        """The release's MRENCLAVE."""
        return Measurement(Tee.SGX, self.digests.mr_enclave)

    def to_json(self) -> jcs.Json:
        """The predicate."""
        optional: dict[str, jcs.Json] = {}
        if self.lint is not None:
            optional["lint"] = self.lint.to_json()
        if self.sigstruct is not None:
            optional["sigstruct"] = strict.base64_text(self.sigstruct)
        return optional | {
            "advisories": list(self.advisories),
            "attributes_flags": f"{self.attributes_flags:016x}",
            "debug_enclave": False,
            "digests": self.digests.to_json(),
            "effective_after": self.effective_after_ms,
            "gramine_version": self.gramine_version,
            "isv_prod_id": self.isv_prod_id,
            "isv_svn": self.isv_svn,
            "mr_signer": None if self.mr_signer is None else self.mr_signer.hex(),
            "product": self.product,
            "release": self.release,
            "sigstruct_sha256": None if self.sigstruct_sha256 is None else self.sigstruct_sha256.hex(),
            "source": {"commit": self.source_commit, "sha256": self.source_sha256.hex()},
            "supersedes": None if self.supersedes is None else self.supersedes.hex(),
            "trusted_files_sha256": self.trusted_files_sha256.hex(),
            "valid_from": self.valid_from_ms,
            "valid_until": self.valid_until_ms,
        }


class Verdict(StrEnum):
    """How a rebuild ended. The bad cases are signed and logged too: absence must not read as success."""

    REPRODUCED = "REPRODUCED"
    DIFFERENT = "DIFFERENT"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Rebuild:
    """``urn:assay:rebuild:v1``: a rebuilder's verdict on a published release.

    Attributes:
        release_leaf: leaf hash of the release's ``attestation`` entry.
        observed: what the rebuild gave; None if it failed.
        differences: what differs, in words for people, the cause first; empty exactly unless the verdict is DIFFERENT.
        log_tail: the last 8 KiB of the build log; ``log_sha256`` is over the whole log.
    """

    product: str
    release: str
    release_leaf: Hash
    verdict: Verdict
    expected: Digests
    observed: Digests | None
    differences: tuple[str, ...]
    log_tail: str
    log_sha256: bytes
    started_ms: int
    finished_ms: int

    def to_json(self) -> jcs.Json:
        """The predicate."""
        return {
            "differences": list(self.differences),
            "expected": self.expected.to_json(),
            "finished": self.finished_ms,
            "log_sha256": self.log_sha256.hex(),
            "log_tail": self.log_tail,
            "observed": None if self.observed is None else self.observed.to_json(),
            "product": self.product,
            "release": self.release,
            "release_leaf": self.release_leaf.hex(),
            "started": self.started_ms,
            "verdict": str(self.verdict),
        }


@dataclass(frozen=True, slots=True)
class Provenance:
    """``https://slsa.dev/provenance/v1``: how a release was built.

    The log checks the outline that SLSA v1.0 requires; what the parameters mean is the build type's.
    """

    build_type: str
    external_parameters: Mapping[str, jcs.Json]
    builder_id: str
    resolved_dependencies: tuple[jcs.Json, ...]
    invocation_id: str

    def to_json(self) -> jcs.Json:
        """The predicate."""
        return {
            "buildDefinition": {
                "buildType": self.build_type,
                "externalParameters": dict(self.external_parameters),
                "resolvedDependencies": list(self.resolved_dependencies),
            },
            "runDetails": {
                "builder": {"id": self.builder_id},
                "metadata": {"invocationId": self.invocation_id},
            },
        }


Predicate = Release | Rebuild | Provenance


@dataclass(frozen=True, slots=True)
class Statement:
    """Subjects and what is said of them."""

    subjects: tuple[Subject, ...]
    predicate: Predicate

    def payload(self) -> bytes:
        """The canonical bytes that a DSSE envelope carries.

        Raises:
            MalformedError: a member that :func:`parse_statement` would refuse.
        """
        encoded = jcs.canonical(
            {
                "_type": STATEMENT_TYPE,
                "predicate": self.predicate.to_json(),
                "predicateType": predicate_type(self.predicate),
                "subject": [subject.to_json() for subject in self.subjects],
            }
        )
        parse_statement(encoded)  # what we sign must parse
        return encoded


def predicate_type(predicate: Predicate) -> str:
    """The type URI of a predicate."""
    match predicate:
        case Release():
            return MEASUREMENT_PREDICATE
        case Rebuild():
            return REBUILD_PREDICATE
        case Provenance():
            return PROVENANCE_PREDICATE
        case _:
            assert_never(predicate)


def parse_statement(payload: bytes) -> Statement:
    """Parse a canonical statement with a known predicate.

    Raises:
        MalformedError: not canonical JSON, no subject, an unknown predicate (code ``unknown-predicate``) or a
            malformed one, or subjects that contradict the predicate.
    """
    value = jcs.parse_canonical(payload, what="statement", max_bytes=MAX_STATEMENT_SIZE)
    fields = jcs.Fields(value, what="statement", required=("_type", "predicate", "predicateType", "subject"))
    if fields.text("_type") != STATEMENT_TYPE:
        raise MalformedError("statement._type: not an in-toto Statement v1")
    subjects = tuple(_parse_subject(item) for item in fields.array("subject", max_items=64))
    if not subjects or len({subject.name for subject in subjects}) != len(subjects):
        raise MalformedError("statement.subject: none, or two of one name")
    predicate = _parse_predicate(fields.text("predicateType"), fields.value("predicate"))
    _check_subjects(subjects, predicate)
    return Statement(subjects, predicate)


def release_subjects(release: Release) -> tuple[Subject, ...]:
    """The subjects of a release: those of its build, and the SIGSTRUCT by its own hash too if there is one."""
    sigstruct, *others = build_subjects(release.digests)
    if release.sigstruct_sha256 is not None:
        sigstruct = Subject(sigstruct.name, {**sigstruct.digest, "sha256": release.sigstruct_sha256})
    return (sigstruct, *others)


def build_subjects(digests: Digests) -> tuple[Subject, ...]:
    """The subjects of what is said about a build by whoever repeats or describes it.

    They hold no hash of a SIGSTRUCT: only the publisher's signing key gives its bytes.
    """
    return (
        Subject("sigstruct", {"sgxMrEnclave": digests.mr_enclave}),
        Subject("manifest.sgx", {"sha256": digests.manifest_sha256}),
        Subject("libpal", {"sha256": digests.libpal_sha256}),
        Subject("tree", {"sha256": digests.tree_sha256}),
    )


def _parse_subject(value: jcs.Json) -> Subject:
    fields = jcs.Fields(value, what="subject", required=("digest", "name"))
    digest = fields.fields("digest", required=(), optional=_DIGEST_SIZES)
    digests = {
        name: digest.hex(name, length=size) for name, size in _DIGEST_SIZES.items() if digest.has(name)
    }
    if not digests:
        raise MalformedError("subject.digest: empty")
    return Subject(fields.text("name", max_length=255), digests)


def _check_subjects(subjects: tuple[Subject, ...], predicate: Predicate) -> None:
    """A release or rebuild is found by its subjects, so they must be those of its digests."""
    match predicate:
        case Release():
            expected = release_subjects(predicate)
        case Rebuild():
            expected = build_subjects(predicate.expected)
        case Provenance():
            return
        case _:
            assert_never(predicate)
    if subjects != expected:
        raise MalformedError("statement.subject: not the subjects of the predicate's digests")


def _parse_predicate(kind: str, value: jcs.Json) -> Predicate:
    match kind:
        case "urn:assay:measurement:v1":
            return _parse_release(value)
        case "urn:assay:rebuild:v1":
            return _parse_rebuild(value)
        case "https://slsa.dev/provenance/v1":
            return _parse_provenance(value)
        case _:
            raise MalformedError(
                f"statement.predicateType: {strict.shown(kind)} is not known", code="unknown-predicate"
            )


def _parse_digests(value: jcs.Json, *, what: str) -> Digests:
    names = ("libpal_sha256", "manifest_sha256", "mr_enclave", "tree_sha256")
    fields = jcs.Fields(value, what=what, required=names)
    return Digests(
        mr_enclave=fields.hex("mr_enclave", length=32),
        manifest_sha256=fields.hex("manifest_sha256", length=32),
        tree_sha256=fields.hex("tree_sha256", length=32),
        libpal_sha256=fields.hex("libpal_sha256", length=32),
    )


_RELEASE_KEYS = (
    "advisories",
    "attributes_flags",
    "debug_enclave",
    "digests",
    "effective_after",
    "gramine_version",
    "isv_prod_id",
    "isv_svn",
    "mr_signer",
    "product",
    "release",
    "sigstruct_sha256",
    "source",
    "supersedes",
    "trusted_files_sha256",
    "valid_from",
    "valid_until",
)


def _parse_release(value: jcs.Json) -> Release:
    fields = jcs.Fields(value, what="release", required=_RELEASE_KEYS, optional=("lint", "sigstruct"))
    source = fields.fields("source", required=("commit", "sha256"))
    flags = int.from_bytes(fields.hex("attributes_flags", length=8), "big")
    if fields.boolean("debug_enclave") or flags & 0x2:
        raise MalformedError("release: a debug enclave is no release", code="debug")
    supersedes = fields.nullable("supersedes", lambda key: fields.hex(key, length=32))
    release = Release(
        product=fields.text("product", max_length=128),
        release=_parse_version(fields),
        digests=_parse_digests(fields.value("digests"), what="release.digests"),
        mr_signer=fields.nullable("mr_signer", lambda key: fields.hex(key, length=32)),
        sigstruct_sha256=fields.nullable("sigstruct_sha256", lambda key: fields.hex(key, length=32)),
        isv_prod_id=fields.integer("isv_prod_id", high=0xFFFF),
        isv_svn=fields.integer("isv_svn", high=0xFFFF),
        attributes_flags=flags,
        gramine_version=fields.text("gramine_version", max_length=32),
        trusted_files_sha256=fields.hex("trusted_files_sha256", length=32),
        source_sha256=source.hex("sha256", length=32),
        source_commit=source.nullable("commit", lambda key: source.hex(key, length=20).hex()),
        advisories=fields.sorted_names("advisories", max_items=64, max_length=64),
        valid_from_ms=fields.integer("valid_from"),
        valid_until_ms=fields.nullable("valid_until", fields.integer),
        effective_after_ms=fields.integer("effective_after"),
        supersedes=None if supersedes is None else Hash(supersedes),
        lint=parse_lint(fields.value("lint"), what="release.lint") if fields.has("lint") else None,
        sigstruct=fields.base64("sigstruct", length=SIGSTRUCT_SIZE) if fields.has("sigstruct") else None,
    )
    if (release.mr_signer is None) != (release.sigstruct_sha256 is None):
        raise MalformedError("release: mr_signer and sigstruct_sha256 are both null or both set")
    if release.valid_until_ms is not None and release.valid_until_ms <= release.valid_from_ms:
        raise MalformedError("release: it ends before it begins")
    if release.sigstruct is not None:
        _check_sigstruct(release, release.sigstruct)
    return release


def _check_sigstruct(release: Release, data: bytes) -> None:
    """The whole SIGSTRUCT is genuine, and says what the release says."""
    try:
        signed = verify_sigstruct(data)
    except UntrustedError as error:
        raise MalformedError(f"release: {error}", code="sigstruct-mismatch") from error
    body = signed.body
    found = (body.mr_enclave, signed.mr_signer, body.isv_prod_id, body.isv_svn, body.attribute_flags)
    said = (
        release.digests.mr_enclave,
        release.mr_signer,
        release.isv_prod_id,
        release.isv_svn,
        release.attributes_flags,
    )
    if found != said or hashlib.sha256(data).digest() != release.sigstruct_sha256:
        raise MalformedError("release: its SIGSTRUCT says something else", code="sigstruct-mismatch")


def _parse_version(fields: jcs.Fields) -> str:
    # ``product@release`` names a release in the index; an @ here would let two releases share a name.
    version = fields.text("release", max_length=128)
    if "@" in version:
        raise MalformedError(f"{fields.name('release')}: {strict.shown(version)} contains an @")
    return version


_REBUILD_KEYS = (
    "differences",
    "expected",
    "finished",
    "log_sha256",
    "log_tail",
    "observed",
    "product",
    "release",
    "release_leaf",
    "started",
    "verdict",
)


def _parse_rebuild(value: jcs.Json) -> Rebuild:
    fields = jcs.Fields(value, what="rebuild", required=_REBUILD_KEYS)
    try:
        verdict = Verdict(fields.text("verdict"))
    except ValueError as error:
        raise MalformedError("rebuild.verdict: unknown") from error
    tail = fields.value("log_tail")
    if not isinstance(tail, str) or len(tail.encode("utf-8", "surrogatepass")) > LOG_TAIL_SIZE:
        raise MalformedError(f"rebuild.log_tail: not text of at most {LOG_TAIL_SIZE} bytes")
    observed = fields.nullable(
        "observed", lambda key: _parse_digests(fields.value(key), what="rebuild.observed")
    )
    rebuild = Rebuild(
        product=fields.text("product", max_length=128),
        release=_parse_version(fields),
        release_leaf=Hash(fields.hex("release_leaf", length=32)),
        verdict=verdict,
        expected=_parse_digests(fields.value("expected"), what="rebuild.expected"),
        observed=observed,
        differences=fields.texts("differences", max_items=MAX_DIFFERENCES, max_length=MAX_DIFFERENCE_LENGTH),
        log_tail=tail,
        log_sha256=fields.hex("log_sha256", length=32),
        started_ms=fields.integer("started"),
        finished_ms=fields.integer("finished"),
    )
    _check_verdict(rebuild)
    return rebuild


def _check_verdict(rebuild: Rebuild) -> None:
    match rebuild.verdict:
        case Verdict.REPRODUCED:
            consistent = rebuild.observed == rebuild.expected
        case Verdict.DIFFERENT:
            consistent = rebuild.observed is not None and rebuild.observed != rebuild.expected
        case Verdict.FAILED:
            consistent = rebuild.observed is None
        case _:
            assert_never(rebuild.verdict)
    if not consistent:
        raise MalformedError("rebuild: the verdict contradicts the observed digests")
    if bool(rebuild.differences) != (rebuild.verdict is Verdict.DIFFERENT):
        raise MalformedError("rebuild.differences: said exactly if the verdict is DIFFERENT")


def _parse_provenance(value: jcs.Json) -> Provenance:
    fields = jcs.Fields(value, what="provenance", required=("buildDefinition", "runDetails"))
    definition = fields.fields(
        "buildDefinition", required=("buildType", "externalParameters", "resolvedDependencies")
    )
    parameters = definition.value("externalParameters")
    if not isinstance(parameters, dict) or not parameters:
        raise MalformedError("provenance.buildDefinition.externalParameters: empty")
    run = fields.fields("runDetails", required=("builder", "metadata"))
    return Provenance(
        build_type=definition.text("buildType"),
        external_parameters=parameters,
        builder_id=run.fields("builder", required=("id",)).text("id"),
        resolved_dependencies=tuple(definition.array("resolvedDependencies", max_items=512)),
        invocation_id=run.fields("metadata", required=("invocationId",)).text("invocationId"),
    )
