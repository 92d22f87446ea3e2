"""The documentation keeps up: every name, number and example of a format is in docs/formats.md as it is in the code."""

import json
import re
from pathlib import Path

import pytest

from assay.attest import bundle, channel, claims, dsse, entry, merkle_json, receipt, statement
from assay.attest.quote import dcap

ROOT = Path(__file__).parents[1]
FORMATS = (ROOT / "docs" / "formats.md").read_text()
PROSE = re.sub(r"```.*?```", "", FORMATS, flags=re.DOTALL)
UNBROKEN = re.sub(r"\s", "", FORMATS)
SOURCES = {path: path.read_text() for path in sorted((ROOT / "attest").rglob("*.py"))}


def vector(name: str):
    return json.loads((ROOT / "tests" / "vectors" / "attest" / f"{name}.json").read_text())


def in_code(text: str) -> bool:
    return f"`{text}`" in PROSE


def members_of(value) -> set[str]:
    """The keys of every object in a JSON value."""
    if isinstance(value, list):
        return set().union(*map(members_of, value))
    if not isinstance(value, dict):
        return set()
    return set(value).union(*map(members_of, value.values()))


def test_every_error_code_of_attest_is_explained():
    codes = {code for text in SOURCES.values() for code in re.findall(r'\bcode="([a-z0-9-]+)"', text)}
    codes |= {known.code for known in dcap._REFUSALS}
    assert len(codes) > 30
    assert sorted(code for code in codes if not in_code(code)) == []


def test_every_tag_and_uri_of_attest_is_there():
    found = {
        text
        for source in SOURCES.values()
        for text in re.findall(r'"((?:assay-[a-z-]+-v\d+|urn:assay:[a-z:-]+(?:v\d+|:)))"', source)
    }
    assert {"assay-output-v1", "urn:assay:measurement:v1", "urn:assay:enclave:"} <= found
    assert sorted(text for text in found if not in_code(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        statement.MEASUREMENT_PREDICATE,
        statement.REBUILD_PREDICATE,
        statement.PROVENANCE_PREDICATE,
        statement.STATEMENT_TYPE,
        bundle.MEDIA_TYPE,
        *entry.KINDS,
        *channel.MESSAGES,
        *merkle_json.FIELDS,
        *statement.Verdict,
    ],
)
def test_every_name_is_there(text):
    assert in_code(text)


@pytest.mark.parametrize(
    "number",
    [
        entry.MAX_LEAF_SIZE,
        statement.MAX_STATEMENT_SIZE,
        statement.LOG_TAIL_SIZE,
        claims.MAX_QUOTE_SIZE,
        channel.MAX_FRAME_SIZE,
        bundle.MAX_BUNDLE_SIZE,
    ],
)
def test_every_bound_is_there(number):
    assert f"{number:,} bytes" in FORMATS


def test_other_numbers_are_there():
    assert f"at most {receipt.MAX_RECEIPT_SIZE} bytes" in FORMATS
    assert f"port {channel.DEFAULT_PORT}" in FORMATS
    assert f"1 to {dsse.MAX_SIGNATURES} signatures" in FORMATS
    assert f"at most {bundle.MAX_REBUILDS}: verdicts" in FORMATS


@pytest.mark.parametrize("index", [0, 1, 2])
def test_every_member_of_a_statement_is_there(index):
    payload = json.loads(vector("statement")["cases"][index]["payload"])
    own = members_of(payload["predicate"]) - {"recipe"}
    words = set(re.findall(r"[A-Za-z_0-9]+", "".join(re.findall(r"`[^`\n]+`", PROSE))))
    assert sorted((own | members_of(payload["subject"])) - words) == []


def test_every_member_of_claims_channel_and_bundle_is_there():
    names = set(json.loads(vector("claims")["canonical"]))
    names |= set(json.loads(vector("channel")["ask"])) | set(json.loads(vector("channel")["answer"]))
    names |= set(json.loads(vector("bundle")["file"]))
    names |= {name for required, optional in channel.MESSAGES.values() for name in required + optional}
    assert sorted(name for name in names if not in_code(name)) == []


def test_every_label_of_a_receipt_is_there():
    for label in receipt._LABELS:
        assert f"\n| {label} |" in FORMATS


def test_fields_of_the_commitments_stand_in_their_order():
    rows = re.findall(r"\n\| (\d) \| `([a-z_]+)` \|", FORMATS)
    assert rows == [(str(index), name) for index, name in enumerate(merkle_json.FIELDS)]


def values_of_examples() -> dict[str, str]:
    said, sealed, first = vector("claims"), vector("channel"), vector("receipt")["cases"][0]
    commitments, entries = vector("commitments"), vector("entry")["cases"]
    output = vector("output")
    statements = [case["payload"] for case in vector("statement")["cases"]]
    return {
        "spki": vector("keys")["keys"][0]["spki"],
        "enclave id": vector("keys")["keys"][0]["signer_id"],
        "PAE": vector("pae")["cases"][2]["pae"],
        "claims": said["canonical"],
        "digest": said["digest"],
        "report_data": said["report_data"],
        "possession": said["possession"],
        "registration": entries[2]["data"],
        "registration's leaf hash": entries[2]["leaf_hash"],
        "attestation's leaf hash": entries[0]["leaf_hash"],
        "release": statements[0],
        "rebuild": statements[1].split('"predicate":')[1].split(',"subject"')[0],
        "provenance": statements[2].split('"predicate":')[1].split(',"subject"')[0],
        "receipt's payload": first["payload"],
        "receipt's id": first["id"],
        "receipt's signature": first["signature"],
        "COSE, head": first["cose"].split(first["payload"])[0],
        "leaf of the prompt": commitments["leaves"]["prompt"],
        "leaf of the result": commitments["leaves"]["result"],
        "root": commitments["root"],
        "opening": json.dumps(
            commitments["openings"]["prompt"], ensure_ascii=False, sort_keys=True, separators=(",", ":")
        ),
        "message": output["message"],
        "output signature": output["signature"],
        "info": sealed["info"],
        "ask": sealed["ask"],
        "enc": sealed["sealed"][:64],
        **{f"reply {index}": reply["sealed"] for index, reply in enumerate(sealed["replies"])},
        "frame": sealed["frames"][0]["frame"],
        "bundle": json.dumps(json.loads(vector("bundle")["file"])["enclave"], ensure_ascii=False)
        .replace(", ", ",")
        .replace(": ", ":"),
    }


@pytest.mark.parametrize("name", values_of_examples())
def test_examples_are_the_golden_vectors(name):
    assert re.sub(r"\s", "", values_of_examples()[name]) in UNBROKEN


def test_links_lead_somewhere():
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", FORMATS, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", FORMATS)) <= anchors
