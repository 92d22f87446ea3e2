"""Quotes: their bytes, the collateral they are judged with, and the judgement.

One module per TEE turns bytes into a frozen dataclass and judges nothing (``sgx``; ``pck`` for the
platform's certificate inside a quote). ``collateral`` is what Intel signs about platforms, ``dcap`` calls
the verification library, ``verify`` adds what that library leaves open and returns the verdict. The enclave
imports only the parsers.

AMD's reports and NVIDIA's evidence have their own: ``snp`` and ``nvidia`` are parsers, ``verify_snp`` and
``verify_nvidia`` judge under a pinned key (``pinned_chain``), ``snp_policy`` is the relying party's.
"""
