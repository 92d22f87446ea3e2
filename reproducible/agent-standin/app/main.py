"""The stand-in enclave's entry point.

Measured: this file, the agent beside it, and its pure-Python packages. NOT measured, and the reason why this
recipe is called a stand-in: the interpreter that runs it, and the native packages (cryptography, cffi) that it
takes from the host, whose folder the host names in its first line. A release puts all of these into the image.
"""

import json
import sys
from pathlib import Path

APP = Path(__file__).resolve().parent

host_line = sys.stdin.buffer.readline(16_385)
sys.path[:0] = [str(APP), str(APP / "packages")]
sys.path.append(json.loads(host_line)["packages"])

from assay.enclave.agent import main  # noqa: E402  # the path has to be set first

sys.exit(main(APP, host_line))
