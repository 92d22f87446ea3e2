"""A software SGX platform: byte-exact quotes and collateral for development, demonstration and tests.

It proves nothing about hardware, and says so: every name in its certificates carries the organization
``SIMULATION - NOT INTEL``, its FMSPC is none of Intel's, and its root is nobody's default. Evidence of it
runs through the same verification as Intel's, under its own root, and is labelled ``simulated``.

Everything is a function of a seed and of times passed in: the same arguments give the same bytes.

``snp`` and ``gpu`` are the same for AMD's processors and NVIDIA's GPUs, with names of their own.
"""
