"""Policy on verified quotes: which states of a platform are good enough, and which enclaves are meant.

Verification (``verify``) says what a quote proves; here a caller's rules are held against it. Nothing has a
trusting default: what is not accepted is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from assay.attest.measurement import Measurement
from assay.attest.quote.tcb import TcbStatus
from assay.attest.quote.verify import VerifiedQuote, VerifiedSgxQuote
from assay.tlog.errors import UntrustedError


@dataclass(frozen=True, slots=True)
class TcbPolicy:
    """Which platforms are good enough.

    Attributes:
        statuses: acceptable states.
        min_evaluation_number: the lowest acceptable TCB evaluation data number.
        advisories: measurement -> the advisories that are acceptable for it; none for any other. An advisory
            is a fault of the hardware that this very code is known to be safe from.
    """

    statuses: frozenset[TcbStatus]
    min_evaluation_number: int
    advisories: Mapping[Measurement, frozenset[str]]


@dataclass(frozen=True, slots=True)
class IdentityPolicy:
    """Which enclaves or TDs are meant; None leaves a member open.

    ``mr_signers``, ``isv_prod_id`` and ``min_isv_svn`` are SGX's: with one of them no TD is meant.
    """

    measurements: frozenset[Measurement] | None = None
    mr_signers: frozenset[bytes] | None = None
    isv_prod_id: int | None = None
    min_isv_svn: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether any enclave is meant."""
        return self == IdentityPolicy()


def require_tcb(quote: VerifiedQuote, policy: TcbPolicy) -> None:
    """Refuse a platform that is not good enough.

    Raises:
        UntrustedError: a status (code ``tcb-status``) or an advisory (``tcb-advisories``) that the policy does
            not accept, or TCB data that are too old (``tcb-evaluation``).
    """
    if quote.tcb_status not in policy.statuses:
        raise UntrustedError(f"the policy does not accept {quote.tcb_status}", code="tcb-status")
    if quote.evaluation_number < policy.min_evaluation_number:
        raise UntrustedError(
            f"evaluation number {quote.evaluation_number} is below {policy.min_evaluation_number}",
            code="tcb-evaluation",
        )
    accepted = policy.advisories.get(quote.measurement, frozenset())
    if open_advisories := sorted(set(quote.advisories) - accepted):
        raise UntrustedError(
            f"the policy does not accept {', '.join(open_advisories)} for this measurement",
            code="tcb-advisories",
        )


def require_identity(quote: VerifiedQuote, policy: IdentityPolicy) -> None:
    """Refuse another enclave or TD than is meant.

    Raises:
        UntrustedError: another measurement (code ``measurement``), signer (``mr-signer``) or product
            (``isv-prod-id``), or too old a version of it (``isv-svn``).
    """
    if policy.measurements is not None and quote.measurement not in policy.measurements:
        raise UntrustedError(
            f"the policy does not name the measurement {quote.measurement.value.hex()}", code="measurement"
        )
    sgx = quote if isinstance(quote, VerifiedSgxQuote) else None
    if policy.mr_signers is not None and (sgx is None or sgx.mr_signer not in policy.mr_signers):
        raise UntrustedError("the policy does not name this MRSIGNER", code="mr-signer")
    if policy.isv_prod_id is not None and (sgx is None or sgx.isv_prod_id != policy.isv_prod_id):
        raise UntrustedError(f"not the signer's product {policy.isv_prod_id}", code="isv-prod-id")
    if policy.min_isv_svn is not None and (sgx is None or sgx.isv_svn < policy.min_isv_svn):
        raise UntrustedError(f"ISVSVN is below {policy.min_isv_svn}", code="isv-svn")


def require_report_data(quote: VerifiedQuote, expected: bytes) -> None:
    """Refuse a quote that binds something else: all 64 bytes count.

    Raises:
        UntrustedError: other bytes (code ``report-data``).
    """
    if quote.report_data != expected:
        raise UntrustedError(f"report_data is {quote.report_data.hex()}", code="report-data")
