"""The database's schema over time, by Alembic; brought up to date whenever a log is opened."""

from importlib import resources
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine


def upgrade(engine: Engine) -> None:
    """Bring a database to the newest schema; a new one is created."""
    config = Config()
    config.set_main_option("script_location", str(Path(str(resources.files(__package__)))))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
