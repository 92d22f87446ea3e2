"""What every test may use: where the shared vectors are, and nothing else."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of third-party vectors, named by ASSAY_VECTORS; skips when it is not set.

    With ASSAY_REQUIRE_VECTORS=1 (as CI sets it) their absence is a failure, not a skip.
    """
    folder = os.environ.get("ASSAY_VECTORS")
    if folder and Path(folder).is_dir():
        return Path(folder)
    reason = "ASSAY_VECTORS does not name a folder of vectors"
    if os.environ.get("ASSAY_REQUIRE_VECTORS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
