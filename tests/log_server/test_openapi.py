"""The description of the interface is true: whatever is asked, no 5xx and no answer that it does not name."""

import hypothesis
import pytest
import schemathesis
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from assay.log_server.app import create_app
from assay.log_server.front import Front
from assay.log_server.tokens import TokenFile

pytestmark = pytest.mark.slow


@schemathesis.serializer("application/x-ndjson")
def as_lines(ctx, value):
    """Text as it is: a batch's lines."""
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value


CHECKS = (not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance)


@pytest.fixture
def app(make_log, entry_maker):
    log = make_log()
    service = log.open()
    for number in range(3):
        service.submit(entry_maker(number), witnessed=False)
    tokens = TokenFile(log.folder / "tokens.toml")
    return Front(create_app(service, tokens=tokens), config=service.config, tokens=tokens)


def test_the_server_is_what_it_says_it_is(app, entry_maker):
    schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
    asked = 0
    statuses = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @hypothesis.settings(
            max_examples=25,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy())
        def ask(case):
            nonlocal asked
            response = case.call()
            case.validate_response(response, checks=CHECKS)
            asked += 1
            statuses.add(response.status_code)

        ask()
    assert asked > 300
    assert {200, 400, 404} <= statuses


def test_every_route_of_the_server_is_described(app):
    described = {
        result.ok().path
        for result in schemathesis.openapi.from_wsgi("/openapi.json", app).get_all_operations()
    }
    flask = app._app
    for rule in flask.url_map.iter_rules():
        path = str(rule).replace("<index_text>", "{index}").replace("<hash_text>", "{sha256}")
        if path.startswith("/static") or path == "/openapi.json":
            continue
        assert path in described or path.replace("{sha256}", "{leaf_hash}") in described, path
