"""The log's own interface, ``/api/v1``: look up, prove, search. Submitting is in ``direct``."""

import hashlib

from flask import Blueprint, Response, request

from assay.log_server import views
from assay.log_server.direct import read_body
from assay.log_server.headers import IMMUTABLE
from assay.log_server.problem import NotFoundError
from assay.log_server.routes import services
from assay.log_server.routes.services import json_response
from assay.log_server.witnessing import cosigned_note
from assay.tlog import proof, strict
from assay.tlog.errors import MalformedError
from assay.tlog.merkle import Hash

blueprint = Blueprint("entries", __name__, url_prefix="/api/v1")

MAX_BLOB_SIZE = 1 << 20
SEARCH_TERMS = (
    "kind",
    "mrenclave",
    "mrsigner",
    "product",
    "release",
    "signer",
    "sha256",
    "enclave",
    "identity",
    "subject",
)
"""What entries are found by: see the terms that ``attest.admission`` gives each kind."""


@blueprint.get("/entries")
def search() -> Response:
    """Entries by their index terms, newest first, in pages; ``size`` is the tree size it is complete up to."""
    values = services.query((*SEARCH_TERMS, "before", "limit"))
    before = services.number(values, "before")
    limit = services.number(values, "limit", high=1000) or 100
    terms = {name: values[name] for name in SEARCH_TERMS if name in values}
    log = services.log()
    size = log.newest().size
    found = log.store.find_terms(terms, before=size if before is None else min(before, size), limit=limit + 1)
    page = found[:limit]
    return json_response(
        {
            "size": size,
            "entries": [_entry(index) for index in page],
            "before": page[-1] if len(found) > limit else None,
        }
    )


@blueprint.get("/entries/<index_text>")
def entry(index_text: str) -> Response:
    """One entry, decoded and raw."""
    services.no_query()
    index = _index(index_text)
    response = json_response(_entry(index))
    mark = services.log().store.published_mark()
    if mark is not None and mark[0] > index:
        response.headers["Cache-Control"] = IMMUTABLE
    return response


@blueprint.get("/leaves/<hash_text>")
def leaf(hash_text: str) -> Response:
    """One entry by its leaf hash."""
    services.no_query()
    leaf_hash = Hash(strict.hex_bytes(hash_text, what="leaf hash", length=32))
    index = services.log().store.find_leaf(leaf_hash)
    if index is None:
        raise NotFoundError("no entry has this leaf hash")
    return json_response(_entry(index))


@blueprint.get("/entries/<index_text>/proof")
def prove(index_text: str) -> Response:
    """The ``.tlog-proof``: against the newest published checkpoint, or the one of a given size."""
    size = services.number(services.query(("size",)), "size")
    log = services.log()
    index = _index(index_text)
    checkpoint = log.newest_for(index) if size is None else log.store.checkpoint(size)
    if checkpoint is None:
        raise NotFoundError(f"the log has no checkpoint of size {size}")
    return Response(log.prove(index, checkpoint), content_type="text/plain; charset=utf-8")


@blueprint.get("/consistency")
def consistency() -> Response:
    """The consistency proof between two sizes."""
    values = services.query(("from", "to"))
    old, new = services.number(values, "from"), services.number(values, "to")
    if old is None or new is None or old > new:
        raise MalformedError("from and to: two sizes, the smaller first", code="query")
    log = services.log()
    if new > log.newest().size:
        raise NotFoundError(f"the log has not grown to {new}")
    with log.store.hashes() as hashes:
        path = proof.prove_consistency(old_size=old, new_size=new, reader=hashes)
    return json_response({"from": old, "to": new, "hashes": [strict.base64_text(each) for each in path]})


@blueprint.get("/checkpoints")
def checkpoints() -> Response:
    """Every checkpoint that was signed, newest first, with its cosignatures."""
    values = services.query(("before", "limit"))
    limit = services.number(values, "limit", high=1000) or 100
    store = services.log().store
    found = store.checkpoints(before=services.number(values, "before"), limit=limit)
    return json_response(
        {
            "checkpoints": [
                {
                    "size": each.size,
                    "root": each.root.hex(),
                    "signed": each.signed_ms,
                    "published": each.published_ms,
                    "note": cosigned_note(store, each).decode(),
                }
                for each in found
            ],
            "before": found[-1].size if len(found) == limit and found[-1].size else None,
        }
    )


@blueprint.get("/blobs/sha256/<hash_text>")
def blob(hash_text: str) -> Response:
    """Evidence kept beside the log, by its hash."""
    services.no_query()
    data = services.log().store.blob(strict.hex_bytes(hash_text, what="blob hash", length=32))
    if data is None:
        raise NotFoundError("no blob has this hash")
    response = Response(data, content_type="application/octet-stream")
    response.headers["Cache-Control"] = IMMUTABLE
    return response


@blueprint.put("/blobs/sha256/<hash_text>")
def put_blob(hash_text: str) -> Response:
    """Keep evidence beside the log, under its hash: 201 if it is new, 200 if it was there. Needs a token."""
    services.require_token()
    services.log().verify_open()
    services.no_query()
    sha256 = strict.hex_bytes(hash_text, what="blob hash", length=32)
    data = read_body(request.environ, limit=MAX_BLOB_SIZE)
    if hashlib.sha256(data).digest() != sha256:
        raise MalformedError("the body has another hash than the path", code="blob-hash")
    new = services.log().store.keep_blob(data)
    return json_response({"sha256": hash_text, "size": len(data)}, status=201 if new else 200)


@blueprint.get("/log")
def describe() -> Response:
    """What this log is."""
    services.no_query()
    log = services.log()
    published = log.store.published()
    return json_response(
        {
            "origin": log.config.origin,
            "vkeys": [str(key) for key in log.log_keys],
            "size": log.newest().size,
            "published_size": None if published is None else published.size,
            "witnesses": [
                {"name": witness.name, "vkey": str(witness.key), "url": witness.url}
                for witness in (log.policy.witnesses if log.policy else ())
            ],
            "quorum": log.policy.quorum if log.policy else "none",
            "kinds": log.config.admission.kinds,
        }
    )


def _index(text: str) -> int:
    return strict.decimal(text, what="index")


def _entry(index: int) -> dict[str, object]:
    data = services.log().store.entry(index)
    if data is None:
        raise NotFoundError(f"there is no entry {index}")
    view = views.entry_view(index, data, find=services.log().store.leaf)
    return {**view.to_json(), "leaf": strict.base64_text(data)}
