"""What is logged: measurements, quotes, statements, entries, receipts and bundles, and the rules of admission.

The first floor. Pure like the floor below it: bytes, numbers and keys in, values or errors out; no I/O, no
clock, no configuration. Whatever the enclave imports from here is part of its measured image.
"""
