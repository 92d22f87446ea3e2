"""Inclusion, consistency and subtree proofs, against the slow reference and against an attacker.

The bounds of the exhaustive tests are in leaves. A proof of the reference is right by its own recursion, so
"the same as the reference" is the strongest statement here, and everything refused starts from such a proof.
"""

import base64
import hashlib
import json
from bisect import bisect_left
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.tlog.errors import LogError, MalformedError, UntrustedError
from assay.tlog.merkle import EMPTY_ROOT, Hash, Node, leaf_hash, node_hash
from assay.tlog.proof import (
    consistency_nodes,
    inclusion_nodes,
    is_subtree,
    prove_consistency,
    prove_inclusion,
    prove_subtree_consistency,
    prove_subtree_inclusion,
    right_edge_nodes,
    subtree_consistency_nodes,
    subtree_nodes,
    subtree_root,
    tree_root,
    verify_consistency,
    verify_inclusion,
    verify_subtree_consistency,
    verify_subtree_inclusion,
)
from assay.tlog.strict import MAX_DECIMAL

LIMIT = 64
OWN_VECTORS = Path(__file__).parents[1] / "vectors" / "merkle" / "accumulated.json"
OTHER = Hash(hashlib.sha256(b"no hash of any tree here").digest())


def flipped(value, bit):
    data = bytearray(value)
    data[bit // 8] ^= 1 << bit % 8
    return Hash(bytes(data))


def refused(verify, code=None, **arguments):
    """The verifier refuses, and for the right kind of reason."""
    with pytest.raises(LogError) as caught:
        verify(**arguments)
    if code is not None:
        assert caught.value.code == code, caught.value


# --- third-party vectors ---------------------------------------------------------------------------


def load(vectors, name):
    return json.loads((vectors / "merkle" / f"{name}.json").read_text())


def hashes_of(case, *names):
    return [base64.b64decode(case[name]) for name in names], [
        base64.b64decode(p) for p in case["proof"] or ()
    ]


def judge(cases, verify):
    """How many were accepted; every vector must get the verdict it names."""
    accepted = 0
    for case in cases:
        try:
            verify(case)
        except LogError:
            assert case["wantErr"], case["name"]
        else:
            assert not case["wantErr"], case["name"]
            accepted += 1
    return len(cases), accepted


def test_inclusion_vectors(vectors):
    def verify(case):
        (leaf, root), proof = hashes_of(case, "leafHash", "root")
        assert (
            verify_inclusion(leaf, index=case["leafIdx"], size=case["treeSize"], proof=proof, root=root)
            == leaf
        )

    assert judge(load(vectors, "inclusion"), verify) == (98, 6)


def test_consistency_vectors(vectors):
    def verify(case):
        (old, new), proof = hashes_of(case, "root1", "root2")
        verify_consistency(
            old_size=case["size1"], old_root=old, new_size=case["size2"], new_root=new, proof=proof
        )

    assert judge(load(vectors, "consistency"), verify) == (98, 6)


def test_subtree_inclusion_vectors(vectors):
    def verify(case):
        (leaf, root), proof = hashes_of(case, "leafHash", "root")
        span = {"start": case["start"], "end": case["end"]}
        verify_subtree_inclusion(leaf, index=case["leafIdx"], **span, proof=proof, subtree_root=root)

    assert judge(load(vectors, "subtree_inclusion"), verify) == (204, 12)


def test_subtree_consistency_vectors(vectors):
    def verify(case):
        (old, new), proof = hashes_of(case, "root1", "root2")
        span = {"start": case["start"], "end": case["end"], "size": case["size"]}
        verify_subtree_consistency(**span, subtree_root=old, root=new, proof=proof)

    assert judge(load(vectors, "subtree_consistency"), verify) == (118, 12)


# --- agreement with the slow reference, exhaustively -----------------------------------------------


def inclusions(limit=LIMIT):
    return [(index, size) for size in range(1, limit + 1) for index in range(size)]


def consistencies(limit=LIMIT):
    return [(old, new) for new in range(limit + 1) for old in range(new + 1)]


def subtree_inclusions(reference, limit=LIMIT):
    return [(index, start, end) for start, end in reference.subtrees(limit) for index in range(start, end)]


def subtree_consistencies(reference, limit=LIMIT):
    return [(start, end, size) for start, end in reference.subtrees(limit) for size in range(end, limit + 1)]


def test_every_root_is_that_of_the_reference(reference):
    for size in range(LIMIT + 1):
        assert tree_root(size, reference.reader(size)) == reference.root(size)


def test_every_inclusion_proof_is_that_of_the_reference_and_verifies(reference):
    for index, size in inclusions():
        proof = prove_inclusion(index=index, size=size, reader=reference.reader(size))
        assert proof == reference.path(index, 0, size)
        leaf, root = reference.mth(index, index + 1), reference.root(size)
        assert verify_inclusion(leaf, index=index, size=size, proof=proof, root=root) is leaf


def test_every_consistency_proof_is_that_of_the_reference_and_verifies(reference):
    for old, new in consistencies():
        proof = prove_consistency(old_size=old, new_size=new, reader=reference.reader(new))
        assert proof == reference.subtree_proof(0, old, new)
        verify_consistency(
            old_size=old,
            old_root=reference.root(old),
            new_size=new,
            new_root=reference.root(new),
            proof=proof,
        )


def test_every_subtree_is_that_of_the_reference(reference):
    expected = set(reference.subtrees(LIMIT))
    for end in range(LIMIT + 1):
        for start in range(LIMIT + 1):
            assert is_subtree(start, end) == ((start, end) in expected)
    for start, end in expected:
        assert subtree_root(start, end, reference.reader(end)) == reference.mth(start, end)


@pytest.mark.parametrize("span", [(-1, 0), (-1, -1), (-2, 2), (1, 0), (5, 4), (1, 3), (2, 5), (4, 9), (3, 5)])
def test_ranges_that_no_tree_has_are_no_subtrees(span):
    assert not is_subtree(*span)


def test_every_subtree_inclusion_proof_is_that_of_the_reference_and_verifies(reference):
    for index, start, end in subtree_inclusions(reference):
        proof = prove_subtree_inclusion(index=index, start=start, end=end, reader=reference.reader(end))
        assert proof == reference.path(index, start, end)
        leaf, root = reference.mth(index, index + 1), reference.mth(start, end)
        span = {"index": index, "start": start, "end": end}
        assert verify_subtree_inclusion(leaf, **span, proof=proof, subtree_root=root) is leaf


def test_every_subtree_consistency_proof_is_that_of_the_reference_and_verifies(reference):
    for start, end, size in subtree_consistencies(reference):
        span = {"start": start, "end": end, "size": size}
        proof = prove_subtree_consistency(**span, reader=reference.reader(size))
        assert proof == reference.subtree_proof(start, end, size)
        verify_subtree_consistency(
            **span, subtree_root=reference.mth(start, end), root=reference.root(size), proof=proof
        )


def test_a_proof_costs_at_most_one_read(reference):
    for old, new in consistencies(20):
        reader = reference.reader(new)
        prove_consistency(old_size=old, new_size=new, reader=reader)
        assert len(reader.calls) == (0 < old < new)


def test_the_plan_names_exactly_the_nodes_that_are_read(reference):
    for index, size in inclusions(20):
        reader = reference.reader(size)
        proof = prove_inclusion(index=index, size=size, reader=reader)
        plan = inclusion_nodes(index, size)
        assert [len(part) > 0 for part in plan] == [True] * len(proof)
        assert list(chain.from_iterable(reader.calls)) == [node for part in plan for node in part]


def test_consistency_is_the_subtree_that_begins_at_0():
    for old, new in consistencies(20):
        assert consistency_nodes(old, new) == subtree_consistency_nodes(0, old, new)


# --- our own vectors: a fresh clone tests the same proofs ------------------------------------------


def accumulated(reference, inclusion, consistency, subtree_inclusion, subtree_consistency):
    """One hash over all proofs of a kind; a line for each: its numbers, then its hashes in hexadecimal."""

    def fold(cases, prove):
        lines = (
            " ".join([*map(str, case), *(value.hex() for value in prove(*case))]) + "\n" for case in cases
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    return {
        "inclusion_sha256": fold(inclusions(), inclusion),
        "consistency_sha256": fold(consistencies(), consistency),
        "subtree_inclusion_sha256": fold(subtree_inclusions(reference), subtree_inclusion),
        "subtree_consistency_sha256": fold(subtree_consistencies(reference), subtree_consistency),
    }


@pytest.fixture(scope="module")
def own_vectors():
    return json.loads(OWN_VECTORS.read_text())


def test_the_reference_still_gives_the_accumulated_vectors(reference, own_vectors):
    roots = [reference.root(size).hex() for size in range(LIMIT + 1)]
    assert own_vectors["roots_hex"] == roots
    digests = accumulated(
        reference,
        lambda index, size: reference.path(index, 0, size),
        lambda old, new: reference.subtree_proof(0, old, new),
        reference.path,
        reference.subtree_proof,
    )
    assert own_vectors["proofs"] == digests


def test_the_prover_gives_the_accumulated_vectors(reference, own_vectors):
    reader = reference.reader(LIMIT)
    digests = accumulated(
        reference,
        lambda i, n: prove_inclusion(index=i, size=n, reader=reader),
        lambda m, n: prove_consistency(old_size=m, new_size=n, reader=reader),
        lambda i, s, e: prove_subtree_inclusion(index=i, start=s, end=e, reader=reader),
        lambda s, e, n: prove_subtree_consistency(start=s, end=e, size=n, reader=reader),
    )
    assert own_vectors["proofs"] == digests


# --- refusals: inclusion ---------------------------------------------------------------------------


def test_inclusion_refuses_one_flipped_bit_in_any_hash(reference):
    for index, size in inclusions():
        leaf, root = reference.mth(index, index + 1), reference.root(size)
        proof = reference.path(index, 0, size)
        at = {"index": index, "size": size}
        for place, value in enumerate(proof):
            bad = [*proof[:place], flipped(value, (index * 7 + size + place) % 256), *proof[place + 1 :]]
            refused(verify_inclusion, "inclusion", leaf=leaf, **at, proof=bad, root=root)
        bit = (index * 11 + size) % 256
        refused(verify_inclusion, "inclusion", leaf=flipped(leaf, bit), **at, proof=proof, root=root)
        refused(verify_inclusion, "inclusion", leaf=leaf, **at, proof=proof, root=flipped(root, bit))


@pytest.mark.parametrize(("index", "size"), [(0, 2), (6, 7), (5, 13), (12, 13), (31, 33), (32, 33), (40, 64)])
def test_inclusion_refuses_every_flipped_bit(reference, index, size):
    leaf, root = reference.mth(index, index + 1), reference.root(size)
    proof = reference.path(index, 0, size)
    for place, value in enumerate(proof):
        for bit in range(256):
            bad = [*proof[:place], flipped(value, bit), *proof[place + 1 :]]
            refused(verify_inclusion, "inclusion", leaf=leaf, index=index, size=size, proof=bad, root=root)


def lengthened_and_shortened(proof):
    """Every truncation, every hash left out, a strange or repeated hash put in anywhere, hashes cut."""
    for place in range(len(proof)):
        yield proof[:place]
        yield [*proof[:place], *proof[place + 1 :]]
        yield [*proof[:place], proof[place], *proof[place:]]
        yield [*proof[:place], proof[place][:31], *proof[place + 1 :]]
        yield [*proof[:place], proof[place] + b"\0", *proof[place + 1 :]]
        yield [*proof[:place], b"", *proof[place + 1 :]]
    for place in range(len(proof) + 1):
        yield [*proof[:place], OTHER, *proof[place:]]
    yield [*proof, *proof, OTHER]


def test_inclusion_refuses_every_other_number_or_length_of_hashes(reference):
    for index, size in inclusions(33):
        leaf, root = reference.mth(index, index + 1), reference.root(size)
        for bad in lengthened_and_shortened(reference.path(index, 0, size)):
            refused(verify_inclusion, "malformed", leaf=leaf, index=index, size=size, proof=bad, root=root)


def test_inclusion_refuses_hashes_in_another_order(reference):
    for index, size in inclusions(33):
        leaf, root = reference.mth(index, index + 1), reference.root(size)
        proof = reference.path(index, 0, size)
        for place in range(len(proof) - 1):
            bad = [*proof[:place], proof[place + 1], proof[place], *proof[place + 2 :]]
            refused(verify_inclusion, "inclusion", leaf=leaf, index=index, size=size, proof=bad, root=root)


def test_inclusion_refuses_every_other_index_and_every_other_root(reference):
    for index, size in inclusions(33):
        leaf, root = reference.mth(index, index + 1), reference.root(size)
        proof = reference.path(index, 0, size)
        for other in {*range(-1, size + 2), -size, index + 2**62, index - 2**62} - {index}:
            refused(verify_inclusion, leaf=leaf, index=other, size=size, proof=proof, root=root)
        for other in range(35):
            if other != size:
                bad = reference.root(other)
                refused(verify_inclusion, leaf=leaf, index=index, size=size, proof=proof, root=bad)


def test_inclusion_binds_the_size_as_far_as_the_shape_of_the_path_shows_it(reference):
    """Off by one is refused unless the two sizes give this leaf the very same path.

    Then the proof says the same of both: a size is believed because the checkpoint signs it with the root.
    """
    for index, size in inclusions(LIMIT):
        leaf, root = reference.mth(index, index + 1), reference.root(size)
        proof = reference.path(index, 0, size)
        for other in (size - 1, size + 1):
            same_sides = index < other and sides(index, size) == sides(index, other)
            if not same_sides:
                refused(verify_inclusion, leaf=leaf, index=index, size=other, proof=proof, root=root)
            if other <= index:
                refused(
                    verify_inclusion, "malformed", leaf=leaf, index=index, size=other, proof=proof, root=root
                )
            refused(
                verify_inclusion, leaf=leaf, index=index, size=other, proof=proof, root=reference.root(other)
            )


def sides(index, size):
    """Left or right at each fork, by the recursive definition."""
    path, start, end = [], 0, size
    while end - start > 1:
        k = 1
        while k * 2 < end - start:
            k *= 2
        path.append(index < start + k)
        start, end = (start, start + k) if index < start + k else (start + k, end)
    return path


def test_inclusion_refuses_an_inner_node_in_the_leafs_place(reference):
    """An inner node with the rest of its leaf's proof leads to the root, but is too short for the size."""
    for index, size in inclusions(33):
        proof, root = reference.path(index, 0, size), reference.root(size)
        node = reference.mth(index, index + 1)
        for length, (is_left, sibling) in enumerate(zip(reversed(sides(index, size)), proof, strict=True), 1):
            node = node_hash(node, sibling) if is_left else node_hash(sibling, node)
            refused(
                verify_inclusion,
                "malformed",
                leaf=node,
                index=index,
                size=size,
                proof=proof[length:],
                root=root,
            )
        assert node == root


@pytest.mark.parametrize("size", [0, -1, -(2**63), MAX_DECIMAL + 1, 2**64, 2**4000])
def test_inclusion_refuses_sizes_that_no_tree_has(size):
    refused(verify_inclusion, "malformed", leaf=OTHER, index=0, size=size, proof=[], root=OTHER)


@pytest.mark.parametrize("bad", [b"", bytes(31), bytes(33), bytes(64)])
def test_a_leaf_or_root_of_another_length_proves_nothing_even_if_both_are_equal(bad):
    refused(verify_inclusion, "malformed", leaf=bad, index=0, size=1, proof=[], root=bad)
    refused(verify_inclusion, "malformed", leaf=OTHER, index=0, size=1, proof=[], root=bad)
    refused(verify_inclusion, "malformed", leaf=bad, index=0, size=1, proof=[], root=OTHER)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_an_old_root_of_another_length_leads_to_no_tree(reference, length):
    """The bytes before or after a cut hash do not slip into its neighbour, whose length is checked."""
    both = reference.root(4) + reference.mth(4, 8)
    new = {"new_size": 8, "new_root": reference.root(8)}
    proof = [both[length : length + 32]] if length < 33 else [both[-32:]]
    refused(verify_consistency, "consistency", old_size=4, old_root=both[:length], **new, proof=proof)
    refused(verify_consistency, old_size=4, old_root=both[:length], **new, proof=[both[length:]])


# --- refusals: consistency -------------------------------------------------------------------------


def test_consistency_refuses_one_flipped_bit_in_any_hash(reference):
    for start, end, size in subtree_consistencies(reference, 40):
        old, new = reference.mth(start, end), reference.root(size)
        proof = reference.subtree_proof(start, end, size)
        span = {"start": start, "end": end, "size": size}
        bit = (start * 3 + end * 7 + size) % 256
        for place, value in enumerate(proof):
            bad = [*proof[:place], flipped(value, (bit + place) % 256), *proof[place + 1 :]]
            refused(verify_subtree_consistency, "consistency", **span, subtree_root=old, root=new, proof=bad)
        bad = flipped(old, bit)
        refused(verify_subtree_consistency, "consistency", **span, subtree_root=bad, root=new, proof=proof)
        if start < end:  # an empty subtree says nothing of the tree
            bad = flipped(new, bit)
            refused(
                verify_subtree_consistency, "consistency", **span, subtree_root=old, root=bad, proof=proof
            )


@pytest.mark.parametrize(
    ("old", "new"), [(1, 2), (3, 7), (4, 7), (6, 7), (13, 33), (32, 33), (33, 64), (63, 64)]
)
def test_consistency_refuses_every_flipped_bit(reference, old, new):
    roots = {"old_root": reference.root(old), "new_root": reference.root(new)}
    proof = reference.subtree_proof(0, old, new)
    sizes = {"old_size": old, "new_size": new}
    for place, value in enumerate(proof):
        for bit in range(256):
            bad = [*proof[:place], flipped(value, bit), *proof[place + 1 :]]
            refused(verify_consistency, "consistency", **sizes, **roots, proof=bad)
    for name, value in roots.items():
        for bit in range(256):
            refused(
                verify_consistency,
                "consistency",
                **sizes,
                **{**roots, name: flipped(value, bit)},
                proof=proof,
            )


def test_consistency_refuses_every_other_number_or_length_of_hashes(reference):
    for start, end, size in subtree_consistencies(reference, 24):
        old, new = reference.mth(start, end), reference.root(size)
        span = {"start": start, "end": end, "size": size, "subtree_root": old, "root": new}
        for bad in lengthened_and_shortened(reference.subtree_proof(start, end, size)):
            refused(verify_subtree_consistency, "malformed", **span, proof=bad)


def test_consistency_refuses_hashes_in_another_order(reference):
    for old, new in consistencies(40):
        proof = reference.subtree_proof(0, old, new)
        roots = {"old_root": reference.root(old), "new_root": reference.root(new)}
        for place in range(len(proof) - 1):
            bad = [*proof[:place], proof[place + 1], proof[place], *proof[place + 2 :]]
            refused(verify_consistency, "consistency", old_size=old, new_size=new, **roots, proof=bad)


def test_consistency_refuses_swapped_roots_and_swapped_sizes(reference):
    for old, new in consistencies():
        proof = reference.subtree_proof(0, old, new)
        old_root, new_root = reference.root(old), reference.root(new)
        if old == new:
            continue
        swapped = {"old_root": new_root, "new_root": old_root}
        refused(verify_consistency, "consistency", old_size=old, new_size=new, **swapped, proof=proof)
        refused(verify_consistency, "malformed", old_size=new, new_size=old, **swapped, proof=proof)


def test_consistency_refuses_sizes_off_by_one_with_the_roots_of_the_right_ones(reference):
    """A smaller old size is always refused; so is any other new size that changes the path."""
    for old, new in consistencies(40):
        if old == 0:
            continue
        roots = {"old_root": reference.root(old), "new_root": reference.root(new)}
        proof = reference.subtree_proof(0, old, new)
        for other in (old - 1, old + 1):
            if other == 0 or shape(other, new) != shape(old, new):
                refused(verify_consistency, old_size=other, new_size=new, **roots, proof=proof)
        for other in (new - 1, new + 1):
            if shape(old, other) != shape(old, new):
                refused(verify_consistency, old_size=old, new_size=other, **roots, proof=proof)


def shape(old, new):
    """Which side each hash of a consistency proof stands on, by the recursive definition."""
    if old > new:
        return None
    marks, low, high, start = [], 0, new, 0
    while (start, old) != (low, high):
        k = 1
        while k * 2 < high - low:
            k *= 2
        if old <= low + k:
            marks.append("right")
            high = low + k
        else:
            marks.append("within")
            start = low = low + k
    return marks


def test_consistency_refuses_the_root_of_any_other_size_in_either_place(reference):
    for old, new in consistencies(20):
        proof = reference.subtree_proof(0, old, new)
        sizes = {"old_size": old, "new_size": new}
        for other in range(22):
            bad = reference.root(other)
            if other != old:
                refused(
                    verify_consistency,
                    "consistency",
                    **sizes,
                    old_root=bad,
                    new_root=reference.root(new),
                    proof=proof,
                )
            if other != new and old > 0:
                refused(
                    verify_consistency,
                    "consistency",
                    **sizes,
                    old_root=reference.root(old),
                    new_root=bad,
                    proof=proof,
                )


def test_a_tree_whose_past_was_rewritten_is_refused(reference):
    """A log that changed one old leaf has no proof: neither the honest one nor its own."""
    leaves = [leaf_hash(reference.leaf_data(index)) for index in range(13)]
    leaves[2] = leaf_hash(b"rewritten")
    forged = ListTree(leaves)
    proof = prove_consistency(old_size=6, new_size=13, reader=forged)
    for bad in (proof, reference.subtree_proof(0, 6, 13)):
        refused(
            verify_consistency,
            "consistency",
            old_size=6,
            old_root=reference.root(6),
            new_size=13,
            new_root=tree_root(13, forged),
            proof=bad,
        )


class ListTree:
    """A hash reader over any leaf hashes."""

    def __init__(self, leaves):
        self.levels = [leaves]
        while len(self.levels[-1]) > 1:
            below = self.levels[-1]
            self.levels.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])

    def read_hashes(self, nodes):
        return [self.levels[node.level][node.index] for node in nodes]


def test_the_empty_tree_is_extended_by_every_tree_and_extends_none(reference):
    empty = {"old_size": 0, "old_root": EMPTY_ROOT}
    verify_consistency(**empty, new_size=0, new_root=EMPTY_ROOT, proof=[])
    verify_consistency(**empty, new_size=5, new_root=reference.root(5), proof=[])
    refused(verify_consistency, "malformed", **empty, new_size=5, new_root=reference.root(5), proof=[OTHER])
    refused(verify_consistency, "consistency", **empty, new_size=0, new_root=OTHER, proof=[])
    refused(verify_consistency, "malformed", **empty, new_size=5, new_root=b"no hash", proof=[])
    wrong = {"old_size": 0, "old_root": OTHER}
    refused(verify_consistency, "consistency", **wrong, new_size=0, new_root=OTHER, proof=[])
    refused(verify_consistency, "consistency", **wrong, new_size=5, new_root=reference.root(5), proof=[])
    refused(
        verify_consistency,
        "malformed",
        old_size=5,
        old_root=reference.root(5),
        new_size=0,
        new_root=EMPTY_ROOT,
        proof=[],
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [(-1, 0), (-1, 5), (0, -1), (1, 0), (6, 5), (-5, -5), (1, MAX_DECIMAL + 1), (2**64, 2**64), (0, 2**64), (2**4000, 2**4001)],
)  # fmt: skip
def test_consistency_refuses_sizes_that_no_tree_has(old, new):
    refused(
        verify_consistency, "malformed", old_size=old, old_root=OTHER, new_size=new, new_root=OTHER, proof=[]
    )


# --- refusals: subtrees ----------------------------------------------------------------------------


def test_ranges_that_are_no_subtrees_are_refused(reference):
    valid = set(reference.subtrees(20))
    for start in range(-2, 21):
        for end in range(-2, 21):
            if (start, end) in valid:
                continue
            refused(
                verify_subtree_consistency,
                "malformed",
                start=start,
                end=end,
                subtree_root=OTHER,
                size=20,
                root=OTHER,
                proof=[],
            )
            for index in range(-3, 22):
                refused(
                    verify_subtree_inclusion,
                    "malformed",
                    leaf=OTHER,
                    index=index,
                    start=start,
                    end=end,
                    proof=[],
                    subtree_root=OTHER,
                )


def test_subtree_inclusion_refuses_leaves_outside_and_at_any_other_place(reference):
    for index, start, end in subtree_inclusions(reference, 24):
        leaf, root = reference.mth(index, index + 1), reference.mth(start, end)
        proof = reference.path(index, start, end)
        for other in set(range(start - 2, end + 2)) - {index}:
            refused(
                verify_subtree_inclusion,
                "inclusion"
                if start <= other < end and len(proof) == len(reference.path(other, start, end))
                else "malformed",
                leaf=leaf,
                index=other,
                start=start,
                end=end,
                proof=proof,
                subtree_root=root,
            )


def test_subtree_inclusion_refuses_one_flipped_bit_in_any_hash(reference):
    for index, start, end in subtree_inclusions(reference, 40):
        leaf, root = reference.mth(index, index + 1), reference.mth(start, end)
        proof = reference.path(index, start, end)
        span = {"index": index, "start": start, "end": end}
        for place, value in enumerate(proof):
            bad = [*proof[:place], flipped(value, (index + place) % 256), *proof[place + 1 :]]
            refused(verify_subtree_inclusion, "inclusion", leaf=leaf, **span, proof=bad, subtree_root=root)
        for bad_leaf, bad_root in ((flipped(leaf, index), root), (leaf, flipped(root, end))):
            refused(
                verify_subtree_inclusion,
                "inclusion",
                leaf=bad_leaf,
                **span,
                proof=proof,
                subtree_root=bad_root,
            )


def test_no_leaf_is_in_an_empty_subtree():
    for start in (0, 1, 7):
        refused(
            verify_subtree_inclusion,
            "malformed",
            leaf=EMPTY_ROOT,
            index=start,
            start=start,
            end=start,
            proof=[],
            subtree_root=EMPTY_ROOT,
        )


def test_an_empty_subtree_needs_the_empty_root_and_no_proof(reference):
    arguments = {"start": 5, "end": 5, "size": 9, "root": reference.root(9)}
    verify_subtree_consistency(**arguments, subtree_root=EMPTY_ROOT, proof=[])
    refused(verify_subtree_consistency, "consistency", **arguments, subtree_root=OTHER, proof=[])
    refused(verify_subtree_consistency, "malformed", **arguments, subtree_root=EMPTY_ROOT, proof=[OTHER])
    refused(
        verify_subtree_consistency, "malformed", **{**arguments, "size": 4}, subtree_root=EMPTY_ROOT, proof=[]
    )


# --- our own mistakes are no LogErrors -------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        lambda reader: prove_inclusion(index=5, size=5, reader=reader),
        lambda reader: prove_inclusion(index=-1, size=5, reader=reader),
        lambda reader: prove_inclusion(index=0, size=0, reader=reader),
        lambda reader: prove_consistency(old_size=6, new_size=5, reader=reader),
        lambda reader: prove_consistency(old_size=-1, new_size=5, reader=reader),
        lambda reader: prove_subtree_inclusion(index=4, start=1, end=5, reader=reader),
        lambda reader: prove_subtree_inclusion(index=3, start=4, end=5, reader=reader),
        lambda reader: prove_subtree_consistency(start=1, end=3, size=5, reader=reader),
        lambda reader: prove_subtree_consistency(start=4, end=6, size=5, reader=reader),
        lambda reader: subtree_root(1, 3, reader),
        lambda reader: tree_root(-1, reader),
    ],
)
def test_proving_what_no_tree_has_is_a_broken_invariant(reference, wrong):
    reader = reference.reader(8)
    with pytest.raises(AssertionError):
        wrong(reader)
    assert reader.calls == []


@pytest.mark.parametrize(
    "change", [lambda hashes: hashes[:-1], lambda hashes: [*hashes, OTHER], lambda _: []]
)
def test_a_reader_that_breaks_its_contract_is_noticed(reference, change):
    class Broken:
        def read_hashes(self, nodes):
            return change(reference.reader(13).read_hashes(nodes))

    with pytest.raises(AssertionError, match="hash reader returned"):
        prove_inclusion(index=5, size=13, reader=Broken())
    with pytest.raises(AssertionError, match="hash reader returned"):
        tree_root(13, Broken())


# --- large trees -----------------------------------------------------------------------------------


class SparseTree:
    """A tree of up to 2**63 - 1 leaves, all alike but a few; hashed by the recursive definition."""

    def __init__(self, special):
        self.special = sorted(special)
        self.same = [leaf_hash(b"")]
        for _ in range(63):
            self.same.append(node_hash(self.same[-1], self.same[-1]))
        self.known = {}

    def mth(self, start, end):
        if (start, end) not in self.known:
            self.known[start, end] = self._mth(start, end)
        return self.known[start, end]

    def _mth(self, start, end):
        length = end - start
        first = bisect_left(self.special, start)
        alike = first == len(self.special) or self.special[first] >= end
        if alike and length & (length - 1) == 0:
            return self.same[length.bit_length() - 1]
        if length == 1:
            return leaf_hash(str(start).encode())
        middle = start + (1 << (length - 1).bit_length() - 1)
        return node_hash(self.mth(start, middle), self.mth(middle, end))

    def read_hashes(self, nodes):
        return [self.mth(node.index << node.level, (node.index + 1) << node.level) for node in nodes]


def near_powers_of_two(least=1):
    around = st.builds(lambda power, delta: (1 << power) + delta, st.integers(0, 62), st.integers(-2, 2))
    return st.one_of(around, st.integers(least, MAX_DECIMAL)).filter(lambda n: least <= n <= MAX_DECIMAL)


@st.composite
def two_sizes(draw):
    sizes = sorted([draw(near_powers_of_two()), draw(near_powers_of_two())])
    return sizes[0], sizes[1]


@st.composite
def large_subtrees(draw):
    size = draw(near_powers_of_two())
    level = draw(st.integers(0, size.bit_length() - 1))
    start = draw(st.integers(0, (size - 1) >> level)) << level
    end = draw(st.integers(start + 1, min(size, start + (1 << level))))
    return start, end, size


@settings(deadline=None)
@given(near_powers_of_two(), st.data())
def test_inclusion_in_large_trees(size, data):
    index = data.draw(st.integers(0, size - 1) | st.sampled_from([0, size - 1]))
    tree = SparseTree({index, size - 1, *data.draw(st.lists(st.integers(0, size - 1), max_size=3))})
    proof = prove_inclusion(index=index, size=size, reader=tree)
    arguments = {"leaf": tree.mth(index, index + 1), "size": size, "root": tree.mth(0, size)}
    verify_inclusion(**arguments, index=index, proof=proof)

    inner = (index ^ (size - 1)).bit_length()
    assert len(proof) == inner + (index >> inner).bit_count()  # the formula of CT verifiers
    refused(verify_inclusion, **arguments, index=index, proof=[*proof, OTHER])
    if size > 1:
        refused(verify_inclusion, **arguments, index=(index + 1) % size, proof=proof)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        bad = [*proof[:place], flipped(proof[place], data.draw(st.integers(0, 255))), *proof[place + 1 :]]
        refused(verify_inclusion, "inclusion", **arguments, index=index, proof=bad)
        refused(verify_inclusion, "malformed", **arguments, index=index, proof=proof[:-1])


@settings(deadline=None)
@given(two_sizes(), st.data())
def test_consistency_of_large_trees(sizes, data):
    old, new = sizes
    tree = SparseTree({0, old - 1, new - 1, *data.draw(st.lists(st.integers(0, new - 1), max_size=3))})
    proof = prove_consistency(old_size=old, new_size=new, reader=tree)
    arguments = {"old_size": old, "new_size": new, "old_root": tree.mth(0, old), "new_root": tree.mth(0, new)}
    verify_consistency(**arguments, proof=proof)

    if old < new:
        fork = ((old - 1) ^ (new - 1)).bit_length()
        lowest = (old & -old).bit_length() - 1
        seed = 0 if old & (old - 1) == 0 else 1
        assert len(proof) == seed + fork - lowest + ((old - 1) >> fork).bit_count()
    refused(verify_consistency, "malformed", **arguments, proof=[*proof, OTHER])
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        bad = [*proof[:place], flipped(proof[place], data.draw(st.integers(0, 255))), *proof[place + 1 :]]
        refused(verify_consistency, "consistency", **arguments, proof=bad)
        refused(verify_consistency, "malformed", **arguments, proof=proof[:-1])


@settings(deadline=None)
@given(large_subtrees(), st.data())
def test_subtrees_of_large_trees(span, data):
    start, end, size = span
    assert is_subtree(start, end)
    tree = SparseTree({start, end - 1, size - 1})
    hashes = {"subtree_root": tree.mth(start, end), "root": tree.mth(0, size)}
    assert subtree_root(start, end, tree) == hashes["subtree_root"]
    place = {"start": start, "end": end, "size": size}
    proof = prove_subtree_consistency(**place, reader=tree)
    verify_subtree_consistency(**place, **hashes, proof=proof)
    for spot in range(len(proof)):
        bad = [*proof[:spot], OTHER, *proof[spot + 1 :]]
        refused(verify_subtree_consistency, "consistency", **place, **hashes, proof=bad)

    index = data.draw(st.integers(start, end - 1))
    proof = prove_subtree_inclusion(index=index, start=start, end=end, reader=tree)
    leaf = tree.mth(index, index + 1)
    place = {"index": index, "start": start, "end": end, "subtree_root": hashes["subtree_root"]}
    verify_subtree_inclusion(leaf, **place, proof=proof)
    for spot in range(len(proof)):
        bad = [*proof[:spot], OTHER, *proof[spot + 1 :]]
        refused(verify_subtree_inclusion, "inclusion", leaf=leaf, **place, proof=bad)


def test_a_tree_too_large_for_a_checkpoint_is_refused_with_its_right_proof():
    tree = SparseTree({})
    proof = tree.same[:63]
    arguments = {"leaf": tree.same[0], "index": 0, "proof": proof, "root": tree.same[63]}
    refused(verify_inclusion, "malformed", **arguments, size=MAX_DECIMAL + 1)
    half = {**arguments, "proof": proof[:62], "root": tree.same[62]}
    assert verify_inclusion(**half, size=2**62) == tree.same[0]


@given(st.integers(0, MAX_DECIMAL), st.lists(st.binary(min_size=32, max_size=32), max_size=70), st.data())
def test_no_hashes_of_an_attacker_prove_inclusion(size, proof, data):
    index = data.draw(st.integers(-1, size + 1))
    refused(verify_inclusion, leaf=OTHER, index=index, size=size, proof=proof, root=EMPTY_ROOT)


@given(st.integers(0, MAX_DECIMAL))
def test_the_right_edge_covers_the_tree_without_gaps(size):
    edge = right_edge_nodes(size)
    assert sum(1 << node.level for node in edge) == size
    assert len(edge) == size.bit_count()
    position = 0
    for node in edge:
        assert node.index << node.level == position
        position += 1 << node.level


def test_a_complete_subtree_is_one_node():
    assert subtree_nodes(8, 16) == [Node(3, 1)]
    assert subtree_nodes(8, 15) == [Node(2, 2), Node(1, 6), Node(0, 14)]
    assert subtree_nodes(8, 8) == []
    assert right_edge_nodes(0) == []


def test_malformed_and_untrusted_are_told_apart(reference):
    good = {"index": 2, "size": 5, "proof": reference.path(2, 0, 5), "root": reference.root(5)}
    leaf = reference.mth(2, 3)
    with pytest.raises(MalformedError, match="the proof has 2 hashes, not 3"):
        verify_inclusion(leaf, **{**good, "proof": good["proof"][:2]})
    with pytest.raises(UntrustedError, match="leaf 2 is not proved to be in"):
        verify_inclusion(OTHER, **good)
    with pytest.raises(UntrustedError, match="does not lead to the old root"):
        verify_consistency(
            old_size=3,
            old_root=OTHER,
            new_size=5,
            new_root=reference.root(5),
            proof=reference.subtree_proof(0, 3, 5),
        )
    with pytest.raises(UntrustedError, match="does not lead to the new root"):
        verify_consistency(
            old_size=3,
            old_root=reference.root(3),
            new_size=5,
            new_root=OTHER,
            proof=reference.subtree_proof(0, 3, 5),
        )
