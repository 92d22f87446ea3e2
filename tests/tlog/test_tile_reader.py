"""The tile reader against a source that lies in every way it can."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.tlog import tile_reader
from assay.tlog.errors import LogError, MalformedError, UnavailableError, UntrustedError
from assay.tlog.merkle import EMPTY_ROOT, Node, leaf_hash, node_hash, root_of
from assay.tlog.proof import (
    prove_consistency,
    prove_inclusion,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from assay.tlog.tile_reader import TileReader
from assay.tlog.tiles import Bundle, Tile, format_bundle, format_tile, parse_bundle, tiles_of_size

BIG_SIZES = [1000, 65535, 65536, 65537, 65792, 70000]


def leaf_data(index):
    return f"leaf {index}".encode()


class Source:
    """All tiles and bundles of one tree, any of which may be replaced, and what was asked for."""

    def __init__(self, size, leaves=None):
        self.size = size
        self.entries = [leaf_data(index) for index in range(size)]
        self.levels = [leaves or [leaf_hash(entry) for entry in self.entries]]
        while len(self.levels[-1]) >= 256:
            below = self.levels[-1]
            self.levels.append([root_of(below[i : i + 256]) for i in range(0, len(below) // 256 * 256, 256)])
        self.root = root_of(self.levels[0])
        self.replaced = {}
        self.asked = []

    def good(self, name):
        first = name.index * 256
        if isinstance(name, Bundle):
            return format_bundle(self.entries[first : first + name.width])
        return format_tile(self.levels[name.level][first : first + name.width])

    def read_tiles(self, tiles):
        assert tiles, "nothing was asked for"
        assert len(set(tiles)) == len(tiles), "a tile was asked for twice in one call"
        self.asked.append(list(tiles))
        return [self.replaced.get(tile) or self.good(tile) for tile in tiles]

    def read_bundle(self, bundle):
        self.asked.append(bundle)
        return self.replaced.get(bundle, None) or self.good(bundle)

    def reader(self, *, size=None, root=None):
        return TileReader(self, size=self.size if size is None else size, root=root or self.root)


@pytest.fixture(scope="module")
def big_sources():
    return {size: Source(size) for size in BIG_SIZES}


def all_nodes(size):
    return [Node(level, index) for level in range(size.bit_length()) for index in range(size >> level)]


def flipped(data, place, bit=0):
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


# --- what is true is shown -------------------------------------------------------------------------


def test_the_root_of_every_size_to_600(reference):
    for size in range(601):
        reader = TileReader(Source(size), size=size, root=reference.root(size))
        assert tree_root(size, reader) == reference.root(size)


@pytest.mark.parametrize("size", [1, 2, 13, 255, 256, 257, 511, 512, 513, 600])
def test_every_node_of_a_tree(reference, size):
    nodes = all_nodes(size)
    hashes = Source(size).reader().read_hashes(nodes)
    assert hashes == [
        reference.mth(node.index << node.level, (node.index + 1) << node.level) for node in nodes
    ]
    for node, value in zip(nodes, hashes, strict=True):
        if node.index % 37 == 0:
            assert Source(size).reader().read_hashes([node]) == [value]


@pytest.mark.parametrize("size", BIG_SIZES)
def test_nodes_and_proofs_of_big_trees(big_sources, size):
    source = big_sources[size]
    leaves = source.levels[0]
    reader = source.reader()
    assert tree_root(size, reader) == source.root
    for level in range(size.bit_length()):
        for index in {0, (size >> level) // 2, (size >> level) - 1} & set(range(size >> level)):
            (value,) = reader.read_hashes([Node(level, index)])
            assert value == root_of(leaves[index << level : (index + 1) << level])
    for index in (0, 255, 256, size // 2, size - 1):
        if index < size:
            proof = prove_inclusion(index=index, size=size, reader=reader)
            verify_inclusion(leaves[index], index=index, size=size, proof=proof, root=source.root)
    for old in (1, 255, 256, 300, size - 1):
        proof = prove_consistency(old_size=old, new_size=size, reader=reader)
        old_root = root_of(leaves[:old])
        verify_consistency(old_size=old, old_root=old_root, new_size=size, new_root=source.root, proof=proof)


def test_all_tiles_needed_are_read_in_one_call_and_once(big_sources):
    source = big_sources[70000]
    source.asked.clear()
    reader = source.reader()
    reader.read_hashes([Node(0, 5), Node(0, 6), Node(0, 69999), Node(3, 40)])
    edge = [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1)]
    assert [sorted(call) for call in source.asked] == [sorted([*edge, Tile(0, 0), Tile(1, 0), Tile(0, 1)])]
    reader.read_hashes([Node(0, 7), Node(16, 0), Node(8, 260)])
    assert len(source.asked) == 1
    reader.read_hashes([Node(0, 7), Node(0, 512)])
    assert source.asked[1:] == [[Tile(0, 2)]]


def test_nothing_is_read_for_nothing():
    source = Source(300)
    reader = source.reader()
    assert reader.read_hashes([]) == []
    assert list(reader.read_entries(0, 0)) == list(reader.read_entries(300, 300)) == []
    assert source.asked == []


def test_the_empty_tree():
    source = Source(0)
    reader = source.reader(root=EMPTY_ROOT)
    assert tree_root(0, reader) == EMPTY_ROOT
    assert list(reader.read_entries(0, 0)) == []
    with pytest.raises(UntrustedError) as caught:
        TileReader(source, size=0, root=leaf_hash(b""))
    assert caught.value.code == "tile"
    assert source.asked == []


def test_the_golden_log(vectors):
    folder = vectors / "tlog" / "tessera"
    entries = [text.encode() for text in json.loads((folder / "log.json").read_text())["entries"]]
    for size in range(len(entries) + 1):
        source = Source(size, [leaf_hash(entry) for entry in entries[:size]])
        source.entries = entries
        _, size_line, root_line = (folder / f"checkpoint.{size}").read_text().split("\n")[:3]
        reader = TileReader(source, size=int(size_line), root=base64.b64decode(root_line))
        assert list(reader.read_entries(0, size)) == entries[:size]


# --- what is not is refused ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 256, 300])
def test_every_flipped_byte_of_every_tile_is_refused(size):
    source = Source(size)
    for tile in tiles_of_size(size):
        good = source.good(tile)
        node = Node(8 * tile.level, 256 * tile.index)
        for place in range(len(good)):
            source.replaced = {tile: flipped(good, place, place % 8)}
            with pytest.raises(UntrustedError) as caught:
                source.reader().read_hashes([node])
            assert caught.value.code == "tile"


def test_one_flipped_bit_of_any_hash_above_or_beside_is_refused_in_a_big_tree(big_sources):
    source = big_sources[70000]
    needed = [Tile(0, 3), Tile(1, 0), Tile(2, 0, 1), Tile(1, 1, 17), Tile(0, 273, 112)]
    try:
        for tile in needed:
            good = source.good(tile)
            for place in range(0, len(good), 32):
                source.replaced = {tile: flipped(good, place + place // 32 % 32, 7)}
                with pytest.raises(UntrustedError):
                    source.reader().read_hashes([Node(0, 800)])
    finally:
        source.replaced = {}


@pytest.mark.parametrize("size", [5, 256, 300])
def test_tiles_of_every_other_length_are_refused(size):
    source = Source(size)
    for tile in tiles_of_size(size):
        good = source.good(tile)
        node = Node(8 * tile.level, 256 * tile.index)
        for bad in [good[:length] for length in range(1, len(good))] + [
            good + b"\0",
            good + good[-32:],
            good * 2,
        ]:
            source.replaced = {tile: bad}
            with pytest.raises(MalformedError):
                source.reader().read_hashes([node])


def test_an_empty_tile_is_refused():
    source = Source(300)
    source.read_tiles = lambda tiles: [b"" for _ in tiles]
    with pytest.raises(MalformedError):
        source.reader().read_hashes([Node(0, 0)])


def test_swapped_tiles_and_swapped_hashes_are_refused(big_sources):
    source = big_sources[70000]
    try:
        source.replaced = {Tile(0, 3): source.good(Tile(0, 4)), Tile(0, 4): source.good(Tile(0, 3))}
        for node in (Node(0, 3 * 256), Node(0, 4 * 256)):
            with pytest.raises(UntrustedError):
                source.reader().read_hashes([node])
        good = source.good(Tile(0, 3))
        source.replaced = {Tile(0, 3): good[32:64] + good[:32] + good[64:]}
        with pytest.raises(UntrustedError):
            source.reader().read_hashes([Node(0, 3 * 256 + 100)])
    finally:
        source.replaced = {}


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_forged_tile_with_forged_tiles_above_it_is_refused(big_sources, depth):
    """Every tile of the lie agrees with the one above it, up to some level: only the root decides."""
    source = big_sources[70000]
    forged = [leaf_hash(b"forged") if index == 800 else value for index, value in enumerate(source.levels[0])]
    liar = Source(70000, forged)
    path = [Tile(0, 3), Tile(1, 0), Tile(2, 0, 1)][:depth]
    try:
        source.replaced = {tile: liar.good(tile) for tile in path}
        with pytest.raises(UntrustedError):
            source.reader().read_hashes([Node(0, 800)])
        with pytest.raises(UntrustedError):
            liar.reader(root=source.root).read_hashes([Node(0, 800)])
        assert liar.reader().read_hashes([Node(0, 800)]) == [leaf_hash(b"forged")]
    finally:
        source.replaced = {}


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 300, 512, 600])
def test_another_size_or_root_is_refused(reference, size):
    source = Source(700)
    node = Node(0, 0)
    root = reference.root(size)
    assert source.reader(size=size, root=root).read_hashes([node]) == [source.levels[0][0]]
    for other in {size - 1, size + 1, 700, 1} - {size, 0}:
        with pytest.raises(UntrustedError):
            source.reader(size=other, root=root).read_hashes([node])
        with pytest.raises(UntrustedError):
            source.reader(size=size, root=reference.root(other)).read_hashes([node])
    with pytest.raises(UntrustedError):
        source.reader(size=size, root=EMPTY_ROOT).read_hashes([node])


def test_a_bad_tile_that_is_not_needed_spoils_nothing(big_sources):
    source = big_sources[70000]
    try:
        source.replaced = {Tile(0, 5): b"bad"}
        reader = source.reader()
        assert reader.read_hashes([Node(0, 0), Node(0, 1024)]) == [
            source.levels[0][0],
            source.levels[0][1024],
        ]
        with pytest.raises(MalformedError):
            reader.read_hashes([Node(0, 5 * 256)])
    finally:
        source.replaced = {}


# --- nothing is kept before it is verified ---------------------------------------------------------


@pytest.mark.parametrize("tile", [Tile(0, 0), Tile(1, 0, 1), Tile(0, 1, 44)])
def test_nothing_of_a_refused_answer_is_kept(tile):
    source = Source(300)
    reader = source.reader()
    source.replaced = {tile: flipped(source.good(tile), 3)}
    for _ in range(2):
        with pytest.raises(UntrustedError):
            reader.read_hashes([Node(0, 0)])
    source.replaced = {}
    assert reader.read_hashes([Node(0, 0)]) == [source.levels[0][0]]
    assert [len(call) for call in source.asked] == [3, 3, 3]  # all of it again, each time


def test_a_refused_answer_does_not_shake_what_was_verified_before():
    source = Source(600)
    reader = source.reader()
    reader.read_hashes([Node(0, 0)])
    source.replaced = dict.fromkeys(tiles_of_size(600), b"bad")
    assert reader.read_hashes([Node(0, 1)]) == [source.levels[0][1]]
    with pytest.raises(MalformedError):
        reader.read_hashes([Node(0, 1), Node(0, 256)])
    assert reader.read_hashes([Node(0, 2)]) == [source.levels[0][2]]
    source.replaced = {}
    assert reader.read_hashes([Node(0, 256)]) == [source.levels[0][256]]


def test_readers_share_nothing():
    source = Source(300)
    source.reader().read_hashes([Node(0, 0)])
    source.replaced = {tile: flipped(source.good(tile), 0) for tile in tiles_of_size(300)}
    with pytest.raises(UntrustedError):
        source.reader().read_hashes([Node(0, 0)])


def test_the_sources_error_passes_and_nothing_is_kept():
    source = Source(300)
    reader = source.reader()
    honest = source.read_tiles

    def unavailable(_):
        raise UnavailableError("timeout")

    source.read_tiles = unavailable
    with pytest.raises(UnavailableError):
        reader.read_hashes([Node(0, 0)])
    source.read_tiles = honest
    assert reader.read_hashes([Node(0, 0)]) == [source.levels[0][0]]


@pytest.mark.parametrize("change", [lambda tiles: tiles[:-1], lambda tiles: [*tiles, b""], lambda _: []])
def test_a_source_that_breaks_its_contract_is_noticed(change):
    source = Source(300)
    honest = source.read_tiles
    source.read_tiles = lambda tiles: change(honest(tiles))
    with pytest.raises(AssertionError, match="tile source returned"):
        source.reader().read_hashes([Node(0, 0)])


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5])
def test_a_small_cache_changes_nothing_but_the_number_of_reads(monkeypatch, big_sources, limit):
    monkeypatch.setattr(tile_reader, "MAX_CACHED_TILES", limit)
    source = big_sources[70000]
    reader = source.reader()
    for index in [0, 256, 70000 - 1, 0, 5000, 256, 65535, 65536, 0]:
        assert reader.read_hashes([Node(0, index)]) == [source.levels[0][index]]
        assert len(reader._verified) <= limit
    everything = [Node(0, index) for index in range(0, 70000, 251)]
    assert reader.read_hashes(everything) == source.levels[0][0:70000:251]
    try:
        tile = Tile(0, 9)
        source.replaced = {tile: flipped(source.good(tile), 77)}
        with pytest.raises(UntrustedError):
            reader.read_hashes([Node(0, 9 * 256)])
    finally:
        source.replaced = {}


def test_tiles_that_every_read_needs_are_kept_longest(monkeypatch, big_sources):
    monkeypatch.setattr(tile_reader, "MAX_CACHED_TILES", 8)
    source = big_sources[70000]
    reader = source.reader()
    reader.read_hashes([Node(0, index * 256) for index in range(20)])
    for index in range(20, 60):
        source.asked.clear()
        reader.read_hashes([Node(0, index * 256)])
        assert source.asked == [[Tile(0, index)]]


@pytest.mark.parametrize("tile", [Tile(0, 273, 112), Tile(1, 1, 17), Tile(2, 0, 1), Tile(1, 0)])
def test_a_tile_that_is_read_again_is_verified_again(big_sources, tile):
    source = big_sources[70000]
    reader = source.reader()
    reader.read_hashes([Node(0, 0)])
    del reader._verified[tile]
    try:
        source.replaced = {tile: flipped(source.good(tile), 5)}
        with pytest.raises(UntrustedError):
            reader.read_hashes([Node(0, 256)])
    finally:
        source.replaced = {}
    assert reader.read_hashes([Node(0, 256)]) == [source.levels[0][256]]


@pytest.mark.parametrize("node", [Node(0, 300), Node(9, 0), Node(1, 150), Node(8, 1), Node(0, -1)])
def test_asking_beyond_the_tree_is_a_broken_invariant(node):
    source = Source(300)
    with pytest.raises(AssertionError):
        source.reader().read_hashes([node])
    assert source.asked == []


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 70000), st.data())
def test_any_node_of_any_size_is_right_and_one_flipped_bit_is_not(big_sources, size, data):
    source = Source.__new__(Source)
    source.__dict__.update(big_sources[70000].__dict__, replaced={}, asked=[])
    level = data.draw(st.integers(0, size.bit_length() - 1))
    node = Node(level, data.draw(st.integers(0, (size >> level) - 1)))
    leaves = source.levels[0][:size]
    root = root_of(leaves)
    expected = root_of(leaves[node.index << level : (node.index + 1) << level])
    assert source.reader(size=size, root=root).read_hashes([node]) == [expected]
    tile = data.draw(st.sampled_from(source.asked[0]))
    good = source.good(tile)
    source.replaced = {tile: flipped(good, data.draw(st.integers(0, len(good) - 1)))}
    with pytest.raises(UntrustedError):
        source.reader(size=size, root=root).read_hashes([node])


# --- entries ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 255, 256, 257, 600])
def test_entries_of_every_range(size):
    source = Source(size)
    reader = source.reader()
    ends = sorted({0, 1, 2, 255, 256, 257, 300, 511, 512, 513, size - 1, size} & set(range(size + 1)))
    for start in ends:
        for end in ends:
            if start <= end:
                assert list(reader.read_entries(start, end)) == source.entries[start:end]


def test_all_entries_of_a_big_log_in_few_reads(big_sources):
    source = big_sources[70000]
    source.asked.clear()
    assert list(source.reader().read_entries(0, 70000)) == source.entries
    calls = [call for call in source.asked if isinstance(call, list)]
    assert len(calls) == -(-274 // tile_reader.BUNDLES_AT_ONCE)
    assert sum(isinstance(call, Bundle) for call in source.asked) == 274


def test_only_the_bundles_of_the_range_are_read():
    source = Source(600)
    assert list(source.reader().read_entries(255, 257)) == source.entries[255:257]
    assert [call for call in source.asked if isinstance(call, Bundle)] == [Bundle(0), Bundle(1)]
    source.asked.clear()
    assert list(source.reader().read_entries(599, 600)) == source.entries[599:]
    assert [call for call in source.asked if isinstance(call, Bundle)] == [Bundle(2, 88)]


def test_every_flipped_byte_of_a_bundle_is_refused():
    source = Source(260)
    for bundle in (Bundle(0), Bundle(1, 4)):
        good = source.good(bundle)
        reader = source.reader()
        for place in range(len(good)):
            source.replaced = {bundle: flipped(good, place, place % 8)}
            first = bundle.index * 256
            with pytest.raises(LogError) as caught:
                next(reader.read_entries(first, first + bundle.width))
            assert caught.value.code in ("malformed", "entry")


def test_every_truncation_and_extension_of_a_bundle_is_refused():
    source = Source(4)
    good = source.good(Bundle(0, 4))
    for bad in [good[:length] for length in range(1, len(good))] + [good + b"\0", good + b"\0\0", good * 2]:
        source.replaced = {Bundle(0, 4): bad}
        with pytest.raises(MalformedError):
            next(source.reader().read_entries(0, 1))


def test_entries_in_another_order_or_cut_elsewhere_are_refused():
    source = Source(4)
    a, b, c, d = source.entries
    for bad in ([b, a, c, d], [a + b, b"", c, d], [a, b, c + d[:1], d[1:]], [a, a, c, d], [a, b, c, b""]):
        source.replaced = {Bundle(0, 4): format_bundle(bad)}
        with pytest.raises(UntrustedError) as caught:
            next(source.reader().read_entries(0, 1))
        assert caught.value.code == "entry"


def test_not_one_entry_of_a_bad_bundle_is_shown():
    """The bad entry is the bundle's last and was not even asked for."""
    source = Source(300)
    entries = parse_bundle(source.good(Bundle(0)), width=256)
    source.replaced = {Bundle(0): format_bundle([*entries[:-1], b"forged"])}
    with pytest.raises(UntrustedError, match="tile/entries/000: entry 255"):
        next(source.reader().read_entries(0, 1))


def test_good_bundles_are_shown_up_to_the_first_bad_one():
    source = Source(600)
    source.replaced = {Bundle(1): source.good(Bundle(0))}
    shown = []
    with pytest.raises(UntrustedError):
        shown.extend(source.reader().read_entries(0, 600))
    entries = source.reader().read_entries(0, 600)
    assert [next(entries) for _ in range(256)] == source.entries[:256]
    with pytest.raises(UntrustedError):
        next(entries)


def test_a_bundle_that_matches_a_forged_tile_is_refused():
    source = Source(300)
    entries = [b"forged", *source.entries[1:256]]
    source.replaced = {
        Bundle(0): format_bundle(entries),
        Tile(0, 0): format_tile([leaf_hash(entry) for entry in entries]),
    }
    with pytest.raises(UntrustedError) as caught:
        next(source.reader().read_entries(0, 1))
    assert caught.value.code == "tile"
    assert all(isinstance(call, list) for call in source.asked), "no bundle before its tile"


def test_an_inner_node_is_not_taken_for_an_entry():
    """An entry that begins with the byte of inner nodes still hashes as a leaf."""
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    source = Source(1, [node_hash(left, right)])
    source.replaced = {Bundle(0, 1): format_bundle([b"\x01" + left + right])}
    with pytest.raises(UntrustedError):
        next(source.reader().read_entries(0, 1))


@pytest.mark.parametrize(("start", "end"), [(-1, 0), (0, 301), (301, 301), (5, 4), (300, 299)])
def test_a_range_beyond_the_log_is_a_broken_invariant_at_once(start, end):
    source = Source(300)
    with pytest.raises(AssertionError):
        source.reader().read_entries(start, end)
