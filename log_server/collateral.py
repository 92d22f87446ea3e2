"""Where a log gets collateral for the quotes of one root, as its configuration says; what to warn of goes to the log."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog

from assay.attest.quote.collateral import Collateral
from assay.attest.quote.collateral_dates import unverified_dates
from assay.attest.quote.issuance import verify_collateral_issued
from assay.attest.roots import TrustedRoot
from assay.fetch.collateral import CollateralProvider, CollateralWarning, PlatformFamily, ProvidedCollateral
from assay.fetch.collateral_cache import CacheTimes, CachingProvider
from assay.fetch.collateral_folder import CollateralFolder
from assay.fetch.patient import Patience
from assay.fetch.pcs import IntelPcs, PcsPlaces, Update
from assay.log_server import metrics
from assay.log_server.config import PcsSection, RootSection

_log = structlog.get_logger("collateral")

_REPEAT_S = 6 * 3600
_MAX_REMEMBERED = 4096


class WarningProvider:
    """A provider whose warnings are written down, each again after six hours at the earliest; its dates are a metric."""

    def __init__(self, source: CollateralProvider, *, root_name: str) -> None:
        self._source = source
        self._root_name = root_name
        self._lock = threading.Lock()
        self._told_s: dict[tuple[PlatformFamily, str, str], int] = {}

    def collateral(self, family: PlatformFamily, *, now_s: int) -> ProvidedCollateral:
        """As the source; see :class:`CollateralProvider`."""
        provided = self._source.collateral(family, now_s=now_s)
        expires_s = unverified_dates(provided.collateral).expires_s
        metrics.collateral_used(
            self._root_name, tee=str(family.tee), fmspc=family.fmspc.hex(), expires_s=expires_s
        )
        for warning in provided.warnings:
            if self._is_news(family, warning, now_s=now_s):
                _log.warning(warning.code, root=self._root_name, detail=warning.text)
        return provided

    def _is_news(self, family: PlatformFamily, warning: CollateralWarning, *, now_s: int) -> bool:
        key = (family, warning.code, warning.subject)
        with self._lock:
            told_s = self._told_s.get(key)
            if told_s is not None and told_s <= now_s < told_s + _REPEAT_S:
                return False
            if len(self._told_s) >= _MAX_REMEMBERED:
                self._told_s.clear()
            self._told_s[key] = now_s
            return True


def open_provider(section: RootSection, *, root: TrustedRoot, folder: Path) -> CollateralProvider:
    """The provider that a root's section names.

    Raises:
        MalformedError: an unusable URL (code ``url``).
    """
    if section.pcs is not None:
        cache = _cached_pcs(section.pcs, verify=partial(verify_collateral_issued, root=root))
        return WarningProvider(cache, root_name=section.name)
    assert section.collateral is not None, "the configuration has one of the two"
    return CollateralFolder(folder / section.collateral)


def _cached_pcs(section: PcsSection, *, verify: Callable[[Collateral], object]) -> CachingProvider:
    places = PcsPlaces(section.url, root_crl_url=section.root_crl, thim_url=section.thim)
    patience = Patience(deadline_s=section.timeout_s)
    return CachingProvider(
        IntelPcs(
            places,
            update=None if section.update is None else Update(section.update),
            tcb_evaluation_number=section.tcb_evaluation_number,
            patience=patience,
        ),
        verify=verify,
        times=CacheTimes(max_age_s=section.max_age_s, warn_before_s=section.warn_before_s),
        early=IntelPcs(places, update=Update.EARLY, patience=patience) if section.watch_early else None,
    )
