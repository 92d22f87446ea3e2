"""From when to when collateral says that it counts."""

from dataclasses import replace

import pytest

from assay.attest.quote.collateral import parse_collateral
from assay.attest.quote.collateral_dates import unverified_dates
from assay.attest.simulated.platform import SimulatedPlatform
from assay.tlog.errors import MalformedError

T = 1_760_000_000
DAY_S = 86_400
PLATFORM = SimulatedPlatform(bytes(range(32)), epoch_s=T)
COLLATERAL = PLATFORM.collateral(issued_s=T)


def test_every_part_has_its_dates_and_the_first_to_expire_counts():
    dates = unverified_dates(COLLATERAL)
    month = (T, T + 30 * DAY_S)
    assert dates.parts == {
        "pck_crl": month,
        "qe_identity": month,
        "root_ca_crl": (T, T + 365 * DAY_S),
        "tcb_info": month,
    }
    assert dates.expires_s == T + 30 * DAY_S
    assert not dates.is_expired(now_s=dates.expires_s - 1)
    assert dates.is_expired(now_s=dates.expires_s)


@pytest.mark.parametrize("part", ["tcb_info", "pck_crl", "root_ca_crl"])
def test_one_older_part_makes_a_set_older(part):
    earlier = PLATFORM.collateral(issued_s=T - 1)
    mixed = unverified_dates(replace(COLLATERAL, **{part: getattr(earlier, part)}))
    assert mixed.is_older_than(unverified_dates(COLLATERAL))
    assert not unverified_dates(COLLATERAL).is_older_than(mixed)
    assert not mixed.is_older_than(mixed)


def test_real_collateral_has_dates(vectors):
    real = parse_collateral((vectors / "quotes/sgx/phala_v3/collateral.json").read_bytes())
    dates = unverified_dates(real)
    assert all(part.issued_s < part.expires_s for part in dates.parts.values())


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[]", '"2025-01-01T00:00:00Z"', '{"issueDate":"2025-01-01T00:00:00Z"}',
        '{"issueDate":"2025-01-01T00:00:00Z","nextUpdate":null}',
        '{"issueDate":"2025-01-01T00:00:00Z","nextUpdate":1}',
        '{"issueDate":"2025-01-01T00:00:00Z","nextUpdate":"2025-02-30T00:00:00Z"}',
        '{"issueDate":"2025-01-01T00:00:00Z","nextUpdate":"2025-2-1T00:00:00Z"}',
        '{"issueDate":"2025-01-01T00:00:00Z","nextUpdate":"2025-02-01T00:00:00"}',
        '{"issueDate":"2025-01-01T00:00:00Z","nextUpdate":"2025-02-01T00:00:00+01:00"}',
    ],
)  # fmt: skip
def test_a_text_without_dates_is_refused(part, text):
    with pytest.raises(MalformedError) as caught:
        unverified_dates(replace(COLLATERAL, **{part: text}))
    assert caught.value.code == "malformed-collateral"


@pytest.mark.parametrize("part", ["pck_crl", "root_ca_crl"])
def test_a_crl_without_dates_is_refused(part):
    with pytest.raises(MalformedError):
        unverified_dates(replace(COLLATERAL, **{part: b"no CRL"}))
