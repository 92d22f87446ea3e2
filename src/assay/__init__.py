"""Assay: a transparency log for enclave measurements and AI response receipts.

Everything is imported as ``assay.<folder>``; see ``docs/adr/0001-layout.md`` for how the folders
at the root of the repository become this package.
"""

__version__ = "0.1.0"
