"""Same content in another order: an order-insensitive fingerprint of JSON-like values, and the proof of it.

The fingerprint is that of the ``merkle-json`` package (PyPI, version 1.0.0), so that its users compare the same
32 digits::

    text          MD5 of its UTF-8, in hex
    number, bool  MD5 of Python's str(); so 1 and "1" have one fingerprint, and True and "True"
    null          MD5 of "None"
    list          fingerprint of its items' fingerprints, sorted and joined: order does not count
    table         fingerprint of "name:fingerprint," of every member, sorted by name and joined

One rule of the package is left out on purpose: it believes a member called ``merkleHash`` and returns it instead
of hashing, in nested tables even when told not to. MD5 and the ambiguities above mean that the fingerprint never
decides anything (docs/adr/0006): :func:`same_but_for_order` is exact, and it is what a difference is called by.
"""

import hashlib
import json
from typing import Any


def fingerprint(value: Any) -> str:
    """The fingerprint of text, numbers, booleans, None, lists and tables with text keys, as 32 hex digits.

    Recursive: the caller bounds the nesting.
    """
    match value:
        case dict():
            text = "".join(f"{name}:{fingerprint(value[name])}," for name in sorted(value))
        case list() | tuple():
            text = "".join(sorted(fingerprint(item) for item in value))
        case _:
            text = str(value)
    return hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()


def same_but_for_order(a: Any, b: Any) -> bool:
    """Whether two values hold exactly the same, whatever the order of list items and members.

    Types count (1 is not "1", nor True), and no collision of hashes can make two values the same.
    """
    return _sorted_text(a) == _sorted_text(b)


def _sorted_text(value: Any) -> str:
    """JSON with members and list items sorted: one text for all orders of one content."""
    match value:
        case dict():
            return "{" + ",".join(f"{json.dumps(k)}:{_sorted_text(value[k])}" for k in sorted(value)) + "}"
        case list() | tuple():
            return "[" + ",".join(sorted(_sorted_text(item) for item in value)) + "]"
        case _:
            return json.dumps(value)
