"""A measurement is a TEE and a hash of that TEE's length."""

import pytest

from assay.attest.measurement import MEASUREMENT_SIZE, Measurement, Tee, parse_measurement
from assay.tlog.errors import MalformedError


@pytest.mark.parametrize("tee", Tee)
def test_round_trip(tee):
    measurement = Measurement(tee, bytes(range(MEASUREMENT_SIZE[tee])))
    assert parse_measurement(measurement.to_json(), what="x") == measurement


@pytest.mark.parametrize("tee", Tee)
@pytest.mark.parametrize("size", [0, 1, 20, 31, 33, 47, 49, 64])
def test_another_length_is_refused(tee, size):
    with pytest.raises(MalformedError):
        Measurement(tee, bytes(size))
    with pytest.raises(MalformedError):
        parse_measurement({"tee": str(tee), "value": "00" * size}, what="x")


def test_a_hash_of_one_tee_is_none_of_another():
    assert Measurement(Tee.TDX, bytes(48)) != Measurement(Tee.SNP, bytes(48))
    with pytest.raises(MalformedError):
        Measurement(Tee.SGX, bytes(48))


@pytest.mark.parametrize(
    "value",
    [
        None,
        "00" * 32,
        {},
        {"tee": "sgx"},
        {"value": "00" * 32},
        {"tee": "SGX", "value": "00" * 32},
        {"tee": "sev", "value": "00" * 48},
        {"tee": "", "value": "00" * 32},
        {"tee": None, "value": "00" * 32},
        {"tee": "sgx", "value": "AA" * 32},
        {"tee": "sgx", "value": "0x" + "00" * 31},
        {"tee": "sgx", "value": None},
        {"tee": "sgx", "value": "00" * 32, "debug": False},
    ],
    ids=repr,
)
def test_other_json_is_refused(value):
    with pytest.raises(MalformedError):
        parse_measurement(value, what="x")
