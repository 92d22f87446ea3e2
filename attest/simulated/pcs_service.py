"""Intel's provisioning service (PCS v4, PCCS) of a simulated platform: a request's target in, an answer out.

No socket and no clock here. What it serves is as worthless as the platform: everything is signed under a root
that says SIMULATION - NOT INTEL.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from assay.attest.measurement import Tee
from assay.attest.quote.collateral import Collateral
from assay.attest.quote.pck import PckCa
from assay.attest.simulated.pcs import EVALUATION_NUMBER
from assay.attest.simulated.platform import HEALTHY, SimulatedPlatform, Variant

ROOT_CRL_PATH = "/IntelSGXRootCA.der"
"""Where Intel's other host has the root's CRL; PCS itself has it not, a PCCS has it as ``rootcacrl``."""

_PATH = re.compile(r"/(sgx|tdx)/certification/v4/(tcb|qe/identity|pckcrl|rootcacrl)")
_MEMBER = re.compile(r"([A-Za-z]{1,32})=([A-Za-z0-9]{1,32})")
_UNRESERVED = re.compile(rb"[^A-Za-z0-9._~-]")
_JSON, _CRL, _TEXT = "application/json", "application/pkix-crl", "text/plain"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


class SimulatedPcs:
    """The service of the platforms that a seed is.

    Args:
        seed: of the platform.
        epoch_s: of the platform.
        variant: how it differs from a healthy one.
        early: the variant whose TCB data ``update=early`` gives; None: no other than the standard's.

    Raises:
        MalformedError: a seed of another size.
    """

    def __init__(
        self, seed: bytes, *, epoch_s: int, variant: Variant = HEALTHY, early: Variant | None = None
    ) -> None:
        self._standard = _by_ca(seed, epoch_s, variant)
        self._early = self._standard if early is None else _by_ca(seed, epoch_s, early)

    def answer(self, target: str, *, issued_s: int) -> Answer:
        """Answer a GET.

        Args:
            target: path and query.
            issued_s: when everything in the answer was issued, Unix seconds.
        """
        path, _, query_text = target.partition("?")
        if path == ROOT_CRL_PATH:
            return Answer(200, {"Content-Type": _CRL}, self._any(issued_s).root_ca_crl)
        asked = _PATH.fullmatch(path)
        query = _parse_query(query_text)
        if asked is None or query is None:
            return Answer(404 if asked is None else 400)
        return self._routes()[asked[2]](Tee(asked[1]), query, issued_s)

    def _routes(self) -> Mapping[str, Callable[[Tee, dict[str, str], int], Answer]]:
        return {
            "tcb": self._tcb_info,
            "qe/identity": self._qe_identity,
            "pckcrl": self._pck_crl,
            "rootcacrl": self._root_crl,
        }

    def _tcb_info(self, tee: Tee, query: dict[str, str], issued_s: int) -> Answer:
        fmspc = query.pop("fmspc", "").lower()
        if fmspc != self._standard[PckCa.PLATFORM].fmspc.hex():
            return Answer(404 if len(fmspc) == 12 else 400)
        found = self._collateral(tee, query, issued_s)
        if isinstance(found, Answer):
            return found
        headers = {"TCB-Info-Issuer-Chain": percent_encoded(found.tcb_info_issuer_chain)}
        return _signed("tcbInfo", found.tcb_info, found.tcb_info_signature, headers)

    def _qe_identity(self, tee: Tee, query: dict[str, str], issued_s: int) -> Answer:
        found = self._collateral(tee, query, issued_s)
        if isinstance(found, Answer):
            return found
        headers = {"SGX-Enclave-Identity-Issuer-Chain": percent_encoded(found.qe_identity_issuer_chain)}
        return _signed("enclaveIdentity", found.qe_identity, found.qe_identity_signature, headers)

    def _pck_crl(self, tee: Tee, query: dict[str, str], issued_s: int) -> Answer:
        ca, encoding = query.pop("ca", ""), query.pop("encoding", "der")
        if tee is not Tee.SGX or query or ca not in list(PckCa) or encoding != "der":
            return Answer(400)
        found = self._standard[PckCa(ca)].collateral(issued_s=issued_s)
        headers = {"SGX-PCK-CRL-Issuer-Chain": percent_encoded(found.pck_crl_issuer_chain)}
        return Answer(200, {"Content-Type": _CRL, **headers}, found.pck_crl)

    def _root_crl(self, tee: Tee, query: dict[str, str], issued_s: int) -> Answer:
        if tee is not Tee.SGX or query:
            return Answer(400)
        return Answer(200, {"Content-Type": _TEXT}, self._any(issued_s).root_ca_crl.hex().encode())

    def _collateral(self, tee: Tee, query: dict[str, str], issued_s: int) -> Collateral | Answer:
        """What the choice of TCB data in the query stands for."""
        update, number = query.pop("update", None), query.pop("tcbEvaluationDataNumber", None)
        if query or update not in (None, "early", "standard") or (update and number):
            return Answer(400)
        if number is not None and number != str(EVALUATION_NUMBER):
            known = number.isascii() and number.isdigit()
            return Answer(410 if known and int(number) < EVALUATION_NUMBER else 404)
        platforms = self._early if update == "early" else self._standard
        return platforms[PckCa.PLATFORM].collateral(issued_s=issued_s, tee=tee)

    def _any(self, issued_s: int) -> Collateral:
        return self._standard[PckCa.PLATFORM].collateral(issued_s=issued_s)


def percent_encoded(text: str) -> str:
    """Percent-encode everything but RFC 3986's unreserved characters, as Intel does with PEM in headers."""
    return _UNRESERVED.sub(lambda byte: b"%%%02X" % byte[0][0], text.encode()).decode("ascii")


def _by_ca(seed: bytes, epoch_s: int, variant: Variant) -> dict[PckCa, SimulatedPlatform]:
    return {ca: SimulatedPlatform(seed, epoch_s=epoch_s, variant=replace(variant, ca=ca)) for ca in PckCa}


def _signed(member: str, text: str, signature: bytes, headers: Mapping[str, str]) -> Answer:
    body = f'{{"{member}":{text},"signature":"{signature.hex()}"}}'.encode()
    return Answer(200, {"Content-Type": _JSON, **headers}, body)


def _parse_query(text: str) -> dict[str, str] | None:
    """Name -> value; None for a query with a name twice, or with anything but letters and digits."""
    members = [_MEMBER.fullmatch(part) for part in text.split("&")] if text else []
    found = {member[1]: member[2] for member in members if member}
    return found if len(found) == len(members) else None
