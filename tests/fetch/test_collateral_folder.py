"""A folder of collateral, one file a family."""

from dataclasses import replace

import pytest

from assay.attest.measurement import Tee
from assay.attest.quote.collateral import MAX_COLLATERAL_SIZE, format_collateral
from assay.attest.quote.pck import PckCa
from assay.attest.simulated.platform import SimulatedPlatform
from assay.fetch.collateral import PlatformFamily
from assay.fetch.collateral_folder import CollateralFolder
from assay.tlog.errors import UnavailableError

T = 1_760_000_000
PLATFORM = SimulatedPlatform(bytes(32), epoch_s=T)
SGX = PlatformFamily(Tee.SGX, PLATFORM.fmspc, PckCa.PLATFORM)
TDX = replace(SGX, tee=Tee.TDX)


def ask(folder, family=SGX):
    return CollateralFolder(folder).collateral(family, now_s=T)


def refused(folder, code, family=SGX):
    with pytest.raises(UnavailableError) as caught:
        ask(folder, family)
    assert caught.value.code == code


def write(path, *, issued_s=T):
    path.write_bytes(format_collateral(PLATFORM.collateral(issued_s=issued_s)))


def test_each_tee_has_a_file_of_its_own(tmp_path):
    write(tmp_path / "51d000000001.json")
    write(tmp_path / "51d000000001-tdx.json", issued_s=T + 1)
    assert ask(tmp_path).collateral == PLATFORM.collateral(issued_s=T)
    assert ask(tmp_path, TDX).collateral == PLATFORM.collateral(issued_s=T + 1)
    assert ask(tmp_path).responses is None


def test_a_renewed_file_counts_at_once(tmp_path):
    for issued_s in (T, T + 1):
        write(tmp_path / "51d000000001.json", issued_s=issued_s)
        assert ask(tmp_path).collateral == PLATFORM.collateral(issued_s=issued_s)


@pytest.mark.parametrize(
    "name", ["51D000000001.json", "51d000000001", "51d000000001-tdx.json", "00906ea10000.json"]
)
def test_another_file_is_not_it(tmp_path, name):
    write(tmp_path / name)
    refused(tmp_path, "no-collateral")


def test_sgx_collateral_does_not_stand_in_for_tdx(tmp_path):
    write(tmp_path / "51d000000001.json")
    refused(tmp_path, "no-collateral", TDX)


def test_a_folder_in_its_place_is_not_it(tmp_path):
    (tmp_path / "51d000000001.json").mkdir()
    refused(tmp_path, "no-collateral")
    refused(tmp_path / "nowhere", "no-collateral")


@pytest.mark.parametrize("data", [b"", b"{}", b"garbage", b" " * (MAX_COLLATERAL_SIZE + 1)])
def test_a_file_that_is_no_collateral_is_the_folder_s_fault(tmp_path, data):
    (tmp_path / "51d000000001.json").write_bytes(data)
    refused(tmp_path, "bad-collateral")
