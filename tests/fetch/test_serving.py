"""Addresses: one spelling, and never shared with somebody who listens already."""

import socket

import pytest

from assay.fetch import serving
from assay.tlog.errors import MalformedError, UnavailableError


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:8080", ("::1", 8080)), ("localhost:0", ("localhost", 0))],
)
def test_addresses_are_read(text, address):
    assert serving.parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":", "host", "host:", ":80", "host:x", "host:65536", "host:-1", "host:8 0", "h:٣"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(MalformedError) as refused:
        serving.parse_address(text)
    assert refused.value.code == "address"


def test_a_port_that_is_in_use_is_refused_even_if_its_owner_would_share_it():
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UnavailableError) as refused:
            serving.serve_wsgi("nothing:here", listen=f"127.0.0.1:{taken.getsockname()[1]}", threads=1)
        assert refused.value.code == "address"
