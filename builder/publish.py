"""Publishing: what a build says of itself, signed, put into the log, and checked to be there.

Two statements: the release (this measurement is this release) and the provenance (from what it was built, so
that strangers can repeat it). Both are fixed before the first is sent: they are kept beside the release file
until both are logged, and a retry sends the same bytes, which the log takes for the same entries.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import entry, p256, statement
from assay.attest.bundle import Bundle, format_bundle
from assay.attest.entry import Attestation, CertificateVerifier, Verifier
from assay.attest.sigstore_certificate import parse_signing_certificate
from assay.attest.statement import Digests, Provenance, Release, Statement
from assay.builder import sigstore_bundle
from assay.builder.lint import lint, require_clean
from assay.builder.output import BuildResult, file_names
from assay.builder.record import BuildRecord
from assay.builder.signing import KeySigner, Signature, Signer, sign_statement, signature_at
from assay.client.log import LogClient, Submitted
from assay.tlog import strict
from assay.tlog.errors import LogError, MalformedError, UnavailableError, UntrustedError
from assay.tlog.merkle import Hash
from assay.tlog.policy import Policy

BUILD_TYPE = "urn:assay:build:gramine:v1"
"""The build type of our provenance: ``externalParameters`` = {inputs, lock_sha256, recipe_sha256, source_sha256}."""


@dataclass(frozen=True, slots=True)
class ReleaseTerms:
    """What the publisher adds to what the build says of itself.

    Attributes:
        advisories: Intel advisories that are accepted for this measurement.
        valid_from_ms: Unix ms; ``valid_until_ms`` None means without end.
        effective_after_ms: before it clients need not accept the release.
        supersedes: leaf hash of the release that this one replaces.
        source_commit: git commit, 40 hex digits, if the publisher wants to name it.
    """

    advisories: tuple[str, ...]
    valid_from_ms: int
    valid_until_ms: int | None
    effective_after_ms: int
    supersedes: Hash | None
    source_commit: str | None


@dataclass(frozen=True, slots=True)
class Published:
    """A release that is in the log, with its provenance; ``signature`` is its last one, as it was made."""

    release: Submitted
    provenance: Submitted
    file: Path
    signature: Signature


def digests_of(record: BuildRecord) -> Digests:
    """What a rebuild must agree with."""
    return Digests(
        mr_enclave=record.mr_enclave,
        manifest_sha256=record.manifest_sha256,
        tree_sha256=record.tree_sha256,
        libpal_sha256=record.libpal_sha256,
    )


def release_of(built: BuildResult, terms: ReleaseTerms) -> Release:
    """The release statement's predicate.

    Raises:
        LogError: the linter refuses the manifest.
        OSError: the manifest, or the SIGSTRUCT of a signed build, cannot be read.
    """
    record, sigstruct = built.record, _sigstruct(built)
    return Release(
        product=record.product,
        release=record.release,
        digests=digests_of(record),
        mr_signer=record.mr_signer,
        sigstruct_sha256=None if sigstruct is None else hashlib.sha256(sigstruct).digest(),
        isv_prod_id=record.isv_prod_id,
        isv_svn=record.isv_svn,
        attributes_flags=record.attribute_flags,
        gramine_version=record.gramine_version,
        trusted_files_sha256=record.trusted_files_sha256,
        source_sha256=record.source_sha256,
        source_commit=terms.source_commit,
        advisories=terms.advisories,
        valid_from_ms=terms.valid_from_ms,
        valid_until_ms=terms.valid_until_ms,
        effective_after_ms=terms.effective_after_ms,
        supersedes=terms.supersedes,
        lint=require_clean(lint(built.manifest.read_bytes(), record.allow)),
        sigstruct=sigstruct,
    )


def provenance_of(record: BuildRecord, *, builder_id: str) -> Provenance:
    """The provenance's predicate: everything that decides the measurement, by value or by digest."""
    dependencies = [
        {
            "digest": {"sha256": wheel.sha256.hex()},
            "name": wheel.file,
            "uri": f"pkg:pypi/{wheel.name}@{wheel.version}",
        }
        for wheel in record.wheels
    ]
    dependencies += [
        {
            "digest": {"sha256": package.sha256.hex()},
            "name": package.file,
            "uri": f"pkg:deb/{package.archive.partition('-')[0]}/{package.name}@{quote(package.version)}?arch={package.architecture}",
        }
        for package in record.packages
    ]
    dependencies += [
        {"digest": {"sha256": record.libpal_sha256.hex()}, "name": "libpal.so"},
        {"digest": {"sha256": record.libsysdb_sha256.hex()}, "name": "libsysdb.so"},
    ]
    return Provenance(
        build_type=BUILD_TYPE,
        external_parameters={
            "inputs": dict(record.inputs),
            "lock_sha256": record.lock_sha256.hex(),
            "recipe_sha256": record.recipe_sha256.hex(),
            "source_sha256": record.source_sha256.hex(),
        },
        builder_id=builder_id,
        resolved_dependencies=tuple(dependencies),
        invocation_id=f"urn:assay:build:{record.mr_enclave.hex()}",
    )


def attest(said: Statement, keys: Sequence[ec.EllipticCurvePrivateKey]) -> Attestation:
    """Sign a statement with every key."""
    return sign_statement(said, [KeySigner(key) for key in keys]).attestation


def publish(
    built: BuildResult,
    *,
    keys: Sequence[ec.EllipticCurvePrivateKey],
    terms: ReleaseTerms,
    log: LogClient,
    file: Path,
    keyless: Signer | None = None,
) -> Published:
    """Put a build's release and provenance into the log, and write the release's bundle.

    Args:
        built: a build whose digests have been recomputed (:func:`~assay.builder.output.load_build`).
        keys: of the publishers; their signatures stand in this order.
        terms: what they add.
        log: where to; its proofs are verified.
        file: the ``*.release.json`` to write.
        keyless: signs besides the keys, after them, with a certificate.

    Raises:
        LogError: the log refuses an entry, does not answer, or proves something else.
        UntrustedError: ``file`` already holds another release (code ``exists``).
    """
    if file.exists():
        raise UntrustedError(f"{file} is there already; a release is published once", code="exists")
    signers: list[Signer] = [KeySigner(key) for key in keys]
    signers += [] if keyless is None else [keyless]
    pending = file.with_name(file.name + ".pending")
    prepared = _pending(pending) or _prepare(pending, built, signers, terms)
    _require_same_build(prepared.release, built)
    submitted = _submit(log, prepared.release, pending)
    proven = _submit(log, prepared.provenance, pending)
    bundle = Bundle(subject=submitted.logged, answer=None, enclave=None, release=None, rebuilds=())
    _write(file, format_bundle(bundle))
    pending.unlink()
    return Published(submitted, proven, file, prepared.signature)


def export_release(published: Published, *, log: LogClient, policy: Policy) -> bytes:
    """What was just published as a Sigstore bundle, with its last signature.

    Raises:
        LogError: as :func:`~assay.builder.sigstore_bundle.export`.
    """
    parsed = entry.parse_entry(published.release.logged.leaf)
    assert isinstance(parsed, Attestation)
    return sigstore_bundle.export(parsed, published.signature, log=log, policy=policy)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Both entries, and of the release the last signature as it was made."""

    release: bytes
    provenance: bytes
    signature: Signature


def _prepare(pending: Path, built: BuildResult, signers: Sequence[Signer], terms: ReleaseTerms) -> _Prepared:
    said = release_of(built, terms)
    release = sign_statement(Statement(statement.release_subjects(said), said), signers)
    how = provenance_of(built.record, builder_id=_builder_id(release.attestation.verifiers[0]))
    provenance = sign_statement(Statement(statement.build_subjects(said.digests), how), signers)
    prepared = _Prepared(
        entry.format_entry(release.attestation),
        entry.format_entry(provenance.attestation),
        release.signatures[-1],
    )
    content = {
        "release": strict.base64_text(prepared.release),
        "provenance": strict.base64_text(prepared.provenance),
        "signature": strict.base64_text(prepared.signature.der),
        "timestamps": [strict.base64_text(each) for each in prepared.signature.timestamps],
    }
    _write(pending, json.dumps(content).encode())
    return prepared


def _builder_id(verifier: Verifier) -> str:
    """The URI of whoever says how it was built: a key's, or a certificate's e-mail address or URI."""
    if not isinstance(verifier, CertificateVerifier):
        return f"urn:assay:signer:{p256.signer_id(verifier)}"
    name = parse_signing_certificate(verifier.der).identity.identity
    return name if ":" in name else f"mailto:{name}"


def _pending(path: Path) -> _Prepared | None:
    """What an earlier attempt fixed and did not finish."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())
        names = ("release", "provenance", "signature")
        release, provenance, der = (strict.base64_bytes(content[name], what=name) for name in names)
        timestamps = tuple(strict.base64_bytes(each, what="timestamps") for each in content["timestamps"])
        parsed = entry.parse_entry(release)
    except (ValueError, LookupError, TypeError) as error:
        raise MalformedError(f"{path}: not what an interrupted publication leaves", code="pending") from error
    if not isinstance(parsed, Attestation):
        raise MalformedError(f"{path}: not what an interrupted publication leaves", code="pending")
    last = signature_at(parsed, -1)
    return _Prepared(release, provenance, Signature(last.raw, der, last.verifier, timestamps))


def _submit(log: LogClient, leaf: bytes, pending: Path) -> Submitted:
    """Have an entry logged. One whose certificate has run out meanwhile may be in the log since the first attempt."""
    try:
        return log.submit(leaf)
    except LogError as error:
        if error.code != "certificate-time":
            raise
        try:
            return log.known(leaf)
        except UnavailableError as missing:
            if missing.code != "not-found":
                raise
        raise UntrustedError(
            f"the certificate ran out before the log took the entry; remove {pending} and publish again",
            code=error.code,
        ) from error


def _sigstruct(built: BuildResult) -> bytes | None:
    if built.record.mr_signer is None:
        return None
    return (built.out / file_names(built.record.name).sigstruct).read_bytes()


def _require_same_build(leaf: bytes, built: BuildResult) -> None:
    parsed = entry.parse_entry(leaf)
    if isinstance(parsed, Attestation):
        said = statement.parse_statement(parsed.envelope.payload).predicate
        found = (digests_of(built.record), _sigstruct(built))
        if isinstance(said, Release) and (said.digests, said.sigstruct) == found:
            return
    raise UntrustedError(
        "an interrupted publication of another build waits beside the release file; remove it or finish it",
        code="pending",
    )


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
