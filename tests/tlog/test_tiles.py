"""Tile and bundle coordinates, paths and contents."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.tlog.errors import MalformedError
from assay.tlog.merkle import Node, leaf_hash
from assay.tlog.strict import MAX_DECIMAL
from assay.tlog.tiles import (
    MAX_ENTRY_SIZE,
    Bundle,
    Tile,
    bundle_at,
    bundles_of_size,
    format_bundle,
    format_tile,
    hash_in_tile,
    new_bundles,
    new_tiles,
    parse_bundle,
    parse_bundle_path,
    parse_tile,
    parse_tile_path,
    partial_tiles,
    partial_width,
    tile_at,
    tile_for_node,
    tiles_of_size,
)

SIZES = [0, 1, 2, 255, 256, 257, 511, 512, 513, 65535, 65536, 65537, 65792, 70000, 131071, 131072, 131073]


# --- third-party vectors ---------------------------------------------------------------------------


def test_index_paths_of_the_specification(vectors):
    cases = json.loads((vectors / "tlog" / "signed_note.json").read_text())["tile_index_paths"]
    assert len(cases) == 8
    for case in cases:
        assert Tile(0, case["index"]).path == f"tile/0/{case['path']}"
        assert Bundle(case["index"]).path == f"tile/entries/{case['path']}"
        assert parse_tile_path(f"tile/0/{case['path']}").index == case["index"]


def test_partial_widths_of_the_specification(vectors):
    cases = json.loads((vectors / "tlog" / "signed_note.json").read_text())["partial_tile_widths"]["cases"]
    assert len(cases) == 9
    for case in cases:
        widths = [partial_width(level, case["size"]) for level in range(len(case["widths"]))]
        assert widths == case["widths"]


def test_every_tile_and_bundle_of_the_golden_log(vectors):
    log = json.loads((vectors / "tlog" / "tessera" / "log.json").read_text())
    entries = [text.encode() for text in log["entries"]]
    found = {}
    for size in range(1, len(entries) + 1):
        (tile,) = new_tiles(size - 1, size)
        (bundle,) = new_bundles(size - 1, size)
        found[tile.path] = format_tile([leaf_hash(entry) for entry in entries[:size]])
        found[bundle.path] = format_bundle(entries[:size])
        assert parse_bundle(found[bundle.path], width=bundle.width) == entries[:size]
    assert {path: hashlib.sha256(data).hexdigest() for path, data in found.items()} == log["tile_sha256"]


# --- paths -----------------------------------------------------------------------------------------

PATHS = {
    "tile/0/000": Tile(0, 0),
    "tile/0/000.p/1": Tile(0, 0, 1),
    "tile/0/000.p/255": Tile(0, 0, 255),
    "tile/1/999": Tile(1, 999),
    "tile/2/x001/000": Tile(2, 1000),
    "tile/0/x001/x234/067": Tile(0, 1234067),
    "tile/0/x001/x234/067.p/5": Tile(0, 1234067, 5),
    "tile/9/x100/000": Tile(9, 100000),
    "tile/10/000": Tile(10, 0),
    "tile/63/000": Tile(63, 0),
    "tile/0/x009/x223/x372/x036/x854/x775/807": Tile(0, MAX_DECIMAL),
}
BUNDLE_PATHS = {
    "tile/entries/000": Bundle(0),
    "tile/entries/000.p/3": Bundle(0, 3),
    "tile/entries/x001/x234/067.p/255": Bundle(1234067, 255),
}
MISSPELLED_PLACES = [
    "", "0", "00", "0000", "1000", "1", "x000", "x001", "x000/000", "x000/001", "x000/x001/000", "001/000", "001/234",
    "x1/234", "x01/234", "x0001/234", "x001/34", "x001/0234", "x001/234/", "x001//234", "/x001/234", "x001/x234", "X001/234",
    "x-01/234", "x+01/234", "+01", "-01", "-00", " 00", "00 ", "0 0", "000 ", " 000", "000\n", "\n000", "0_0", "0x0", "1e3", "٠٠٠", "００１", "²²²",
    "x٠٠١/000", "..", "../000", "x001/../000", "000/..", "./000", "000/", "000//", "%30%30%30", "000?", "000#", "000\0", "x001\\234",
    "000.p", "000.p/", "000.p/0", "000.p/00", "000.p/01", "000.p/08", "000.p/008", "000.p/255/", "000.p/256", "000.p/257", "000.p/300",
    "000.p/999", "000.p/1000", "000.p/+1", "000.p/-1", "000.p/ 1", "000.p/1 ", "000.p/1\n", "000.p/1_0", "000.p/x1", "000.p/0x1", "000.p/1.0",
    "000.p/١", "000.p/１", "000.p/²", "000.p/1.p/1", "000.p//1", "000p/1", "000.P/1", "000,p/1", "000.p1", "000/p/1", "000.x/1", "000.gz",
    "x009/x223/x372/x036/x854/x775/808", "x999/x999/x999/x999/x999/x999/999", "x001/x000/x000/x000/x000/x000/x000/000",
    "x001/" * 4000 + "000",
]  # fmt: skip


@pytest.mark.parametrize(("path", "tile"), PATHS.items())
def test_tile_paths(path, tile):
    assert tile.path == path
    assert parse_tile_path(path) == tile


@pytest.mark.parametrize(("path", "bundle"), BUNDLE_PATHS.items())
def test_bundle_paths(path, bundle):
    assert bundle.path == path
    assert parse_bundle_path(path) == bundle


@pytest.mark.parametrize("place", MISSPELLED_PLACES)
def test_a_second_spelling_of_a_place_is_refused(place):
    with pytest.raises(MalformedError):
        parse_tile_path(f"tile/0/{place}")
    with pytest.raises(MalformedError):
        parse_bundle_path(f"tile/entries/{place}")


@pytest.mark.parametrize(
    "path",
    [
        "", "tile", "tile/", "tile/0", "tile/0/", "tile/000", "tile//000", "/tile/0/000", " tile/0/000", "tile/0/000/", "Tile/0/000", "TILE/0/000",
        "tiles/0/000", "tile/00/000", "tile/01/000", "tile/08/000", "tile/064/000", "tile/64/000", "tile/99/000", "tile/100/000", "tile/256/000",
        "tile/-1/000", "tile/+1/000", "tile/ 1/000", "tile/1 /000", "tile/1_0/000", "tile/x1/000", "tile/0x1/000", "tile/١/000", "tile/１/000",
        "tile/²/000", "tile/data/000", "tile/Entries/000", "tile/entries /000", "tile/entry/000", "tile/0/entries/000", "tile/8/0/000",
        "checkpoint", "tile/0/000\u2028", "https://log.example/tile/0/000", "tile/0/000?x=1", "tile\\0\\000",
    ],
)  # fmt: skip
def test_other_paths_are_refused_by_both_parsers(path):
    with pytest.raises(MalformedError):
        parse_tile_path(path)
    with pytest.raises(MalformedError):
        parse_bundle_path(path)


def test_tiles_and_bundles_are_not_taken_for_each_other():
    for path in PATHS:
        with pytest.raises(MalformedError, match="not the path of an entry bundle"):
            parse_bundle_path(path)
    for path in BUNDLE_PATHS:
        with pytest.raises(MalformedError, match="not the path of a tile"):
            parse_tile_path(path)


def test_a_refused_path_is_quoted_shortly():
    with pytest.raises(MalformedError) as caught:
        parse_tile_path("tile/0/" + "x001/" * 10000)
    assert len(str(caught.value)) < 150


tiles = st.builds(Tile, st.integers(0, 63), st.integers(0, MAX_DECIMAL), st.integers(1, 256))
bundles = st.builds(Bundle, st.integers(0, MAX_DECIMAL), st.integers(1, 256))


@given(tiles)
def test_parsing_inverts_formatting_tiles(tile):
    assert parse_tile_path(tile.path) == tile


@given(bundles)
def test_parsing_inverts_formatting_bundles(bundle):
    assert parse_bundle_path(bundle.path) == bundle
    assert bundle.tile == Tile(0, bundle.index, bundle.width)


@given(tiles, st.integers(0, 60), st.characters() | st.just(""), st.booleans())
def test_a_changed_path_is_refused_or_names_another_tile(tile, place, character, insert):
    changed = tile.path[:place] + character + tile.path[place + (not insert) :]
    try:
        parsed = parse_tile_path(changed)
    except MalformedError:
        return
    assert parsed.path == changed
    assert (parsed == tile) == (changed == tile.path)


@given(
    st.from_regex(
        r"tile/([0-9]{1,3}|entries)/(x?[0-9]{1,4}/){0,3}[0-9]{1,4}(\.p/[0-9]{1,4})?", fullmatch=True
    )
)
def test_what_looks_like_a_path_is_refused_or_formats_back(path):
    for parse in (parse_tile_path, parse_bundle_path):
        try:
            parsed = parse(path)
        except MalformedError:
            continue
        assert parsed.path == path


@pytest.mark.parametrize(
    ("level", "index", "width"),
    [(-1, 0, 256), (64, 0, 256), (0, -1, 256), (0, MAX_DECIMAL + 1, 256), (0, 0, 0), (0, 0, -1), (0, 0, 257)],
)
def test_a_tile_that_cannot_be_is_a_broken_invariant(level, index, width):
    with pytest.raises(AssertionError):
        Tile(level, index, width)
    if level == 0:
        with pytest.raises(AssertionError):
            Bundle(index, width)


# --- which tiles a tree has ------------------------------------------------------------------------


def slow_tiles(size):
    """By the definition: full tiles and the partial one of every level."""
    for level in range(8):
        hashes = size // 256**level
        yield from (Tile(level, index) for index in range(hashes // 256))
        if hashes % 256:
            yield Tile(level, hashes // 256, hashes % 256)


@pytest.mark.parametrize("size", SIZES)
def test_tiles_of_a_size(size):
    assert list(tiles_of_size(size)) == list(slow_tiles(size))
    expected = [Bundle(tile.index, tile.width) for tile in slow_tiles(size) if tile.level == 0]
    assert list(bundles_of_size(size)) == expected


def test_tiles_of_the_example_sizes():
    assert partial_tiles(70000) == [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert list(tiles_of_size(256)) == [Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_of_size(0)) == partial_tiles(0) == []


@given(st.integers(0, 140000), st.integers(0, 140000))
def test_growth_writes_the_tiles_that_were_not_there(one, other):
    old, new = sorted([one, other])
    before = set(slow_tiles(old))
    written = new_tiles(old, new)
    assert written == [tile for tile in slow_tiles(new) if tile not in before]
    bundles_before = set(bundles_of_size(old))
    assert new_bundles(old, new) == [
        bundle for bundle in bundles_of_size(new) if bundle not in bundles_before
    ]


def test_growth_by_one_at_every_small_size():
    for size in range(1, 1100):
        before = set(slow_tiles(size - 1))
        assert new_tiles(size - 1, size) == [tile for tile in slow_tiles(size) if tile not in before]
        assert new_tiles(size, size) == new_bundles(size, size) == []


def test_a_shrunken_tree_writes_nothing():
    assert new_tiles(300, 200) == []
    assert new_bundles(300, 200) == []


def test_growth_of_a_huge_log_takes_only_the_work_it_needs():
    size = 2**62 - 1
    assert new_tiles(size, size + 1) == [
        *(Tile(level, 2 ** (62 - 8 * (level + 1)) - 1) for level in range(7)),
        Tile(7, 0, 64),
    ]
    assert next(tiles_of_size(size)) == Tile(0, 0)


@given(st.integers(1, MAX_DECIMAL))
def test_partial_tiles_hold_the_right_edge(size):
    partial = partial_tiles(size)
    assert sum(tile.width << 8 * tile.level for tile in partial) == size
    for tile in partial:
        assert tile == tile_at(tile.level, tile.index, size)
        assert partial_width(tile.level, size) == tile.width < 256


def test_tiles_beyond_the_tree_do_not_exist():
    assert tile_at(0, 1, 257) == Tile(0, 1, 1)
    assert bundle_at(1, 257) == Bundle(1, 1)
    for level, index, size in [(0, 1, 256), (0, 0, 0), (1, 0, 255), (1, 1, 65536), (2, 0, 65535), (0, -1, 5)]:
        with pytest.raises(AssertionError):
            tile_at(level, index, size)
    with pytest.raises(AssertionError):
        bundle_at(2, 512)


# --- nodes in tiles --------------------------------------------------------------------------------


def tile_data(reference, tile):
    """By the definition: the i-th hash is MTH of the leaves below it."""
    first = tile.index * 256
    span = 256**tile.level
    hashes = [reference.mth(i * span, (i + 1) * span) for i in range(first, first + tile.width)]
    return format_tile(hashes)


@pytest.mark.parametrize("size", [1, 2, 13, 255, 256, 257, 600])
def test_every_node_is_found_in_its_tile(reference, size):
    data = {tile: tile_data(reference, tile) for tile in tiles_of_size(size)}
    for level in range(size.bit_length()):
        for index in range(size >> level):
            node = Node(level, index)
            tile = tile_for_node(node, size)
            expected = reference.mth(index << level, (index + 1) << level)
            assert hash_in_tile(data[tile], tile, node) == expected


@pytest.mark.parametrize(
    ("node", "size", "tile"),
    [
        (Node(0, 0), 1, Tile(0, 0, 1)),
        (Node(0, 255), 256, Tile(0, 0)),
        (Node(7, 1), 256, Tile(0, 0)),
        (Node(8, 0), 256, Tile(1, 0, 1)),
        (Node(0, 69999), 70000, Tile(0, 273, 112)),
        (Node(3, 8749), 70000, Tile(0, 273, 112)),
        (Node(12, 16), 70000, Tile(1, 1, 17)),
        (Node(15, 1), 70000, Tile(1, 0)),
        (Node(16, 0), 70000, Tile(2, 0, 1)),
        (Node(62, 0), 2**62, Tile(7, 0, 64)),
    ],
)
def test_where_nodes_are(node, size, tile):
    assert tile_for_node(node, size) == tile


@pytest.mark.parametrize(
    ("node", "size"), [(Node(0, 0), 0), (Node(0, 5), 5), (Node(1, 2), 5), (Node(8, 0), 255), (Node(3, 1), 15)]
)
def test_a_node_that_the_tree_does_not_cover_has_no_tile(node, size):
    with pytest.raises(AssertionError):
        tile_for_node(node, size)


@pytest.mark.parametrize("node", [Node(0, 255), Node(0, 266), Node(8, 1), Node(2, 66), Node(1, 133)])
def test_a_node_is_not_looked_for_in_another_tile(node):
    with pytest.raises(AssertionError):
        hash_in_tile(bytes(320), Tile(0, 1, 10), node)


@pytest.mark.parametrize("width", [1, 2, 255, 256])
def test_tiles_of_another_length_are_refused(width):
    data = bytes(range(256)) * 32
    good = data[: 32 * width]
    assert format_tile(parse_tile(good, width=width)) == good
    for length in {0, 1, 31, 32 * width - 32, 32 * width - 1, 32 * width + 1, 32 * width + 32, 8192, 8224} - {
        32 * width
    }:
        bad = bytes(length)
        with pytest.raises(MalformedError, match=f"has {32 * width} bytes, not {length}"):
            parse_tile(bad, width=width)
        with pytest.raises(MalformedError, match=f"has {32 * width} bytes, not {length}"):
            hash_in_tile(bad, Tile(0, 0, width), Node(0, 0))


# --- bundles ---------------------------------------------------------------------------------------

entry_lists = st.lists(st.binary(max_size=40), min_size=1, max_size=8)


@given(entry_lists)
def test_parsing_inverts_formatting_contents(entries):
    assert parse_bundle(format_bundle(entries), width=len(entries)) == entries


@given(st.binary(max_size=30), st.integers(1, 6))
def test_contents_are_refused_or_format_back(data, width):
    try:
        entries = parse_bundle(data, width=width)
    except MalformedError:
        return
    assert len(entries) == width
    assert format_bundle(entries) == data


@given(entry_lists, st.data())
def test_every_truncation_and_extension_of_a_bundle_is_refused(entries, data):
    contents = format_bundle(entries)
    for length in range(len(contents)):
        with pytest.raises(MalformedError, match="it ends inside entry"):
            parse_bundle(contents[:length], width=len(entries))
    extra = data.draw(st.binary(min_size=1, max_size=5))
    with pytest.raises(MalformedError, match=f"{len(extra)} bytes after"):
        parse_bundle(contents + extra, width=len(entries))


@given(entry_lists)
def test_a_bundle_of_another_width_is_refused(entries):
    contents = format_bundle(entries)
    for width in {1, len(entries) - 1, len(entries) + 1, 256} - {0, len(entries)}:
        with pytest.raises(MalformedError):
            parse_bundle(contents, width=width)


def test_the_largest_and_the_smallest_entry():
    entries = [b"", b"x" * MAX_ENTRY_SIZE, b""]
    contents = format_bundle(entries)
    assert contents[:5] == b"\0\0\xff\xffx"
    assert parse_bundle(contents, width=3) == entries
    with pytest.raises(MalformedError, match="at most 65535 bytes, not 65536"):
        format_bundle([b"", b"x" * (MAX_ENTRY_SIZE + 1)])
