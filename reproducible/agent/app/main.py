"""The enclave's entry point. Everything that runs is measured: this file, the agent, its packages and Python itself."""

import sys
from pathlib import Path

APP = Path(__file__).resolve().parent

host_line = sys.stdin.buffer.readline(16_385)
sys.path[:0] = [str(APP), str(APP / "packages")]

from assay.enclave.agent import main  # noqa: E402  # the path has to be set first

sys.exit(main(APP, host_line))
