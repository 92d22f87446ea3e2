"""The SGX extension of a PCK certificate as DER: the inverse of ``attest.quote.pck.parse_pck_extension``."""

from assay.attest.quote.pck import SGX_EXTENSION_OID_DER, PckExtension, PlatformConfiguration

_SEQUENCE, _BOOLEAN, _INTEGER, _OCTETS, _OID, _ENUMERATED = 0x30, 0x01, 0x02, 0x04, 0x06, 0x0A


def format_pck_extension(extension: PckExtension) -> bytes:
    """Encode the extension with the elements, order and lengths of Intel's certificates."""
    members = [
        _member(_octets(extension.ppid), 1),
        _member(_tcb(extension), 2),
        _member(_octets(extension.pce_id), 3),
        _member(_octets(extension.fmspc), 4),
        _member(_element(_ENUMERATED, _integer_content(extension.sgx_type)), 5),
    ]
    if extension.platform_instance_id is not None:
        members.append(_member(_octets(extension.platform_instance_id), 6))
    if extension.configuration is not None:
        members.append(_member(_configuration(extension.configuration), 7))
    return _element(_SEQUENCE, b"".join(members))


def _tcb(extension: PckExtension) -> bytes:
    members = [_member(_integer(svn), 2, number) for number, svn in enumerate(extension.cpu_svn, start=1)]
    members.append(_member(_integer(extension.pce_svn), 2, 17))
    members.append(_member(_octets(extension.cpu_svn), 2, 18))
    return _element(_SEQUENCE, b"".join(members))


def _configuration(configuration: PlatformConfiguration) -> bytes:
    flags = (configuration.dynamic_platform, configuration.cached_keys, configuration.smt_enabled)
    return _element(
        _SEQUENCE,
        b"".join(
            _member(_element(_BOOLEAN, b"\xff" if flag else b"\x00"), 7, number)
            for number, flag in enumerate(flags, start=1)
        ),
    )


def _member(value: bytes, *arcs: int) -> bytes:
    return _element(_SEQUENCE, _element(_OID, SGX_EXTENSION_OID_DER + bytes(arcs)) + value)


def _octets(value: bytes) -> bytes:
    return _element(_OCTETS, value)


def _integer(value: int) -> bytes:
    return _element(_INTEGER, _integer_content(value))


def _integer_content(value: int) -> bytes:
    # One bit more than the number has: a first bit of 1 would make it negative.
    return value.to_bytes(value.bit_length() // 8 + 1, "big")


def _element(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content
