"""The signed part of a provisioning service's JSON answer, byte for byte.

PCS v4 answers ``{"tcbInfo":{…},"signature":"…"}`` and signs the text of the inner object as it stands: what is
parsed and written again, even with the same spacing, may be another text. So the text is cut out, not made.
"""

import json
import re
from collections.abc import Iterator

from assay.attest import jcs
from assay.attest.quote.collateral import SIGNATURE_SIZE
from assay.tlog.errors import MalformedError

_BLANK = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


def split_signed_text(body: bytes, *, member: str, max_bytes: int) -> tuple[str, bytes]:
    """Split ``{member: {…}, "signature": hex}`` into the exact text of the object, and r ‖ s (64 bytes).

    Args:
        body: the whole answer; spacing and order are free, other members are not.
        member: ``tcbInfo`` or ``enclaveIdentity``.
        max_bytes: how long the answer may be.

    Raises:
        MalformedError: longer, not JSON, a key twice anywhere in it, bytes after it, a member missing or
            unknown, no object, or a signature that is not 64 bytes in lower-case hex.
    """
    value = jcs.parse_json(body, what=member, max_bytes=max_bytes)
    fields = jcs.Fields(value, what=member, required=(member, "signature"))
    if not isinstance(fields.value(member), dict):
        raise MalformedError(f"{fields.name(member)}: not a JSON object")
    signature = fields.hex("signature", length=SIGNATURE_SIZE)
    return dict(_member_texts(body.decode("utf-8")))[member], signature


def _member_texts(text: str) -> Iterator[tuple[str, str]]:
    """Name and exact text of each member of a JSON object that is known to parse, and to be nothing else.

    Since the document parses, the one character after a name is the colon and the one after a value is the comma
    or the brace that ends it: only blanks stand between, and the decoder knows where names and values end.
    """
    end = _skip_blanks(text, 0)
    while text[end] != "}":
        name, end = _DECODER.raw_decode(text, _skip_blanks(text, end + 1))
        start = _skip_blanks(text, _skip_blanks(text, end) + 1)
        _, end = _DECODER.raw_decode(text, start)
        yield name, text[start:end]
        end = _skip_blanks(text, end)


def _skip_blanks(text: str, position: int) -> int:
    blank = _BLANK.match(text, position)
    assert blank is not None, "no blanks are blanks too"
    return blank.end()
