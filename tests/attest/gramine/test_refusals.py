"""What Gramine's signer would sign and its loader would not start, through the one door: measuring refuses it."""

import json
import re
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.attest.gramine.elf import parse_elf
from assay.attest.gramine.layout import GRAMINE_VERSIONS, check_version
from assay.attest.gramine.measure import measure
from assay.attest.gramine.options import parse_manifest
from assay.attest.gramine.sigstruct import parse_sigstruct, verify_sigstruct
from assay.tlog.errors import LogError, MalformedError

CODE = (5, 0, 0, 0x800, 0x800)
DATA = (6, 0x1F00, 0x2F00, 0x200, 0x1800)
MANIFEST = {"enclave_size": '"64M"', "max_threads": "4", "edmm_enable": "true"}


def manifest(**members):
    lines = {name: value for name, value in (MANIFEST | members).items() if value is not None}
    return ("[sgx]\n" + "".join(f"{name} = {value}\n" for name, value in lines.items())).encode()


def test_what_the_table_changes_is_measured_without_the_change(elf):
    assert len(measure(manifest(), elf(CODE, DATA)).mr_enclave) == 32


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(manifest(enclave_size='"96M"'), id="size is no power of two"),
        pytest.param(manifest(enclave_size='"0x4000000"'), id="size in hexadecimal"),
        pytest.param(manifest(enclave_size='"0o400000000"'), id="size in octal"),
        pytest.param(manifest(enclave_size='"67_108_864"'), id="size with underscores"),
        pytest.param(manifest(enclave_size='"64m"'), id="size in lower case"),
        pytest.param(manifest(enclave_size='"1g"'), id="size in lower case, G"),
        pytest.param(manifest(enclave_size='"064M"'), id="size with a leading zero"),
        pytest.param(manifest(enclave_size='"2048G"'), id="enclave over the debug page at 1 TiB"),
        pytest.param(manifest(enclave_size='"65536G"'), id="enclave that reaches 64 TiB"),
        pytest.param(manifest(enclave_size='"131072G"'), id="enclave over 64 TiB"),
        pytest.param(manifest(enclave_size=None), id="no size"),
        pytest.param(manifest(enclave_size='"1M"'), id="size too small for its areas"),
        pytest.param(manifest(max_threads="4097"), id="too many threads"),
        pytest.param(manifest(max_threads="0"), id="no threads"),
        pytest.param(manifest(max_threads="-1"), id="negative threads"),
        pytest.param(manifest(max_threads=None), id="threads not spelled"),
        pytest.param(manifest(enable_stats="true"), id="statistics with a release libpal"),
        pytest.param(manifest() + b"\0", id="NUL at the end"),
        pytest.param(manifest(x='"a\0b"'), id="NUL in a string"),
        pytest.param(manifest(x="# \0"), id="NUL in a comment"),
        pytest.param(manifest(x="9223372036854775808"), id="integer beyond 64 bits"),
        pytest.param(manifest(x="-9223372036854775809"), id="negative integer beyond 64 bits"),
        pytest.param(manifest(x="0.5"), id="float"),
    ],
)
def test_a_manifest_that_signer_and_loader_read_differently_is_refused(elf, text):
    with pytest.raises(MalformedError):
        measure(text, elf(CODE, DATA))


IDENT = {"32-bit": (4, 1), "big-endian": (5, 2), "no ELF": (0, 0), "another version": (6, 2)}


@pytest.mark.parametrize("name", IDENT)
def test_an_image_of_another_kind_is_refused(elf, name):
    at, value = IDENT[name]
    image = bytearray(elf(CODE, DATA))
    image[at] = value
    with pytest.raises(MalformedError):
        measure(manifest(), bytes(image))


@pytest.mark.parametrize(
    "segments",
    [
        pytest.param([(5, 0x1000, 0x1000, 16, 16), (6, 0x2000, 0x2000, 16, 16)], id="first not in page 0"),
        pytest.param([(5, 0, 0, 0x1800, 0x1800), (6, 0x1000, 0x1000, 16, 16)], id="overlapping"),
        pytest.param([(5, 0, 0, 16, 16), (6, 0x100, 0x100, 16, 16)], id="sharing a page"),
        pytest.param([CODE, (6, 0x3000, 0x3000, 16, 16), (6, 0x2000, 0x2000, 16, 16)], id="unsorted"),
        pytest.param([CODE, (6, 0x1000, 0x1000, 32, 16)], id="more in the file than in memory"),
        pytest.param([CODE, (6, 0x5000, 0x5000, 0x1001, 0x1001)], id="past the end of the file"),
        pytest.param([CODE, (6, 0x1001, 0x1000, 16, 16)], id="offset and address differ modulo the page"),
        pytest.param([CODE, (6, 0x1000, 2**63, 16, 16)], id="beyond any enclave"),
        pytest.param([], id="none"),
    ],
)
def test_an_image_that_signer_and_loader_map_differently_is_refused(elf, segments):
    with pytest.raises(MalformedError):
        measure(manifest(), elf(*segments))


@pytest.mark.parametrize("version", GRAMINE_VERSIONS)
def test_versions_of_one_layout_are_known(version):
    assert check_version(version) == version


@pytest.mark.parametrize(
    "version", ["1.4", "1.4.1", "1.3", "0.9", "1.10", "2.0", "", "1.9 ", "v1.9", "1.9.0"]
)
def test_other_versions_are_refused(version):
    with pytest.raises(MalformedError) as refusal:
        check_version(version)
    assert refusal.value.code == "gramine-version"


NOT_MEASURED = {"protected_files.json": "files of an encrypted mount: not a measurement"}


def test_every_shared_vector_of_a_measurement_is_among_ours(vectors, request):
    ours = request.config.rootpath / "tests" / "vectors" / "gramine"
    shared = {path.name for path in (vectors / "gramine").glob("*.json")} - NOT_MEASURED.keys()
    assert shared == {path.name for path in ours.glob("*.json")}
    for name in shared:
        values = [json.loads((folder / name).read_bytes()) for folder in (ours, vectors / "gramine")]
        assert values[0] == values[1]


@settings(max_examples=200)
@given(splices=st.lists(st.tuples(st.integers(0, 250), st.binary(min_size=1, max_size=9)), max_size=4))
def test_an_image_with_other_headers_is_refused_or_mapped_as_they_say(elf, splices):
    image = bytearray(elf(CODE, DATA))
    for at, junk in splices:
        image[at : at + len(junk)] = junk
    try:
        parsed = parse_elf(bytes(image))
    except MalformedError:
        return
    offset, size, count = struct.unpack_from("<Q14xHH", image, 32)
    headers = [struct.unpack_from("<IIQQQQQQ", image, offset + n * size) for n in range(count)]
    loads = [header for header in headers if header[0] == 1]
    memory = bytearray(parsed.size)
    for segment, (_, flags, at, address, _, file_size, memory_size, _) in zip(
        parsed.segments, loads, strict=True
    ):
        assert segment.flags == flags
        assert not any(memory[segment.start : segment.end])
        assert segment.end >= address + memory_size
        memory[segment.start : segment.end] = segment.pages()
        assert memory[address : address + file_size] == image[at : at + file_size]
        assert not any(memory[segment.start : address])
        assert not any(memory[address + file_size : segment.end])


@given(st.binary(max_size=300))
def test_any_bytes_are_no_image_or_one(data):
    try:
        parse_elf(b"\x7fELF\x02\x01\x01" + data)
    except MalformedError:
        return


@settings(max_examples=200)
@given(
    splices=st.lists(
        st.tuples(
            st.integers(0, 60), st.integers(0, 6), st.text(max_size=6) | st.sampled_from("\0\r\"'[]{}=#\\")
        ),
        min_size=1,
        max_size=3,
    )
)
def test_a_damaged_manifest_is_refused_or_measured_by_what_it_says(elf, splices):
    text = manifest().decode()
    for at, removed, junk in splices:
        text = text[:at] + junk + text[at + removed :]
    try:
        measured = measure(text.encode("utf-8", "surrogatepass"), elf(CODE, DATA))
    except MalformedError:
        return
    table = parse_manifest(text.encode())["sgx"]
    digits, unit = re.fullmatch("([0-9]+)([KMG]?)", table["enclave_size"]).groups()
    assert measured.options.enclave_size == int(digits) << {"": 0, "K": 10, "M": 20, "G": 30}[unit]
    assert measured.options.max_threads == table["max_threads"]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 1807), st.binary(min_size=1, max_size=8)), max_size=4))
def test_a_damaged_sigstruct_is_refused_or_its_own_spelling(tiny, splices):
    data = bytearray(tiny.sigstruct)
    for at, junk in splices:
        data[at : at + len(junk)] = junk
    for read in (parse_sigstruct, verify_sigstruct):
        try:
            assert read(bytes(data)).to_bytes() == data
        except LogError:
            continue


@given(st.binary(max_size=64) | st.binary(min_size=1808, max_size=1808))
def test_any_bytes_are_refused_as_a_sigstruct(data):
    with pytest.raises(MalformedError):
        verify_sigstruct(data)


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * 100_000) + " = 1\n",
        "[" + ".".join("a" * 100_000) + "]\n",
        "x = { " + " . ".join(["'a'"] * 50_000) + " = 1 }\n",
        (".".join("a" * 400) + " = 1\n") * 1000,
    ],
    ids=["key", "table", "inline", "many"],
)
def test_keys_of_very_many_parts_are_refused_before_they_are_parsed(text):
    with pytest.raises(MalformedError, match="more than 256 parts"):  # the parser would take minutes, or die
        parse_manifest(text.encode())


def test_dots_inside_of_strings_are_no_parts_of_keys():
    value = "." * 10_000
    assert parse_manifest(f"a.b = \"{value}\"\n'c.d' = '{value}'\n".encode()) == {
        "a": {"b": value},
        "c.d": value,
    }
