"""Log mathematics and formats: RFC 6962 trees and the C2SP transparency-log documents.

The ground floor. It takes bytes, numbers and keys and returns values or raises; it performs no I/O,
reads no clock and no configuration, and knows nothing of enclaves.
"""
