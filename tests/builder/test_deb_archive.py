"""ar and tar, read strictly: what a lenient reader would skip, follow or guess is refused."""

import gzip
import io
import lzma
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.builder import deb_archive
from assay.builder.deb_archive import ar_members, decompress, tar_members
from assay.tlog.errors import MalformedError


def members(data):
    return list(tar_members(data, what="x"))


def test_an_ar_archive_splits_into_its_members_in_order(debs):
    parts = [("b", b"odd"), ("a", b"even"), ("empty", b"")]
    assert list(ar_members(debs.ar(parts), what="x").items()) == parts


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"?" + data[1:],
        lambda data: data[:-1],
        lambda data: data[:40],
        lambda data: data + b"x",
        lambda data: data.replace(b"`\n", b"``", 1),
        lambda data: data.replace(b"3         ", b"-3        ", 1),
        lambda data: data.replace(b"3         ", b"+3        ", 1),
        lambda data: data.replace(b"3         ", b"03        ", 1),
        lambda data: data.replace(b"3         ", b"9999      ", 1),
        lambda data: data.replace(b"odd\n", b"odd\0", 1),
        lambda data: data.replace(b"a       ", b"b       ", 1),
    ],
    ids=range(11),
)
def test_a_malformed_ar_archive_is_refused(debs, spoil):
    data = debs.ar([("b", b"odd"), ("a", b"even")])
    assert spoil(data) != data
    with pytest.raises(MalformedError):
        ar_members(spoil(data), what="x")


@pytest.mark.parametrize(
    ("name", "data"),
    [("t.tar", b"x" * 9), ("t.tar.gz", gzip.compress(b"x" * 9)), ("t.tar.xz", lzma.compress(b"x" * 9))],
)
def test_what_packages_are_compressed_with_is_unpacked_within_bounds(name, data):
    assert decompress(name, data, what="p", max_size=9) == b"x" * 9
    with pytest.raises(MalformedError) as refusal:
        decompress(name, data, what="p", max_size=8)
    assert refusal.value.code == "too-large"
    if name != "t.tar":
        for spoiled in (data[:-3], data + b"x", data + data, b"", data[:20] + b"\xff" + data[21:]):
            with pytest.raises(MalformedError):
                decompress(name, spoiled, what="p")


def test_a_bomb_is_not_unpacked_beyond_the_bound():
    bomb = lzma.compress(bytes(64 << 20))
    with pytest.raises(MalformedError) as refusal:
        decompress("data.tar.xz", bomb, what="p", max_size=1 << 20)
    assert refusal.value.code == "too-large"


@pytest.mark.parametrize("name", ["data.tar.zst", "data.tar.bz2", "data.tar.lzma", "data.tarx"])
def test_another_compression_is_named_and_refused(name):
    with pytest.raises(MalformedError, match=name) as refusal:
        decompress(name, b"", what="p")
    assert refusal.value.code == "compression"


@pytest.mark.parametrize("layout", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_members_are_read_as_tarfile_wrote_them(debs, layout):
    long = "d" * 60 + "/" + "f" * 90
    data = debs.tar(
        [
            ("./", {"type": tarfile.DIRTYPE}, b""),
            ("./a", {"mode": 0o755}, b"1" * 513),
            (long, {}, b""),
            ("./l", {"type": tarfile.SYMTYPE, "linkname": "a"}, b""),
            ("./h", {"type": tarfile.LNKTYPE, "linkname": "./a"}, b""),
        ],
        layout=layout,
    )
    found = members(data)
    assert [(m.name, m.kind, m.mode, m.link, m.content) for m in found] == [
        ("./", b"5", 0o644, "", b""),
        ("./a", b"0", 0o755, "", b"1" * 513),
        (long, b"0", 0o644, "", b""),
        ("./l", b"2", 0o644, "a", b""),
        ("./h", b"1", 0o644, "./a", b""),
    ]


def test_gnu_long_names_and_links_are_read(debs):
    name, link = "n" * 300, "l" * 200
    found = members(debs.tar([(name, {"type": tarfile.SYMTYPE, "linkname": link}, b""), ("short", {}, b"")]))
    assert [(m.name, m.link) for m in found] == [(name, link), ("short", "")]


@pytest.mark.parametrize(
    "kind",
    [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE, b"S", b"x", b"g", b"Z"],
    ids=repr,
)
def test_devices_and_other_members_are_refused(debs, kind):
    with pytest.raises(MalformedError) as refusal:
        members(debs.tar([("./dev", {"type": kind}, b"")]))
    assert refusal.value.code == "unsafe-member"


def test_a_pax_archive_is_refused(debs):
    with pytest.raises(MalformedError):
        members(debs.tar([("ü" * 120, {}, b"")], layout=tarfile.PAX_FORMAT))


@pytest.mark.parametrize("at", [*range(0, 512, 7), 148, 156, 257, 262, 345])
def test_a_changed_header_is_noticed(debs, at):
    data = bytearray(debs.tar([("./file", {}, b"content")]))
    data[at] ^= 0x01
    with pytest.raises(MalformedError):
        members(bytes(data))


@pytest.mark.parametrize("cut", [0, 1, 511, 512, 700, 1024, 1536, 2047])
def test_a_tar_that_is_cut_off_is_refused(debs, cut):
    data = debs.tar([("./file", {}, b"content")])
    with pytest.raises(MalformedError):
        members(data[:cut])


@pytest.mark.parametrize("rest", [b"\1", b"\0" * 511 + b"x", b"x" * 512])
def test_nothing_may_follow_the_end(debs, rest):
    with pytest.raises(MalformedError):
        members(debs.tar([("./file", {}, b"")]) + rest)


def test_too_many_members_are_refused(debs, monkeypatch):
    monkeypatch.setattr(deb_archive, "MAX_TAR_MEMBERS", 3)
    with pytest.raises(MalformedError) as refusal:
        members(debs.tar([(f"./{n}", {}, b"") for n in range(4)]))
    assert refusal.value.code == "too-large"


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=130).filter(
    lambda name: not name.endswith("/")
)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=1200)), max_size=5))
def test_whatever_tarfile_writes_is_read_back(debs, files):
    found = members(debs.tar([(name, {}, content) for name, content in files]))
    assert [(m.name, m.content) for m in found] == files


@given(st.data())
def test_a_damaged_tar_never_gives_other_content_in_silence(debs, data):
    """The checksum covers headers; content is covered by the package's own digest."""
    good = debs.tar([("./a", {}, b"1"), ("./b", {}, b"2")])
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    try:
        found = members(bad)
    except MalformedError:
        return
    assert [m.name for m in found] == ["./a", "./b"]
    with tarfile.open(fileobj=io.BytesIO(bad)) as archive:
        assert archive.getnames() == ["./a", "./b"]
