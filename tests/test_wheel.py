"""The wheel holds what it should: hatchling builds an empty one without complaint if the links hide the folders."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tracked(*patterns: str) -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(listed.stdout.split())


@pytest.mark.slow
def test_the_wheel_holds_exactly_the_tracked_files_of_the_package(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout to know which files are the project's")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    golden = (Path(__file__).parent / "vectors" / "wheel_files.txt").read_text().split()
    assert sorted(names) == golden
    folders = ("attest", "builder", "client", "enclave", "fetch", "log_server", "tlog", "witness")
    sources = {f"assay/{name}" for name in tracked(*folders)}
    sources |= {"assay/__init__.py", "assay/py.typed", "assay/cli.py", "assay/demo.py"}
    assert names == sources
