"""Parts that the fault tests share with test_kill: its server, its entries, its independent reader."""

import importlib.util
import uuid
from pathlib import Path

import pytest


def _load():
    path = Path(__file__).with_name("test_kill.py")
    spec = importlib.util.spec_from_file_location("kill_for_faults", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def kill():
    return _load()


@pytest.fixture(scope="session")
def make_entry(kill):
    return kill.make_entry


@pytest.fixture
def check(kill):
    """Reads a whole log through its application and re-verifies it; returns size and entries."""

    def run(client, service):
        def fetch(path):
            response = client.get(path)
            assert response.status_code == 200, path
            return response.data

        keys = [str(key) for key in service.log_keys]
        size, _, entries = kill.AUDIT.check(fetch, fetch("/checkpoint"), keys)
        return size, entries

    return run


@pytest.fixture
def check_http(kill):
    def run(log, acknowledged):
        kill.require_kept(log, acknowledged, [])
        kill.require_clean(log)

    return run


@pytest.fixture
def server(kill, tmp_path):
    """A running log on a PostgreSQL of its own, and that PostgreSQL."""
    programs = kill.POSTGRES.find_postgres()
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    database = kill.POSTGRES.Postgres(programs)
    database.start()
    log = kill.Server(tmp_path / "log", "--database", database.create(f"gone_{uuid.uuid4().hex}"))
    log.start()
    yield log, database
    log.kill()
    database.remove()
