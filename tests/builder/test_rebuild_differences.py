"""A rebuild that differs says what differs, in its statement and in its log; one that does not says nothing."""

import dataclasses
import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from assay.attest import entry, statement
from assay.attest.statement import MAX_DIFFERENCE_LENGTH, MAX_DIFFERENCES, Verdict
from assay.builder import rebuild as rebuilding
from assay.builder.build import build, no_packages
from assay.builder.compose import Inputs
from assay.builder.difference import Change, Difference, Label, Measured, Topic, section
from assay.builder.publish import ReleaseTerms, provenance_of, release_of
from assay.builder.rebuild import Task
from assay.builder.wheels import wheel_finder
from assay.tlog import merkle


class Log:
    """Takes entries and keeps them."""

    def __init__(self):
        self.entries = []

    def submit(self, data):
        self.entries.append(data)
        return len(self.entries)


@pytest.fixture
def checkout(workshop):
    """A source with its recipe in it."""
    recipe = workshop.source / "reproducible" / "tiny"
    recipe.parent.mkdir()
    shutil.copytree(workshop.recipe, recipe)
    return dataclasses.replace(workshop, recipe=recipe)


@pytest.fixture
def task(checkout, tmp_path, log_policy, ca_pem):
    built = build(
        checkout.recipe,
        checkout.source,
        Inputs(log_policy, ca_pem),
        tmp_path / "out",
        find_wheels=wheel_finder(checkout.wheels),
        report=lambda line: None,
    )
    release = release_of(built, ReleaseTerms((), 1, None, 1, None, None))
    return Task(release, merkle.leaf_hash(b"release"), provenance_of(built.record, builder_id="urn:x"))


@pytest.fixture
def rebuild(checkout, task):
    def rebuild(lines=None):
        log = Log()
        made = rebuilding.rebuild(
            task,
            source=checkout.source,
            key=ec.derive_private_key(7, ec.SECP256R1()),
            log=log,
            find_wheels=wheel_finder(checkout.wheels),
            find_packages=lambda folder: no_packages,
            verify_base=False,
            report=(lines if lines is not None else []).append,
            now_ms=lambda: 1,
        )
        [leaf] = log.entries
        logged = statement.parse_statement(entry.parse_entry(leaf).envelope.payload).predicate
        assert logged == made.rebuild
        return logged

    return rebuild


def test_a_reproduced_release_has_no_differences(rebuild):
    said = rebuild()
    assert said.verdict is Verdict.REPRODUCED
    assert said.differences == ()


def test_a_failed_rebuild_has_no_differences(rebuild, checkout):
    next(checkout.wheels.iterdir()).unlink()
    said = rebuild()
    assert said.verdict is Verdict.FAILED
    assert said.differences == ()


def test_a_rebuild_that_differs_says_what_differs(rebuild, checkout):
    (checkout.source / "top.py").write_bytes(b"TOP = 2\n")
    lines = []
    said = rebuild(lines)
    assert said.verdict is Verdict.DIFFERENT
    assert said.differences[0] == (
        "MRENCLAVE differs because the manifest's SHA-256 differs; source_sha256 differs; trusted_files_sha256 differs."
    )
    assert any(line.startswith("recipe: source_sha256: ") for line in said.differences)
    assert [f"differs: {line}" for line in said.differences] == lines[-1 - len(said.differences) : -1]
    assert "differs: MRENCLAVE differs because" in said.log_tail


def test_a_difference_in_the_tree_alone_is_said(rebuild, task):
    digests = dataclasses.replace(task.release.digests, tree_sha256=bytes(32))
    object.__setattr__(task, "release", dataclasses.replace(task.release, digests=digests))
    said = rebuild()
    assert said.verdict is Verdict.DIFFERENT
    assert said.differences[0] == "MRENCLAVE is equal; what differs is not measured: recipe."
    assert len(said.differences) == 2


@pytest.mark.parametrize("text", ["\x1b[31m\u202e\n" * 50, "𝔘" * 160, '"\\' * 80])
def test_an_endless_hostile_difference_still_fits_into_a_statement(rebuild, checkout, monkeypatch, text):
    (checkout.source / "top.py").write_bytes(b"TOP = 2\n")
    changes = [Change(text, text, text, text) for _ in range(2000)]
    label = Label("build", text, None)
    found = Difference(label, label, (section(Topic.FILES, changes),), False, Measured.DIFFERENT, text * 10)
    monkeypatch.setattr(rebuilding, "compare", lambda a, b: found)
    said = rebuild()
    assert said.verdict is Verdict.DIFFERENT
    assert 1 <= len(said.differences) <= MAX_DIFFERENCES
    assert all(len(line) <= MAX_DIFFERENCE_LENGTH and line.isprintable() for line in said.differences)
