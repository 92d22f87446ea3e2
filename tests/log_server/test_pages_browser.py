"""The pages in a real browser, without scripts: light, dark, narrow, and nothing but our own style loaded."""

import threading
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest

from assay.log_server.app import create_app

CHROMIUM = Path("/usr/bin/chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not CHROMIUM.exists(), reason="Chromium is not installed (Debian: apt-get install chromium)"
    ),
]


class Quiet(WSGIRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def address(make_log, entry_maker):
    log = make_log(witnesses=1)
    service = log.open()
    for number in range(3):
        service.submit(entry_maker(number), witnessed=True)
    server = make_server("127.0.0.1", 0, create_app(service), WSGIServer, Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1100, 360])
def test_pages_fit_load_nothing_foreign_and_complain_of_nothing(address, scheme, width):
    from playwright.sync_api import sync_playwright

    complaints, requests = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), chromium_sandbox=False)
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=True
        )
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        for path in ("/", "/entry/0", "/checkpoints", "/?kind=attestation"):
            assert page.goto(address + path).status == 200
            overflow = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert overflow <= 0, f"{path} is {overflow} pixels too wide"
            assert page.locator("h1").count() == 1
        browser.close()
    assert complaints == []
    assert all(url.startswith(address) for url in requests)


def test_an_entry_is_reached_from_the_list_and_its_proof_downloads(address):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), chromium_sandbox=False)
        page = browser.new_context(java_script_enabled=False).new_page()
        page.goto(address)
        page.get_by_role("link", name="provenance").first.click()
        page.wait_for_url("**/entry/*")  # and until it is loaded
        assert "which the witnesses cosigned" in page.content()
        with page.expect_download() as download:
            page.get_by_role("link", name="Download the .tlog-proof").click()
        assert Path(download.value.path()).read_bytes().startswith(b"c2sp.org/tlog-proof@v1\n")
        browser.close()
