"""MRENCLAVE: Gramine's own values, a slow second implementation, and the layout."""

import hashlib
import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.attest.gramine.elf import parse_elf
from assay.attest.gramine.layout import Area, layout
from assay.attest.gramine.measure import measure, stream
from assay.attest.gramine.options import parse_options
from assay.tlog.errors import MalformedError

PERMISSIONS = (("R", 1), ("W", 2), ("X", 4))


def shown(area):
    kind = {0x100: "TCS", 0x200: "REG"}[area.secinfo & 0x300]
    permissions = "".join(letter if area.secinfo & bit else "-" for letter, bit in PERMISSIONS)
    return [area.start, area.end, kind, permissions, area.name, area.measured]


def test_vector_files_are_intact(any_vector):
    for name, data in (("manifest", any_vector.manifest), ("libpal", any_vector.libpal)):
        assert len(data) == any_vector.values[f"{name}_len"]
        assert hashlib.sha256(data).hexdigest() == any_vector.values[f"{name}_sha256"]


def test_all_thirteen_vectors_are_here_and_agree(any_vector):
    if any_vector.values["expect"] == "reject":
        with pytest.raises(MalformedError) as refusal:
            measure(any_vector.manifest, any_vector.libpal)
        assert refusal.value.code == "enclave-too-small"
        return
    measured = measure(any_vector.manifest, any_vector.libpal)
    assert measured.mr_enclave.hex() == any_vector.values["mrenclave"]
    assert measured.options.enclave_size == any_vector.values["enclave_size_bytes"]
    assert measured.options.max_threads == any_vector.values["max_threads"]
    assert measured.options.edmm == any_vector.values["edmm_enable"]


def test_areas_are_gramines_in_load_order(vector):
    areas = layout(parse_options(vector.manifest), vector.manifest, parse_elf(vector.libpal))
    assert [shown(area) for area in areas] == vector.values["areas"]


def test_the_sink_gets_a_file_whose_sha256_is_the_measurement(tiny):
    sink = io.BytesIO()
    measured = measure(tiny.manifest, tiny.libpal, sink=sink)
    assert hashlib.sha256(sink.getvalue()).digest() == measured.mr_enclave
    assert sink.getvalue().startswith(b"ECREATE\0")


def test_every_kind_of_input_byte_is_measured(tiny):
    measured = {measure(tiny.manifest, tiny.libpal).mr_enclave}
    image = parse_elf(tiny.libpal)
    for at in range(0, len(image.segments[0].data), 7):
        if 0x18 <= at < 0x20 or at < 0x40 + 4 * 56:
            continue  # header fields decide the layout and are tested there
        changed = bytearray(tiny.libpal)
        changed[at] ^= 1
        measured.add(measure(tiny.manifest, bytes(changed)).mr_enclave)
    assert len(measured) == 1 + len([at for at in range(0, 0x180, 7) if at >= 0x40 + 4 * 56])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"64M"', b'"128M"'),
        (b"max_threads = 1", b"max_threads = 2"),
        (b"edmm_enable = false", b"edmm_enable = true"),
        (b"debug = false", b"debug = true"),
        (b"isvsvn = 0", b"isvsvn = 1"),
        (b"[libos]", b"# a comment\n[libos]"),
    ],
    ids=lambda value: value.decode().strip(),
)
def test_every_change_of_the_manifest_changes_the_measurement(tiny, old, new):
    assert old in tiny.manifest
    changed = tiny.manifest.replace(old, new, 1)
    assert measure(changed, tiny.libpal).mr_enclave != measure(tiny.manifest, tiny.libpal).mr_enclave


@pytest.mark.parametrize("size", ["1K", "4K", "64K", "128K", "256K"])
def test_enclaves_that_are_too_small_are_refused(small_manifest, elf, size):
    manifest = small_manifest.replace("64M", size).encode()
    with pytest.raises(MalformedError, match="too small"):
        measure(manifest, elf((5, 0, 0, 16, 16)))


def test_an_image_that_ends_exactly_at_the_heap_floor_has_no_free_area(small_manifest, elf):
    # 1M: manifest 1 page, SSA 8, TCS 1, TLS 1, stack 64, signal stack 16; the floor is at page 16.
    manifest = small_manifest.replace("64M", "1M").replace("edmm_enable = true\n", "").encode()
    pages = 256 - 16 - (1 + 8 + 1 + 1 + 64 + 16)
    areas = layout(parse_options(manifest), manifest, parse_elf(elf((6, 0, 0, 16, pages * 4096))))
    assert areas[-1].name == "data"
    assert areas[-1].start == 0x10000
    with pytest.raises(MalformedError, match="too small"):
        layout(parse_options(manifest), manifest, parse_elf(elf((6, 0, 0, 16, pages * 4096 + 1))))


def slow_mrenclave(size, threads, edmm, manifest, segments, entry):
    """The stream as the tables say it, a record at a time; shares nothing with the module but its constants."""
    top, records = size, [struct.pack("<8sIQ44x", b"ECREATE", 4, size)]

    def carve(length):
        nonlocal top
        top -= length
        return top

    def add(start, content, flags):
        content = content.ljust(-(-len(content) // 4096) * 4096, b"\0")
        for page in range(0, len(content), 4096):
            records.append(struct.pack("<8sQQ40x", b"EADD", start + page, flags))
            for chunk in range(page, page + 4096, 256):
                records.append(struct.pack("<8sQ48x", b"EEXTEND", start + chunk))
                records.append(content[chunk : chunk + 256])

    text = manifest + b"\0"
    manifest_at = carve(-(-len(text) // 4096) * 4096)
    ssa, tcs, tls = carve(threads * 0x8000), carve(threads * 0x1000), carve(threads * 0x1000)
    stacks = [carve(0x40000) for _ in range(threads)]
    signals = [carve(0x10000) for _ in range(threads)]
    base = carve(-(-max(address + memory for _, address, _, memory in segments) // 4096) * 4096)
    add(manifest_at, text, 0x201)
    add(ssa, bytes(threads * 0x8000), 0x203)
    for t in range(threads):
        page = bytearray(4096)
        struct.pack_into("<Q", page, 0x10, ssa + t * 0x8000)
        struct.pack_into("<I", page, 0x1C, 2)
        struct.pack_into("<Q", page, 0x20, base + entry)
        struct.pack_into("<Q", page, 0x38, tls + t * 0x1000)
        struct.pack_into("<II", page, 0x40, 0xFFF, 0xFFF)
        add(tcs + t * 0x1000, bytes(page), 0x100)
    for t in range(threads):
        page = bytearray(4096)
        for offset, value in {
            0x0: tls + t * 0x1000, 0x8: 0xBADBADBADBAD, 0x110: size, 0x118: tcs + t * 0x1000,
            0x120: stacks[t] + 0x40000, 0x130: signals[t], 0x138: signals[t] + 0x10000, 0x148: ssa + t * 0x8000,
            0x150: ssa + t * 0x8000 + 0x4000 - 184, 0x1A0: len(text), 0x1A8: 0x10000, 0x1B0: base,
        }.items():  # fmt: skip
            struct.pack_into("<Q", page, offset, value)
        add(tls + t * 0x1000, bytes(page), 0x203)
    for start in stacks:
        add(start, bytes(0x40000), 0x203)
    for start in signals:
        add(start, bytes(0x10000), 0x203)
    for flags, address, data, memory in segments:
        start = address // 4096 * 4096
        content = (bytes(address - start) + data).ljust(address + memory - start, b"\0")
        add(base + start, content, 0x200 | (flags >> 2 & 1) | (flags & 2) | (flags & 1) << 2)
    if not edmm:
        records.extend(struct.pack("<8sQQ40x", b"EADD", page, 0x207) for page in range(0x10000, base, 4096))
    return hashlib.sha256(b"".join(records)).digest()


@settings(max_examples=25, deadline=None)
@given(
    threads=st.integers(1, 5),
    size=st.sampled_from(["4M", "8M", "8388608", "8192K"]),
    edmm=st.booleans(),
    padding=st.integers(0, 9000),
    first=st.integers(1, 6000),
    gap=st.integers(0, 5),
    skew=st.integers(0, 4095),
    memory=st.integers(1, 20000),
    filled=st.integers(0, 300),
    flags=st.sampled_from([2, 4, 6]),
)
def test_fast_and_slow_measurement_agree(
    elf, small_manifest, threads, size, edmm, padding, first, gap, skew, memory, filled, flags
):
    manifest = (
        (small_manifest + "#" + "x" * padding + "\n").replace("= 1\n", f"= {threads}\n").replace("64M", size)
    )
    manifest = manifest.replace("edmm_enable = true", f"edmm_enable = {str(edmm).lower()}").encode()
    address = (-(-first // 4096) + gap) * 4096 + skew
    filled = min(filled, memory)
    data = elf((5, 0, 0, first, first), (flags, 0x3000 + skew, address, filled, memory), entry=0)
    segments = [(5, 0, data[:first], first), (flags, address, data[0x3000 + skew :][:filled], memory)]
    bytes_ = {"4M": 4 << 20}.get(size, 8 << 20)
    assert measure(manifest, data).mr_enclave == slow_mrenclave(bytes_, threads, edmm, manifest, segments, 0)


def test_the_stream_comes_in_bounded_pieces(tiny):
    manifest = tiny.manifest.replace(b'"64M"', b'"4G"')
    options = parse_options(manifest)
    pieces = stream(options.enclave_size, layout(options, manifest, parse_elf(tiny.libpal)))
    assert max(len(piece) for piece in pieces) <= 2 << 20


@pytest.mark.parametrize(
    ("start", "pages"),
    [
        (0x10000, 1),
        (0x10000, 4096),
        (0, 4096),
        (0xFFF000, 2),
        (0x1000000 - 0x3000, 4096 + 6),
        (0xFF000000 - 0x1000, 2 * 4096),
        (2**32 - 0x2000, 4),
        (2**32 - 0x1000, 4096 + 2),
        (2**39 + 2**32 - 0x1000, 4098),
    ],
)
def test_free_pages_are_recorded_one_by_one_whatever_their_addresses(start, pages):
    area = Area("free", start, start + pages * 4096, 0x207, measured=False)
    records = b"".join(stream(1 << 40, [area]))[64:]
    assert records == b"".join(
        struct.pack("<8sQQ40x", b"EADD", start + number * 4096, 0x207) for number in range(pages)
    )
