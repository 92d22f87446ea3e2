"""Which entries this log admits: the rules of ``attest``, wired to this log's roots, publishers and state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, assert_never

from assay.attest import admission, entry, p256, signers
from assay.attest.admission import Admitted, Publishers
from assay.attest.entry import Attestation, EnclaveSubmission, ReceiptEntry, Registration
from assay.attest.hashedrekord import HashedRekord
from assay.attest.measurement import Tee
from assay.attest.quote import issuance, pck, sgx
from assay.attest.roots import TrustedRoot
from assay.attest.sigstore_identity import IdentityJudgement
from assay.attest.sigstore_roots import SigstoreRoots
from assay.fetch.collateral import CollateralProvider, PlatformFamily
from assay.tlog import merkle
from assay.tlog.errors import MalformedError, UnavailableError, UntrustedError

_OTHER_ROOT = frozenset({"wrong-root", "untrusted-chain"})
"""Codes of the quote verifier that mean: perhaps another root vouches for this quote."""

_ABSENT_MS = 1000
_MAX_ABSENT = 4096


class State(Protocol):
    """What the rules must know of the entries already in the log."""

    def find_terms(self, terms: Mapping[str, str], *, limit: int | None = None) -> Sequence[int]:
        """The indices of entries that have all these index terms, ``limit`` of them at most."""
        ...

    def entry(self, index: int) -> bytes | None:
        """The leaf at an index."""
        ...


@dataclass(frozen=True, slots=True)
class AdmittedRoot:
    """A root under which this log accepts quotes, and where it gets collateral for them."""

    root: TrustedRoot
    provider: CollateralProvider


class EnclaveKeys:
    """Which keys are a registered enclave's.

    A registration lasts, so a yes is kept. A no is kept for a second, so that a publisher who signs a thousand times
    costs one look-up: an enclave signs nothing in the second in which it registers.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._absent_until_ms: dict[str, int] = {}
        self._present: set[str] = set()

    def has(self, signer_id: str, *, now_ms: int) -> bool:
        """Whether an enclave with this key is registered in the log."""
        if signer_id in self._present:
            return True
        if now_ms < self._absent_until_ms.get(signer_id, 0) <= now_ms + _ABSENT_MS:
            return False
        # Receipts bear the term too, but only a registered enclave has any.
        if self._state.find_terms({"enclave": signer_id}, limit=1):
            self._present.add(signer_id)
            return True
        if len(self._absent_until_ms) >= _MAX_ABSENT:
            self._absent_until_ms.clear()
        self._absent_until_ms[signer_id] = now_ms + _ABSENT_MS
        return False


class Admission:
    """The rules of one log.

    Args:
        origin: this log's; evidence that names another log is refused.
        kinds: the kinds that the operator admits.
        roots: for the quotes of ``enclave`` entries; with none, no enclave can register.
        publishers: product -> who may publish for it; None admits any signer.
        sigstore: pinned roots that certificates are judged by; None admits no certificate.
        state: the entries already in.
    """

    def __init__(
        self,
        *,
        origin: str,
        kinds: frozenset[str],
        roots: Sequence[AdmittedRoot],
        publishers: Mapping[str, Publishers] | None,
        state: State,
        sigstore: SigstoreRoots | None = None,
    ) -> None:
        self._origin = origin
        self._kinds = kinds
        self._roots = roots
        self._publishers = publishers
        self._sigstore = sigstore
        self._state = state
        self._enclaves = EnclaveKeys(state)

    def admit(self, data: bytes, *, now_ms: int) -> Admitted:
        """Parse and judge one submission; returns what to log.

        Raises:
            MalformedError: no entry that this log reads.
            UntrustedError, StaleError: a rule refuses it; the code names the rule.
            UnavailableError: its collateral cannot be had at the moment.
        """
        parsed = entry.parse_entry(data)
        kind = entry.kind_of(parsed)
        if kind not in self._kinds:
            raise UntrustedError(
                f"this log does not admit entries of kind {kind!r}", code="kind-not-admitted"
            )
        match parsed:
            case Attestation():
                return self._admit_attestation(parsed, now_ms=now_ms)
            case EnclaveSubmission():
                return self._admit_enclave(parsed, now_ms=now_ms)
            case ReceiptEntry():
                return self._admit_receipt(parsed)
            case HashedRekord():
                return self._admit_hashedrekord(parsed, now_ms=now_ms)
            case Registration():
                raise MalformedError(
                    "the appraisal of an enclave is the log's to add", code="appraisal-submitted"
                )
            case _:
                assert_never(parsed)

    def _admit_attestation(self, attestation: Attestation, *, now_ms: int) -> Admitted:
        judgement = None if self._sigstore is None else IdentityJudgement(self._sigstore, now_ms // 1000)
        admitted = admission.admit_attestation(attestation, publishers=self._publishers, judgement=judgement)
        for certificate in signers.certificates(attestation):
            self._refuse_enclave_key(p256.signer_id(certificate.spki), now_ms=now_ms)
        return admitted

    def _admit_enclave(self, submission: EnclaveSubmission, *, now_ms: int) -> Admitted:
        quote = sgx.parse_quote(submission.evidence.quote)
        certificate = pck.unverified_pck(quote)
        family = PlatformFamily(Tee.SGX, certificate.extension.fmspc, certificate.ca)
        refusal: UntrustedError | UnavailableError = UntrustedError(
            "this log admits quotes of no root", code="wrong-root"
        )
        for admitted in self._roots:
            try:
                # Nobody's self-made certificate makes us ask for collateral, or fills a cache.
                issuance.verify_pck_issued(quote.signature.certification_data, root=admitted.root)
                provided = admitted.provider.collateral(family, now_s=now_ms // 1000)
                return admission.admit_enclave(
                    submission,
                    origin=self._origin,
                    collateral=provided.collateral,
                    responses=provided.responses,
                    root=admitted.root,
                    now_ms=now_ms,
                )
            except UnavailableError as error:
                refusal = error
            except UntrustedError as error:
                if error.code not in _OTHER_ROOT:
                    raise
                refusal = error
        raise refusal

    def _admit_hashedrekord(self, rekord: HashedRekord, *, now_ms: int) -> Admitted:
        admitted = admission.admit_hashedrekord(rekord)
        (signer,) = (value for name, value in admitted.terms if name == "signer")
        self._refuse_enclave_key(signer, now_ms=now_ms)
        return admitted

    def _refuse_enclave_key(self, signer: str, *, now_ms: int) -> None:
        if self._enclaves.has(signer, now_ms=now_ms):
            raise UntrustedError(
                "the key is a registered enclave's, which signs nothing of this kind", code="enclave-key"
            )

    def _admit_receipt(self, receipt_entry: ReceiptEntry) -> Admitted:
        claims = receipt_entry.signed.receipt
        boot = {"kind": "enclave", "enclave": claims.enclave_id.hex(), "boot": claims.boot_id.hex()}
        for index in self._state.find_terms(boot):
            leaf = self._state.entry(index)
            if leaf is None or merkle.leaf_hash(leaf) != claims.registration:
                continue
            registration = entry.parse_entry(leaf)
            assert isinstance(registration, Registration), f"entry {index} is indexed as an enclave"
            return admission.admit_receipt(
                receipt_entry, registration=registration, registration_leaf=claims.registration
            )
        raise UntrustedError("no such boot of this enclave is registered in this log", code="unregistered")
