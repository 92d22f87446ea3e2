"""The agent that runs inside the enclave, and, beside it, what its host runs.

Measured: ``agent`` and what it imports. Not measured, and never imported by it: ``run`` (the launcher),
``simulated_device``, ``standin_llm`` and ``cli``.
"""
