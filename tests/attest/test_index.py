"""The index is a pure function of a leaf's bytes: what the log admits under is what anybody derives from the leaf."""

import pytest

from assay.attest import admission, entry
from assay.attest.entry import EnclaveSubmission
from assay.attest.index import index_leaf
from assay.tlog.errors import MalformedError


def same(admitted):
    indexed = index_leaf(admitted.leaf)
    return (indexed.kind, indexed.identity, indexed.terms) == (
        admitted.kind,
        admitted.identity,
        admitted.terms,
    )


@pytest.mark.parametrize("name", ["release", "rebuild", "provenance"])
def test_a_statement_is_indexed_by_its_leaf_alone(make, name):
    said = make.statement(getattr(make, name)())
    attestation = make.attestation(said.payload(), keys=(2, 3))
    assert same(admission.admit_attestation(attestation, publishers=None))


def test_a_submission_is_no_leaf(make):
    with pytest.raises(MalformedError):
        index_leaf(entry.format_entry(EnclaveSubmission(make.evidence())))


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b'{"apiVersion":"0.1.0","kind":"x","spec":{}}'])
def test_what_is_no_entry_has_no_index(data):
    with pytest.raises(MalformedError):
        index_leaf(data)
