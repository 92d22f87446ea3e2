"""What a configuration names, opened: the store, the keys, the witness policy, the admission rules."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from assay.attest import p256
from assay.attest.admission import Publishers
from assay.attest.roots import TrustedRoot
from assay.attest.sigstore_certificate import Identity
from assay.attest.sigstore_roots import SigstoreRoots, parse_roots
from assay.log_server.admission import Admission, AdmittedRoot
from assay.log_server.collateral import open_provider
from assay.log_server.config import Config, PublisherSection, RootSection
from assay.log_server.store import Store
from assay.tlog import policy as tlog_policy
from assay.tlog.errors import MalformedError
from assay.tlog.keys import SignerKey, parse_key_file
from assay.tlog.policy import Policy


def open_store(config: Config, *, folder: Path) -> Store:
    """The store that a configuration names: an SQLAlchemy URL, or a file for SQLite."""
    if "://" in config.database:
        return Store(config.database)
    return Store(f"sqlite:///{folder / config.database}")


def read_signers(path: Path, *, origin: str) -> tuple[SignerKey, ...]:
    """The log's keys.

    Raises:
        MalformedError: no key file, or keys of another name than the origin (code ``config``).
    """
    signers = parse_key_file(path.read_text("ascii"))
    if any(signer.name != origin for signer in signers):
        raise MalformedError(f"{path}: the keys are not those of {origin!r}", code="config")
    return signers


def read_witness_policy(config: Config, *, folder: Path) -> Policy | None:
    """The witness policy, or None for a log that asks for no witnesses.

    Raises:
        MalformedError: not a tlog-policy, or one without a quorum or of another log (code ``config``).
    """
    if config.witnesses.policy is None:
        return None
    parsed = tlog_policy.parse_policy((folder / config.witnesses.policy).read_bytes())
    if parsed.quorum is None:
        raise MalformedError(
            "the witness policy's quorum is none; leave the policy out instead", code="config"
        )
    if parsed.origins != (config.origin,):
        raise MalformedError(f"the witness policy is not of {config.origin!r} alone", code="config")
    tlog_policy.require_one_vote_per_witness(parsed)
    return parsed


def open_admission(config: Config, *, folder: Path, store: Store) -> Admission:
    section = config.admission
    roots = [_admitted_root(root, folder=folder) for root in section.roots]
    publishers = section.publishers
    sigstore = read_sigstore_roots(config, folder=folder)
    if sigstore is None and any(rule.identities for rule in (publishers or {}).values()):
        raise MalformedError(
            "publishers: an identity needs [sigstore] roots, a file to judge it by", code="config"
        )
    return Admission(
        origin=config.origin,
        kinds=frozenset(section.kinds),
        roots=roots,
        publishers=None
        if publishers is None
        else {product: _publishers(rule, folder=folder) for product, rule in publishers.items()},
        sigstore=sigstore,
        state=store,
    )


def read_sigstore_roots(config: Config, *, folder: Path) -> SigstoreRoots | None:
    """The roots that certificates are judged by, or None for a log that admits none.

    Raises:
        MalformedError: no such roots (code ``sigstore-roots``).
    """
    if config.sigstore.roots is None:
        return None
    return parse_roots((folder / config.sigstore.roots).read_bytes())


def certificate_der(data: bytes) -> bytes:
    """A certificate's DER, from PEM or DER.

    Raises:
        MalformedError: neither (code ``config``).
    """
    try:
        load = x509.load_pem_x509_certificate if data.startswith(b"-----") else x509.load_der_x509_certificate
        return load(data).public_bytes(Encoding.DER)
    except (ValueError, x509.InvalidVersion) as error:
        raise MalformedError("a root certificate is neither PEM nor DER", code="config") from error


def _admitted_root(section: RootSection, *, folder: Path) -> AdmittedRoot:
    root = TrustedRoot(section.name, certificate_der((folder / section.certificate).read_bytes()))
    return AdmittedRoot(root, open_provider(section, root=root, folder=folder))


def _publishers(rule: PublisherSection, *, folder: Path) -> Publishers:
    signers = frozenset(
        p256.signer_id(p256.spki(p256.parse_public_pem((folder / key).read_bytes()))) for key in rule.keys
    )
    identities = frozenset(Identity(each.identity, each.issuer) for each in rule.identities)
    if len(identities) != len(rule.identities):
        raise MalformedError("publishers: an identity stands twice", code="config")
    try:
        return Publishers(rule.threshold, signers, identities)
    except ValueError as error:
        raise MalformedError(f"publishers: {error}", code="config") from error
