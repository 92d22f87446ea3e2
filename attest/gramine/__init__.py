"""What Gramine's loader measures, and what SGX checks at launch: MRENCLAVE and SIGSTRUCT, from bytes.

Pure arithmetic over a manifest and an image, so that a builder, a rebuilder, an auditor and the simulated loader
compute the same. Written from the format's description; none of it is Gramine's code.
"""
