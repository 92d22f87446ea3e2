"""What verifying quotes costs on this machine: one at a time, and a bulk audit on all cores.

    python bench/quotes.py [--count 2000]

Simulated evidence, everything included: parsing quote and collateral, chains, revocation, signatures, the strict
layer. Prints a table, and one JSON line for machines.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from assay.attest.measurement import Tee
from assay.attest.quote.collateral import format_collateral, parse_collateral
from assay.attest.quote.tdx import TdBody
from assay.attest.quote.verify import verify_quote
from assay.attest.roots import TrustedRoot
from assay.attest.simulated.platform import SimulatedPlatform
from assay.client.quote_cli import Rules, judge_all

T = 1_760_000_000
TARGET_MS = 5.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000, help="quotes of the bulk audit")
    count = parser.parse_args().count
    platform = SimulatedPlatform(b"\x01" * 32, epoch_s=T)
    results = [one(platform, Tee.SGX), one(platform, Tee.TDX), *bulk(platform, count)]
    for result in results:
        print("  ".join(f"{name} {value}" for name, value in result.items()))
    print(json.dumps({"benchmark": "quotes", "results": results}))


def evidence(platform: SimulatedPlatform, tee: Tee, number: int = 0) -> bytes:
    """A quote of its own for each number."""
    report_data = number.to_bytes(64, "big")
    if tee is Tee.TDX:
        return platform.td_quote(TdBody(platform.td_report(mr_td=bytes(48), report_data=report_data)))
    return platform.quote(
        platform.report(
            mr_enclave=bytes(32), mr_signer=bytes(32), isv_prod_id=1, isv_svn=1, report_data=report_data
        )
    )


def one(platform: SimulatedPlatform, tee: Tee) -> dict[str, object]:
    """One verification after another, from bytes to verdict."""
    quote = evidence(platform, tee)
    text = format_collateral(platform.collateral(issued_s=T - 86_400, tee=tee))
    root = TrustedRoot("sim", platform.root_der)
    took = []
    for _ in range(300):
        began = time.perf_counter()
        verify_quote(quote, parse_collateral(text), root=root, now_s=T)
        took.append(1000 * (time.perf_counter() - began))
    took.sort()
    median = statistics.median(took)
    return {
        "what": f"one {tee} verification",
        "p50_ms": round(median, 2),
        "p99_ms": round(took[int(len(took) * 0.99)], 2),
        "of_target": round(median / TARGET_MS, 2),
    }


def bulk(platform: SimulatedPlatform, count: int) -> list[dict[str, object]]:
    """An audit of many quotes, by one process and by one a core."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number in range(count):
            files.append(Path(folder) / str(number))
            files[-1].write_bytes(evidence(platform, Tee.SGX, number))
        collateral = format_collateral(platform.collateral(issued_s=T - 86_400))
        rules = Rules(collateral, None, TrustedRoot("sim", platform.root_der), T, None, None, None, None, T)
        alone = rate(files, rules, jobs=1)
        cores = os.cpu_count() or 1
        together = rate(files, rules, jobs=cores)
    return [
        {"what": "bulk audit, 1 process", "per_second": round(alone)},
        {
            "what": f"bulk audit, {cores} processes",
            "per_second": round(together),
            "ratio": round(together / alone, 2),
        },
    ]


def rate(files: list[Path], rules: Rules, *, jobs: int) -> float:
    """Quotes a second, starting the processes included."""
    began = time.perf_counter()
    assert all(judged.verdict.verified for judged in judge_all(files, rules, jobs=jobs))
    return len(files) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
