"""The pages: plain HTML that needs no script, each with a JSON twin under the same name and ``.json``."""

from dataclasses import dataclass
from urllib.parse import urlencode

from flask import Blueprint, Response, render_template

from assay.attest import jcs
from assay.log_server import views
from assay.log_server.problem import NotFoundError
from assay.log_server.routes import services
from assay.log_server.routes.entries import SEARCH_TERMS
from assay.log_server.routes.services import json_response
from assay.log_server.rows import StoredCheckpoint
from assay.log_server.witnessing import cosigned_note
from assay.tlog import note as notes
from assay.tlog import strict, tlog_proof
from assay.tlog.checkpoint import parse_signed_checkpoint

blueprint = Blueprint("pages", __name__)

_PAGE = 50
_CHECKPOINTS = 20


@blueprint.get("/")
def entries() -> str:
    """The newest entries, all or by index terms."""
    values = services.query((*SEARCH_TERMS, "before"))
    page = _entries(values)
    terms = [(name, values[name]) for name in SEARCH_TERMS if name in values]
    return render_template(
        "entries.html",
        origin=services.log().config.origin,
        query=urlencode(terms) + "&" if terms else "",
        terms=terms,
        published=_published(),
        **page,
    )


@blueprint.get("/index.json")
def entries_json() -> Response:
    """The JSON twin of ``/``."""
    page = _entries(services.query((*SEARCH_TERMS, "before")))
    return json_response({**page, "entries": [entry.to_json() for entry in page["entries"]]})


@blueprint.get("/entry/<index_text>")
def entry(index_text: str) -> str | Response:
    """One entry: what it says, the proof, the bytes."""
    services.no_query()
    page = _entry(index_text.removesuffix(".json"))
    if index_text.endswith(".json"):
        return json_response({**page.view.to_json(), "proof": page.proof, "witnessed": page.witnessed})
    parsed = tlog_proof.parse_proof(page.proof.encode())
    checkpoint = parse_signed_checkpoint(parsed.checkpoint).checkpoint
    return render_template(
        "entry.html",
        origin=services.log().config.origin,
        entry=page.view,
        proof=page.proof,
        path=[each.hex() for each in parsed.hashes],
        root=checkpoint.root.hex(),
        proof_size=checkpoint.size,
        witnessed=page.witnessed,
    )


@blueprint.get("/checkpoints")
def checkpoints() -> str:
    """The checkpoints, newest first, with their cosignatures."""
    log = services.log()
    page = _checkpoints()
    return render_template(
        "checkpoints.html",
        origin=log.config.origin,
        vkeys=[str(key) for key in log.log_keys],
        quorum=log.policy is not None,
        **page,
    )


@blueprint.get("/checkpoints.json")
def checkpoints_json() -> Response:
    """The JSON twin of ``/checkpoints``."""
    return json_response(_checkpoints())


@dataclass(frozen=True, slots=True)
class _EntryPage:
    view: views.EntryView
    proof: str
    witnessed: bool


def _entry(index_text: str) -> _EntryPage:
    index = strict.decimal(index_text, what="index")
    log = services.log()
    leaf = log.store.entry(index)
    if leaf is None:
        raise NotFoundError(f"there is no entry {index}")
    checkpoint = log.newest_for(index)
    witnessed = log.policy is not None and checkpoint.published_ms is not None
    return _EntryPage(
        views.entry_view(index, leaf, find=log.store.leaf), log.prove(index, checkpoint), witnessed
    )


def _entries(values: dict[str, str]) -> dict[str, jcs.Json]:
    log = services.log()
    size = log.newest().size
    before = services.number(values, "before")
    terms = {name: value for name, value in values.items() if name != "before"}
    found = log.store.find_terms(terms, before=size if before is None else min(before, size), limit=_PAGE + 1)
    leaves = [(index, log.store.entry(index)) for index in found[:_PAGE]]
    return {
        "size": size,
        "entries": [
            views.entry_view(index, leaf, find=log.store.leaf) for index, leaf in leaves if leaf is not None
        ],
        "older": found[_PAGE - 1] if len(found) > _PAGE else None,
    }


def _published() -> jcs.Json:
    published = services.log().store.published()
    return None if published is None else _checkpoint(published)


def _checkpoints() -> dict[str, jcs.Json]:
    before = services.number(services.query(("before",)), "before")
    found = services.log().store.checkpoints(before=before, limit=_CHECKPOINTS + 1)
    return {
        "checkpoints": [_checkpoint(each) for each in found[:_CHECKPOINTS]],
        "older": found[_CHECKPOINTS - 1].size if len(found) > _CHECKPOINTS else None,
    }


def _checkpoint(stored: StoredCheckpoint) -> jcs.Json:
    store = services.log().store
    note = cosigned_note(store, stored)
    return {
        "size": stored.size,
        "root": stored.root.hex(),
        "signed": views.moment(stored.signed_ms),
        "published": stored.published_ms is not None,
        "note": note.decode(),
        "cosignatures": [
            {
                "name": each.name,
                "algorithm": "Ed25519" if len(_blob(each.line)) == 72 else "ML-DSA-44",
                "time": views.moment(each.time_s * 1000),
            }
            for each in store.cosignatures(stored.size)
        ],
    }


def _blob(line: str) -> bytes:
    return notes.parse_signature_lines(line)[0].blob
