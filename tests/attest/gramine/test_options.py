"""Options that decide the layout: one spelling, and nothing that Gramine's signer or loader refuses."""

import pytest

from assay.attest.gramine.options import MAX_MANIFEST_SIZE, EnclaveOptions, parse_manifest, parse_options
from assay.tlog.errors import MalformedError


def sgx(**members):
    lines = {"enclave_size": '"256M"', "max_threads": "4", "edmm_enable": "false"} | members
    return ("[sgx]\n" + "".join(f"{k} = {v}\n" for k, v in lines.items() if v is not None)).encode()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1 << 20),
        ("64K", 1 << 16),
        ("256M", 1 << 28),
        ("1G", 1 << 30),
        ("1024G", 1 << 40),
        ("1048576M", 1 << 40),
    ],
)
def test_sizes_in_the_form_that_both_sides_share(text, size):
    assert parse_options(sgx(enclave_size=f'"{text}"')) == EnclaveOptions(size, 4, edmm=False)


@pytest.mark.parametrize(
    "text",
    [
        '"64m"',
        '"1g"',
        '"96M"',
        '"0x4000000"',
        '"0M"',
        '"0"',
        '"064M"',
        '" 64M"',
        '"64M "',
        '"64 M"',
        '"+64M"',
        '"6_4M"',
        '"64MB"',
        '"64T"',
        '"2048G"',
        '"-1G"',
        '""',
        '"M"',
        '"٦٤M"',
        '"64M\\n"',
        "67108864",
        "64.0",
        "true",
        None,
        '"9999999999999999999G"',
        '"8796093022208G"',
    ],
)
def test_sizes_that_signer_or_loader_refuses_are_refused(text):
    with pytest.raises(MalformedError):
        parse_options(sgx(enclave_size=text))


@pytest.mark.parametrize("threads", ["1", "4096"])
def test_thread_counts_within_bounds(threads):
    assert parse_options(sgx(max_threads=threads)).max_threads == int(threads)


@pytest.mark.parametrize("threads", ["0", "-1", "4097", "true", '"4"', "4.0", None])
def test_other_thread_counts_are_refused(threads):
    with pytest.raises(MalformedError):
        parse_options(sgx(max_threads=threads))


@pytest.mark.parametrize("edmm", ['"true"', "1", "[]"])
def test_edmm_is_a_boolean(edmm):
    with pytest.raises(MalformedError):
        parse_options(sgx(edmm_enable=edmm))


def test_absent_edmm_is_off():
    assert not parse_options(sgx(edmm_enable=None)).edmm


@pytest.mark.parametrize("value", ["true", '"no"', "1"])
def test_statistics_need_a_debug_build_and_are_refused(value):
    with pytest.raises(MalformedError):
        parse_options(sgx(enable_stats=value))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"sgx = 1\n",
        b"[other]\n",
        sgx() + b"\0",
        sgx() + b"\xff",
        b"\xef\xbb\xbf" + sgx(),
        sgx() + b"[sgx]\n",
        sgx() + b"enclave_size = '1G'\n",
        sgx() + b"x = 1.5\n",
        sgx() + b"x = [[{ y = 2024-01-01 }]]\n",
        sgx() + b"x = nan\n",
        sgx() + b"x = 07:32:00\n",
        sgx() + b"x = " + b"[" * 5000 + b"]" * 5000 + b"\n",
        sgx() + b"x = " + b"1" * 5000 + b"\n",
        sgx() + b"x = 'open\n",
        sgx() + b"x = 1\r",
    ],
    ids=range(16),
)
def test_manifests_that_are_no_manifests_are_refused(data):
    with pytest.raises(MalformedError):
        parse_options(data)


def test_an_oversized_manifest_is_refused_before_parsing():
    with pytest.raises(MalformedError) as refusal:
        parse_manifest(b"#" * (MAX_MANIFEST_SIZE + 1))
    assert refusal.value.code == "too-large"
