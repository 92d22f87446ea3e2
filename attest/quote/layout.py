"""Fixed layouts of little-endian fields: what the parsers of quotes and reports have in common.

A layout lists its fields in the order of the bytes. The standard library's ``struct`` pads and cuts what does
not fit; here that is refused.
"""

import struct

from assay.tlog.errors import MalformedError

Layout = tuple[tuple[str, str], ...]
"""(field, struct code) in the order of the bytes."""


def size_of(layout: Layout) -> int:
    """The bytes that a layout takes."""
    return _struct(layout).size


def unpack(layout: Layout, data: bytes, *, what: str) -> tuple[int | bytes, ...]:
    """The fields' values.

    Raises:
        MalformedError: ``data`` has not exactly the layout's size.
    """
    shape = _struct(layout)
    if len(data) != shape.size:
        raise MalformedError(f"{what}: {len(data)} bytes, not {shape.size}")
    return shape.unpack(data)


def pack(layout: Layout, value: object) -> bytes:
    """The bytes of an object with these fields, which fit (:func:`require_fit`)."""
    return _struct(layout).pack(*(getattr(value, name) for name, _ in layout))


def require_fit(layout: Layout, value: object) -> None:
    """Refuse an object with a field that does not fit its bytes.

    Raises:
        MalformedError: a field of another size.
    """
    for name, code in layout:
        field = getattr(value, name)
        size = struct.calcsize("<" + code)
        fits = len(field) == size if code.endswith("s") else 0 <= field < 1 << (8 * size)
        if not fits:
            raise MalformedError(f"{name}: does not fit {size} bytes")


def whole_block(data: bytes, offset: int, what: str) -> bytes:
    """A u32 length and its bytes, which must end where ``data`` ends.

    Raises:
        MalformedError: they do not (code ``length-mismatch``).
    """
    if offset + 4 > len(data):
        raise MalformedError(f"quote: the length of {what} overruns", code="length-mismatch")
    (size,) = struct.unpack_from("<I", data, offset)
    block = data[offset + 4 :]
    if len(block) != size:
        raise MalformedError(
            f"quote: {what} of {size} bytes, but {len(block)} follow", code="length-mismatch"
        )
    return block


def _struct(layout: Layout) -> struct.Struct:
    return struct.Struct("<" + "".join(code for _, code in layout))
