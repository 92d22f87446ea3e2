"""The database's schema over time, by Alembic; brought up to date whenever a log is opened."""

from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine, text

_LOCK = 4702394921427289928


def upgrade(engine: Engine) -> None:
    """Bring a database to the newest schema; a new one is created."""
    config = Config()
    config.set_main_option("script_location", str(Path(str(resources.files(__package__)))))
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # several servers may start at once
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
