"""Collateral from Intel's provisioning certification service (PCS v4), or from a cache with its API (PCCS, THIM)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlencode, urlsplit

from cryptography import x509

from assay.attest import jcs
from assay.attest.measurement import Tee
from assay.attest.quote.collateral import Collateral
from assay.attest.quote.pcs_response import (
    KEPT_HEADERS,
    MAX_BODY_SIZE,
    MAX_URL_SIZE,
    PcsResponse,
    PcsResponses,
    assemble_collateral,
)
from assay.fetch.collateral import PlatformFamily, ProvidedCollateral
from assay.fetch.patient import Patience, PatientClient
from assay.tlog.errors import MalformedError, UnavailableError

INTEL_PCS_URL = "https://api.trustedservices.intel.com"
INTEL_ROOT_CRL_URL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
"""Where Intel publishes its root's CRL: PCS itself does not have it."""
THIM_PCK_CRL_URL = "https://global.acccache.azure.net/sgx/certification/v4/pckcrl"
"""Azure's cache of PCK CRLs, for networks that reach Azure only."""

_THIM_QUERY = {"clientid": "production_client", "api-version": "2018-10-01-preview"}
_TEE_IDS = {Tee.SGX: "SGX", Tee.TDX: "TDX"}


class Update(StrEnum):
    """Which TCB data: Intel's newest (``early``), or those that it holds everyone to (``standard``)."""

    EARLY = "early"
    STANDARD = "standard"


@dataclass(frozen=True, slots=True)
class PcsPlaces:
    """Where the four answers come from.

    Attributes:
        pcs_url: base of the service, without ``/sgx/certification/v4``.
        root_crl_url: of the root's CRL; None asks the service for ``rootcacrl``, which a PCCS has.
        thim_url: of Azure's PCK CRLs, instead of the service's. TCB info and QE identity never come from there:
            what it has of them is old, often past its next update.
    """

    pcs_url: str
    root_crl_url: str | None = None
    thim_url: str | None = None

    def __post_init__(self) -> None:
        """Refuse what would only fail at the first quote.

        Raises:
            MalformedError: no plain http or https URL (code ``url``).
        """
        for url in (self.pcs_url, self.root_crl_url, self.thim_url):
            if url is not None:
                _require_plain(url)
        if "/certification/v" in self.pcs_url:
            raise MalformedError(
                f"{self.pcs_url!r}: the part from /sgx/certification on is not given", code="url"
            )

    def root_crl(self) -> str:
        """The root's CRL."""
        return self.root_crl_url or f"{self._base(Tee.SGX)}/rootcacrl"

    def pck_crl(self, family: PlatformFamily) -> str:
        """The CRL of the CA that certifies the family's platforms, as DER."""
        query = {"ca": str(family.ca), "encoding": "der"}
        if self.thim_url is not None:
            return f"{self.thim_url}?{urlencode(query | _THIM_QUERY)}"
        return f"{self._base(Tee.SGX)}/pckcrl?{urlencode(query)}"

    def tcb_info(self, family: PlatformFamily, release: Mapping[str, str]) -> str:
        """The family's TCB info."""
        return f"{self._base(family.tee)}/tcb?{urlencode({'fmspc': family.fmspc.hex().upper(), **release})}"

    def qe_identity(self, family: PlatformFamily, release: Mapping[str, str]) -> str:
        """The identity of the TEE's quoting enclave."""
        query = f"?{urlencode(release)}" if release else ""
        return f"{self._base(family.tee)}/qe/identity{query}"

    def _base(self, tee: Tee) -> str:
        return f"{self.pcs_url.rstrip('/')}/{tee}/certification/v4"


@dataclass(frozen=True, slots=True)
class IntelPcs:
    """Intel's service or one with its API. Asks anew each time: a cache belongs in front.

    Attributes:
        places: where to ask.
        update: which TCB data; None leaves it to the service, whose default is ``standard``.
        tcb_evaluation_number: TCB data of exactly this number; Intel withdraws old ones.
        patience: how long to try.

    Raises:
        ValueError: ``update`` and ``tcb_evaluation_number`` together, of which the service takes one.
    """

    places: PcsPlaces
    update: Update | None = None
    tcb_evaluation_number: int | None = None
    patience: Patience = field(default=Patience())

    def __post_init__(self) -> None:
        """See the class."""
        if self.update is not None and self.tcb_evaluation_number is not None:
            raise ValueError("update and tcb_evaluation_number exclude each other")

    def collateral(self, family: PlatformFamily, *, now_s: int) -> ProvidedCollateral:
        """Ask for all four; see :class:`CollateralProvider`."""
        client = self.patience.begin()
        release = self._release()
        try:
            responses = PcsResponses(
                tcb_info=_get(client, self.places.tcb_info(family, release), family),
                qe_identity=_get(client, self.places.qe_identity(family, release), family),
                pck_crl=_get(client, self.places.pck_crl(family), family),
                root_ca_crl=_get(client, self.places.root_crl(), family),
            )
            collateral = assemble_collateral(responses)
            _require_asked_for(collateral, family)
        except MalformedError as error:
            raise UnavailableError(f"{self.places.pcs_url}: {error}", code="bad-collateral") from error
        return ProvidedCollateral(collateral, responses, fetched_at_s=now_s)

    def _release(self) -> dict[str, str]:
        if self.tcb_evaluation_number is not None:
            return {"tcbEvaluationDataNumber": str(self.tcb_evaluation_number)}
        return {} if self.update is None else {"update": str(self.update)}


def _get(client: PatientClient, url: str, family: PlatformFamily) -> PcsResponse:
    response = client.get(url, max_bytes=MAX_BODY_SIZE)
    if response.status == 404:
        raise UnavailableError(f"{url}: nothing for {family}", code="no-collateral")
    if response.status == 410:
        raise UnavailableError(f"{url}: withdrawn", code="collateral-withdrawn")
    if response.status != 200:
        raise UnavailableError(f"{url}: HTTP {response.status}", code="collateral-source")
    kept = {name: value for name, value in response.headers.items() if name in KEPT_HEADERS}
    return PcsResponse(url, kept, response.body)


def _require_asked_for(collateral: Collateral, family: PlatformFamily) -> None:
    """The answers are for this family: a service that mixes them up must not fill a cache.

    Raises:
        MalformedError: they are for another.
    """
    info = _object(collateral.tcb_info, "TCB info")
    fmspc = info.get("fmspc")
    if (
        info.get("id") != _TEE_IDS[family.tee]
        or not isinstance(fmspc, str)
        or fmspc.lower() != family.fmspc.hex()
    ):
        raise MalformedError(f"the TCB info is not of {family}")
    qe_id = "TD_QE" if family.tee is Tee.TDX else "QE"
    if _object(collateral.qe_identity, "QE identity").get("id") != qe_id:
        raise MalformedError(f"the QE identity is not of {family}")
    issuer = x509.load_der_x509_crl(collateral.pck_crl).issuer
    names = [str(name.value) for name in issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    if len(names) != 1 or family.ca.capitalize() not in names[0]:
        raise MalformedError(f"the PCK CRL is not of the {family.ca} CA")


def _object(text: str, what: str) -> dict[str, Any]:
    value = jcs.parse_json(text.encode(), what=what, max_bytes=MAX_BODY_SIZE)
    assert isinstance(value, dict), "only an object is cut out of an answer"
    return value


def _require_plain(url: str) -> None:
    """The URL goes into a public archive: no credentials, nothing after the path, and room for a query."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise MalformedError(f"{url[:200]!r} is not a URL", code="url") from error
    odd = (
        parts.username is not None
        or parts.query
        or parts.fragment
        or port == 0
        or len(url) > MAX_URL_SIZE // 2
    )
    if parts.scheme not in ("http", "https") or not parts.hostname or odd:
        raise MalformedError(f"{url[:200]!r} is not a plain http or https URL", code="url")
