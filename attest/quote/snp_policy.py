"""What a relying party asks of a SEV-SNP platform beyond a report that verifies."""

from collections.abc import Mapping
from dataclasses import dataclass

from assay.attest.quote.snp import SnpProduct, SnpTcb
from assay.attest.quote.verify_snp import Revocation, VerifiedSnpReport
from assay.tlog.errors import MalformedError, UntrustedError


@dataclass(frozen=True, slots=True)
class SnpPolicy:
    """The least that is good enough; nothing has a default. Which measurement is right is the caller's to say.

    Attributes:
        minimum_tcb: per product; a product that is not here is refused. Reported and launch TCB version must
            reach it in every component: memory that old firmware exposed at launch stays exposed.
        vmpls: the privilege levels that may speak for the guest, 0 to 3.
        allow_migration_agent: whether the guest's owner may have allowed to move it to other machines.
        require_revocation: whether a revocation list must have been checked.
    """

    minimum_tcb: Mapping[SnpProduct, SnpTcb]
    vmpls: frozenset[int]
    allow_migration_agent: bool
    require_revocation: bool

    def __post_init__(self) -> None:
        """Refuse what would accept nothing, or compare components that a product has not.

        Raises:
            MalformedError: no product, no level, a level out of 0 to 3, or an FMC version for a product
                without one (or none for one with it).
        """
        if not self.minimum_tcb or not self.vmpls or not self.vmpls <= {0, 1, 2, 3}:
            raise MalformedError("SNP policy: no product, or no privilege level of 0 to 3")
        for product, tcb in self.minimum_tcb.items():
            if (tcb.fmc is not None) != (product is SnpProduct.TURIN):
                raise MalformedError(f"SNP policy: the TCB version is not of {product}")


def judge_snp(verified: VerifiedSnpReport, policy: SnpPolicy) -> VerifiedSnpReport:
    """Hold a verified report against a policy and return it.

    Raises:
        UntrustedError: codes ``tcb-unsupported`` (a product without a minimum), ``tcb-too-low``, ``vmpl``,
            ``migration-agent``, ``missing-crl``.
    """
    minimum = policy.minimum_tcb.get(verified.product)
    if minimum is None:
        raise UntrustedError(f"the policy says nothing of {verified.product}", code="tcb-unsupported")
    for name, tcb in (("reported", verified.reported_tcb), ("launch", verified.launch_tcb)):
        if not all(has >= needs for has, needs in zip(tcb.components, minimum.components, strict=True)):
            raise UntrustedError(f"the {name} TCB version is below the policy's minimum", code="tcb-too-low")
    if verified.report.vmpl not in policy.vmpls:
        raise UntrustedError(f"VMPL {verified.report.vmpl} may not speak for the guest", code="vmpl")
    if verified.report.migration_agent and not policy.allow_migration_agent:
        raise UntrustedError("the guest may be migrated by an agent", code="migration-agent")
    if policy.require_revocation and verified.revocation is not Revocation.CHECKED:
        raise UntrustedError("no revocation list was checked", code="missing-crl")
    return verified
