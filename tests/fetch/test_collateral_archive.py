"""Collateral by its hashes: from any copy of a log, and only what an appraisal named."""

import hashlib
from dataclasses import replace

import pytest

from assay.attest.measurement import Tee
from assay.attest.quote.collateral import format_collateral
from assay.attest.quote.pck import PckCa
from assay.attest.simulated.pcs_service import Answer
from assay.attest.simulated.platform import SimulatedPlatform
from assay.fetch.blobs import HttpBlobs, blob_path
from assay.fetch.collateral import PlatformFamily
from assay.fetch.collateral_archive import CollateralArchive
from assay.fetch.pcs import IntelPcs, PcsPlaces
from assay.tlog.errors import MalformedError, UnavailableError, UntrustedError

T = 1_760_000_000
PLATFORM = SimulatedPlatform(bytes(range(32)), epoch_s=T)
FAMILY = PlatformFamily(Tee.SGX, PLATFORM.fmspc, PckCa.PLATFORM)


@pytest.fixture
def provided(pcs):
    return IntelPcs(PcsPlaces(pcs.url)).collateral(FAMILY, now_s=T)


@pytest.fixture
def blobs(provided):
    return {"dcap": format_collateral(provided.collateral), **provided.responses.archived()}


def hashes(blobs):
    return {name: hashlib.sha256(blob).digest() for name, blob in blobs.items()}


def archive(blobs):
    kept = {hashlib.sha256(blob).digest(): blob for blob in blobs.values()}
    return CollateralArchive(kept.get)


def read(blobs, appraised=None):
    return archive(blobs).collateral(appraised or hashes(blobs), appraised_at_s=T)


def test_what_was_archived_comes_back(provided, blobs):
    assert read(blobs) == provided


def test_an_appraisal_may_name_the_collateral_alone(provided, blobs):
    assert read({"dcap": blobs["dcap"]}) == replace(provided, responses=None)


@pytest.mark.parametrize("name", ["dcap", "tcb_info", "qe_identity", "pck_crl", "root_ca_crl"])
def test_a_missing_blob_is_unavailable(blobs, name):
    kept = {key: blob for key, blob in blobs.items() if key != name}
    with pytest.raises(UnavailableError) as caught:
        read(kept, hashes(blobs))
    assert caught.value.code == "absent"


@pytest.mark.parametrize("name", ["dcap", "tcb_info"])
def test_another_blob_than_asked_for_is_refused(blobs, name):
    changed = {
        hashlib.sha256(blob).digest(): blob + (b" " if key == name else b"") for key, blob in blobs.items()
    }
    with pytest.raises(UntrustedError) as caught:
        CollateralArchive(changed.get).collateral(hashes(blobs), appraised_at_s=T)
    assert caught.value.code == "other-blob"


def test_answers_that_give_other_collateral_are_told(pcs, blobs):
    other = {**blobs, "dcap": format_collateral(PLATFORM.collateral(issued_s=T + 1))}
    with pytest.raises(UntrustedError) as caught:
        read(other)
    assert caught.value.code == "other-responses"


def test_answers_under_each_other_s_names_are_refused(blobs):
    swapped = {**blobs, "tcb_info": blobs["qe_identity"], "qe_identity": blobs["tcb_info"]}
    with pytest.raises(MalformedError):
        read(swapped)


def test_an_appraisal_with_some_of_the_answers_is_refused(blobs):
    with pytest.raises(MalformedError):
        read({name: blobs[name] for name in ("dcap", "tcb_info")})


def test_a_blob_that_is_no_collateral_is_malformed(blobs):
    with pytest.raises(MalformedError):
        read({"dcap": b"{}"})


# Over HTTP


def serve(pcs, *answers):
    left = list(answers)
    for sha256 in (bytes(32), bytes([1]) * 32):
        pcs.changes[blob_path(sha256)] = lambda _: left.pop(0)


def test_a_blob_is_read_over_http_and_404_means_none(pcs):
    serve(pcs, Answer(200, {}, b"x"), Answer(404, {}, b"no"))
    blobs = HttpBlobs(pcs.url + "/")
    assert blobs(bytes(32)) == b"x"
    assert blobs(bytes(32)) is None
    assert pcs.asked[0] == "/" + blob_path(bytes(32))


@pytest.mark.parametrize("status", [204, 301, 403, 500])
def test_another_answer_is_unavailable(pcs, status):
    serve(pcs, Answer(status))
    with pytest.raises(UnavailableError):
        HttpBlobs(pcs.url)(bytes(32))


def test_a_blob_has_a_bound(pcs):
    serve(pcs, Answer(200, {}, bytes((1 << 20) + 1)))
    with pytest.raises(MalformedError) as caught:
        HttpBlobs(pcs.url)(bytes(32))
    assert caught.value.code == "too-large"
