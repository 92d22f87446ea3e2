"""The simulated device's provisioning service: other people's tools fetch from it, and what they fetch verifies."""

import asyncio
import json
import threading
import time

import dcap_qvl
import pytest
from click.testing import CliRunner

from assay.attest.quote.collateral import parse_collateral
from assay.attest.quote.tdx import TdBody
from assay.attest.quote.verify import verify_quote, verify_sgx_quote
from assay.attest.roots import TrustedRoot
from assay.enclave import simulated_device
from assay.enclave.cli import enclave
from assay.enclave.simulated_device import create_device, open_pcs, open_platform
from assay.enclave.simulated_pcs import PcsServer
from assay.fetch import http
from assay.tlog.errors import MalformedError

NOW_S = int(time.time())


@pytest.fixture
def device(tmp_path):
    create_device(tmp_path / "device", now_s=NOW_S)
    return tmp_path / "device"


@pytest.fixture
def url(device):
    with PcsServer(("127.0.0.1", 0), open_pcs(device)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def quote_of(platform):
    report = platform.report(
        mr_enclave=bytes(32), mr_signer=bytes(32), isv_prod_id=1, isv_svn=1, report_data=bytes(64)
    )
    return platform.quote(report)


def test_another_implementation_fetches_from_it_and_the_result_verifies(device, url):
    platform = open_platform(device)
    quote = quote_of(platform)

    async def fetch():
        return await dcap_qvl.get_collateral(url, quote)

    fetched = asyncio.run(fetch())
    report = dcap_qvl.verify_with_root_ca(quote, fetched, platform.root_der, NOW_S)
    assert report.status == "UpToDate"
    collateral = parse_collateral(fetched.to_json().encode())
    verified = verify_sgx_quote(quote, collateral, root=TrustedRoot("device", platform.root_der), now_s=NOW_S)
    assert verified.platform == "simulated"
    answer = http.request("GET", f"{url}/sgx/certification/v4/qe/identity", timeout_s=5, max_bytes=100_000)
    assert json.loads(answer.body)["enclaveIdentity"] == json.loads(collateral.qe_identity)
    assert collateral.qe_identity.encode() in answer.body


def test_another_implementation_fetches_tdx_collateral_too(device, url):
    platform = open_platform(device)
    quote = platform.td_quote(TdBody(platform.td_report(mr_td=bytes(48), report_data=bytes(64))))

    async def fetch():
        return await dcap_qvl.get_collateral(url, quote)

    fetched = asyncio.run(fetch())
    assert dcap_qvl.verify_with_root_ca(quote, fetched, platform.root_der, NOW_S).status == "UpToDate"
    collateral = parse_collateral(fetched.to_json().encode())
    root = TrustedRoot("device", platform.root_der)
    assert verify_quote(quote, collateral, root=root, now_s=NOW_S).tcb_status == "UpToDate"


def test_the_answers_of_one_day_are_the_same(url):
    first, second = (
        http.request("GET", f"{url}/sgx/certification/v4/rootcacrl", timeout_s=5, max_bytes=100_000).body
        for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("path", ["/", "/sgx/certification/v4/tcb?fmspc=00906EA10000"])
def test_what_it_has_not_is_404(url, path):
    assert http.request("GET", url + path, timeout_s=5, max_bytes=100).status == 404


def test_nothing_but_get_is_answered(url):
    assert http.request("POST", url + "/", timeout_s=5, max_bytes=10_000, body=b"x").status == 501


def test_a_folder_that_is_no_device_has_no_service(tmp_path, device):
    with pytest.raises(FileNotFoundError):
        open_pcs(tmp_path)
    (device / "seed").write_bytes(b"short")
    with pytest.raises(MalformedError):
        open_pcs(device)
    assert simulated_device.SEED_SIZE == 32


@pytest.mark.parametrize("listen", ["nowhere", "127.0.0.1:", "127.0.0.1:x", ":80", "127.0.0.1:99999"])
def test_an_address_is_host_and_port(device, listen):
    result = CliRunner().invoke(enclave, ["simulated-pcs", str(device), "--listen", listen])
    assert result.exit_code == 2
    assert "HOST:PORT" in result.output
