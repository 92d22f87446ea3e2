"""Reading a quote of any TEE that DCAP signs for: version and TEE type say which parser it is for."""

import struct

from assay.attest.quote import sgx, tdx
from assay.attest.quote.sgx import MAX_QUOTE_SIZE, MIN_QUOTE_SIZE, QuoteV3
from assay.attest.quote.tdx import TdQuote
from assay.tlog.errors import MalformedError

Quote = QuoteV3 | TdQuote


def parse_quote(data: bytes) -> Quote:
    """Read an SGX quote v3 or a TDX quote v4 or v5 that fills ``data`` exactly.

    Raises:
        MalformedError: codes ``bad-length`` (out of 1020 bytes to 64 KiB), ``unsupported`` (another version or
            TEE), and those of ``sgx.parse_quote`` and ``tdx.parse_quote``.
    """
    if not MIN_QUOTE_SIZE <= len(data) <= MAX_QUOTE_SIZE:
        raise MalformedError(
            f"quote: {len(data)} bytes, not {MIN_QUOTE_SIZE} to {MAX_QUOTE_SIZE}", code="bad-length"
        )
    (tee_type,) = struct.unpack_from("<I", data, 4)
    return tdx.parse_quote(data) if tee_type == tdx.TEE_TYPE_TDX else sgx.parse_quote(data)
