"""What publishers and rebuilders vouch for: that a measurement is a release, and that others built the same."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from assay.attest import admission, entry, signers, statement
from assay.attest.bundle import Logged
from assay.attest.entry import Attestation
from assay.attest.quote.verify import VerifiedSgxQuote
from assay.attest.sigstore_certificate import Identity, SigningCertificate
from assay.attest.sigstore_identity import IdentityJudgement, verify_identity
from assay.attest.statement import Rebuild, Release
from assay.client.judge_enclave import Bracket
from assay.client.judge_log import Proven, judge_checkpoint, judge_inclusion
from assay.client.trust import Policy, Rebuilders
from assay.client.verdict import Passed, Skipped
from assay.tlog import strict
from assay.tlog.errors import LogError, MalformedError, StaleError, UntrustedError
from assay.tlog.merkle import Hash
from assay.tlog.policy import CosignedCheckpoint


@dataclass(frozen=True, slots=True)
class Published:
    """A release statement whose signatures verified, and by whom; whether those may publish is another check.

    Attributes:
        release: what was signed.
        signers: hex ids of the keys that signed.
        certificates: those whose keys signed; whose they are, nobody has judged yet.
    """

    release: Release
    signers: tuple[str, ...]
    certificates: tuple[SigningCertificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A rebuild verdict whose signatures and inclusion verified."""

    rebuild: Rebuild
    signers: tuple[str, ...]
    cosigned: CosignedCheckpoint


def parse_attestation(leaf: bytes, *, what: str) -> Attestation:
    """Parse a leaf that must be an ``attestation``.

    Raises:
        MalformedError: another kind, or not an entry.
    """
    parsed = entry.parse_entry(leaf)
    if not isinstance(parsed, Attestation):
        raise MalformedError(f"{what}: a leaf of kind {entry.kind_of(parsed)}, not attestation")
    return parsed


def judge_release_signature(attestation: Attestation) -> Passed[Published]:
    """Verify every signature of a release statement.

    Raises:
        MalformedError: a malformed statement.
        UntrustedError: a bad signature, or a statement of another kind (code ``not-a-release``).
    """
    verified = admission.verify_attestation(attestation)
    if not isinstance(verified.predicate, Release):
        raise UntrustedError(
            f"a {statement.predicate_type(verified.predicate)} is not a release", code="not-a-release"
        )
    release = verified.predicate
    published = Published(release, signers_of(attestation), signers.certificates(attestation))
    names = [*published.signers]
    if published.certificates:
        names.append(f"{len(published.certificates)} certificates")
    name = f"{strict.shown(release.product)} {strict.shown(release.release)}"
    return Passed(published, f"{name}, signed by {', '.join(names)}")


def judge_publishers(
    published: Published, policy: Policy, *, logged_by_s: Callable[[], int]
) -> Passed[frozenset[str | Identity]]:
    """Check that enough of the product's publishers signed.

    An identity counts if its certificate verifies under the policy's roots at the time by which the release was
    logged; a certificate that does not is passed over like the key of a stranger.

    Args:
        published: a release whose signatures verified.
        policy: the relying party's.
        logged_by_s: gives the witnesses' time, Unix seconds; not asked for keys.

    Raises:
        UntrustedError: the product is not in the policy, or too few signed (code ``publisher``).
    """
    product = published.release.product
    signed = verify_publishers(
        product, published.signers, published.certificates, policy=policy, logged_by_s=logged_by_s
    )
    rule = policy.publishers[product]
    detail = f"{len(signed)} of {rule.count} publishers signed, {rule.threshold} must"
    named = sorted(str(each) for each in signed if isinstance(each, Identity))
    return Passed(signed, "; ".join([detail, *named]))


def verify_publishers(
    product: str,
    keys: Sequence[str],
    certificates: Sequence[SigningCertificate],
    *,
    policy: Policy,
    logged_by_s: Callable[[], int],
) -> frozenset[str | Identity]:
    """The publishers of a product among those whose signatures on a statement verified.

    Args:
        product: whose release the statement is about.
        keys: hex ids.
        certificates: whose keys signed.
        policy: the relying party's.
        logged_by_s: gives the witnesses' time, Unix seconds; not asked for keys.

    Raises:
        UntrustedError: too few (code ``publisher``); the message says why certificates did not count.
    """
    identities, refused = _judge_identities(certificates, policy, logged_by_s)
    try:
        return admission.verify_publishers(product, keys, policy.publishers, identities=identities)
    except UntrustedError as error:
        raise UntrustedError("; ".join([str(error), *refused]), code=error.code) from error


def _judge_identities(
    certificates: Sequence[SigningCertificate], policy: Policy, logged_by_s: Callable[[], int]
) -> tuple[frozenset[Identity], list[str]]:
    """The identities that count, and why the others do not."""
    if policy.sigstore is None:
        return frozenset(), [
            "the policy has no Sigstore roots to judge a certificate by"
        ] if certificates else []
    identities: set[Identity] = set()
    refused: list[str] = []
    for certificate in certificates:
        try:
            identities.add(verify_identity(certificate, IdentityJudgement(policy.sigstore, logged_by_s())))
        except LogError as error:
            refused.append(f"{error.code}: {error}")
    return frozenset(identities), refused


def judge_measurement(quote: VerifiedSgxQuote, release: Release) -> Passed[None]:
    """Check that the quoted enclave is the released one.

    Raises:
        UntrustedError: another MRENCLAVE, product id, security version or, if the release has one, signer (code
            ``measurement``).
    """
    expected: dict[str, object] = {
        "MRENCLAVE": release.digests.mr_enclave,
        "ISV product id": release.isv_prod_id,
        "ISV security version": release.isv_svn,
    }
    found: dict[str, object] = {
        "MRENCLAVE": quote.mr_enclave,
        "ISV product id": quote.isv_prod_id,
        "ISV security version": quote.isv_svn,
    }
    if release.mr_signer is not None:
        expected["MRSIGNER"], found["MRSIGNER"] = release.mr_signer, quote.mr_signer
    if different := [name for name in expected if expected[name] != found[name]]:
        raise UntrustedError(
            f"the quote and the release differ in {', '.join(different)}", code="measurement"
        )
    return Passed(None, f"MRENCLAVE {quote.mr_enclave.hex()} is the release's")


def judge_validity(
    release: Release, *, logged_by_s: int, used: Bracket, announcement_delay_s: int
) -> Passed[None]:
    """Check that a release was in force whenever within ``used`` it was used.

    Starts are judged at the bracket's beginning, the end at its end: then they hold in between.

    Raises:
        StaleError: not yet valid or effective, no longer valid, or not announced for long enough (code
            ``release-validity``).
    """
    start_s, end_s = used.not_before_s, used.not_after_s
    if start_s < max(release.valid_from_ms, release.effective_after_ms) // 1000:
        raise StaleError(f"the release was not in force at {start_s}", code="release-validity")
    if release.valid_until_ms is not None and end_s * 1000 >= release.valid_until_ms:
        raise StaleError(f"the release was no longer valid at {end_s}", code="release-validity")
    if announcement_delay_s and logged_by_s + announcement_delay_s > start_s:
        raise StaleError(
            f"logged by {logged_by_s}, used at {start_s}: not announced for {announcement_delay_s} s",
            code="release-validity",
        )
    return Passed(None, f"in force from {start_s} to {end_s}, logged by {logged_by_s}")


def verify_rebuild(logged: Logged, policy: Policy) -> Rebuilt:
    """Verify a logged rebuild verdict: signatures, checkpoint, inclusion.

    Raises:
        MalformedError, UntrustedError: one of them does not verify.
    """
    attestation = parse_attestation(logged.leaf, what="rebuild")
    verified = admission.verify_attestation(attestation)
    if not isinstance(verified.predicate, Rebuild):
        raise MalformedError("rebuild: a statement of another kind")
    cosigned = judge_checkpoint(logged.proof.checkpoint, policy=policy.log).value
    judge_inclusion(logged, cosigned)
    return Rebuilt(verified.predicate, signers_of(attestation), cosigned)


def judge_rebuilds(
    rebuilds: Sequence[Logged], release: Release, *, leaf: Hash, policy: Policy
) -> Passed[tuple[Rebuilt, ...]] | Skipped:
    """Check that enough of the policy's rebuilders reproduced the release, and that none got something else.

    Every verdict in the bundle must verify, also those of strangers, which do not count. A listed rebuilder's
    DIFFERENT is not outvoted: somebody must explain it first.

    Raises:
        MalformedError, UntrustedError: a verdict does not verify, is on another release (code
            ``other-release``), is DIFFERENT (``rebuild-different``), or too few reproduced (``rebuilders``).
    """
    rule = policy.rebuilders
    if not rebuilds:
        return Skipped(f"no rebuild verdicts here; the policy requires {rule.threshold}")
    verified = tuple(verify_rebuild(logged, policy) for logged in rebuilds)
    for item in verified:
        _require_same_release(item.rebuild, release, leaf)
    _refuse_different(verified, rule)
    reproduced = _listed(verified, statement.Verdict.REPRODUCED, rule)
    if len(reproduced) < rule.threshold:
        raise UntrustedError(
            f"{len(reproduced)} of the policy's rebuilders reproduced it, {rule.threshold} must",
            code="rebuilders",
        )
    names = ", ".join(sorted(reproduced))
    return Passed(verified, f"reproduced by {len(reproduced)} of {len(rule.signers)} rebuilders: {names}")


def _require_same_release(rebuild: Rebuild, release: Release, leaf: Hash) -> None:
    said = (rebuild.release_leaf, rebuild.product, rebuild.release, rebuild.expected)
    if said != (leaf, release.product, release.release, release.digests):
        raise UntrustedError("a rebuild verdict is on another release", code="other-release")


def _refuse_different(verified: Iterable[Rebuilt], rule: Rebuilders) -> None:
    if different := _listed(verified, statement.Verdict.DIFFERENT, rule):
        raise UntrustedError(
            f"{', '.join(sorted(different))} built something different", code="rebuild-different"
        )


def _listed(verified: Iterable[Rebuilt], verdict: statement.Verdict, rule: Rebuilders) -> frozenset[str]:
    listed = {signer for item in verified if item.rebuild.verdict is verdict for signer in item.signers}
    return rule.signers & listed


def judge_artifact(artifact_sha256: bytes, release: Release) -> Passed[str]:
    """Check that a file is one whose digest the release states; its role is the value.

    Raises:
        UntrustedError: it is not (code ``artifact``).
    """
    roles = {
        release.digests.manifest_sha256: "manifest.sgx",
        release.digests.libpal_sha256: "libpal",
        release.digests.tree_sha256: "tree",
    }
    if artifact_sha256 not in roles:
        raise UntrustedError(f"the release names no file of SHA-256 {artifact_sha256.hex()}", code="artifact")
    return Passed(roles[artifact_sha256], f"the release's {roles[artifact_sha256]}")


def signers_of(attestation: Attestation) -> tuple[str, ...]:
    """The hex ids of the keys that signed an attestation, in order; certificates are none of them."""
    return signers.key_ids(attestation)


def release_facts(published: Published, proven: Proven | None) -> dict[str, object]:
    """What a verdict tells of a release whose signatures verified."""
    release = published.release
    return {
        "product": release.product,
        "release": release.release,
        "mr_enclave": release.digests.mr_enclave.hex(),
        "signers": list(published.signers),
        "leaf_hash": None if proven is None else proven.leaf_hash.hex(),
        "index": None if proven is None else proven.index,
    }
