"""Fuzzing: mutated quotes and collaterals. No crash, no hang, no false accept.

Seeded, so that a failure comes again: its message has the seed of the one case. ``ASSAY_FUZZ_ROUNDS`` sets how many
(2,000; ``make faults`` takes 100,000). Whatever is accepted must prove the very same thing.
"""

import json
import os
import random
import time
from dataclasses import fields, replace
from functools import cache
from importlib import resources
from pathlib import Path

import pytest

from assay.attest.quote.collateral import Collateral, format_collateral, parse_collateral
from assay.attest.quote.verify import verify_quote
from assay.attest.roots import TrustedRoot, intel_sgx_root
from assay.tlog.errors import LogError

ROUNDS = int(os.environ.get("ASSAY_FUZZ_ROUNDS", "2000"))
SHARES = 8
"""Tests that the rounds are dealt to, so that they can run side by side."""

MAX_CPU_S = 1.0
"""A case that takes more of a processor than this hangs; real ones take 2 ms."""

OURS = Path(__file__).parents[1] / "vectors" / "quotes" / "sim"
SIMULATED = ("sgx_up_to_date", "sgx_out_of_date", "tdx_v4_up_to_date", "tdx_v5_up_to_date")
REAL = ("sgx/phala_v3", "tdx/gcp_v4", "tdx/gotdx_v5", "tdx/phala_v4")


class Sample:
    def __init__(self, folder: Path, root: TrustedRoot) -> None:
        self.quote = (folder / "quote.bin").read_bytes()
        self.text = (folder / "collateral.json").read_bytes()
        self.collateral = parse_collateral(self.text)
        self.now_s = json.loads((folder / "meta.json").read_text())["verify_at"]
        self.root = root
        self.expected = verify_quote(self.quote, self.collateral, root=root, now_s=self.now_s)


@cache
def samples(vectors: Path | None) -> list[Sample]:
    root = TrustedRoot("simulated", (OURS / "root.der").read_bytes())
    found = [Sample(OURS / name, root) for name in SIMULATED]
    if vectors is not None:
        der = resources.files("assay.attest.roots").joinpath("intel_sgx_root_ca.der").read_bytes()
        found += [Sample(vectors / "quotes" / name, intel_sgx_root(der)) for name in REAL]
    return found


def flip(data: bytearray, dice: random.Random) -> None:
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)


def overwrite(data: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(data))
    size = dice.choice((1, 2, 4, 8, 64))
    data[at : at + size] = dice.choice((bytes(size), b"\xff" * size, dice.randbytes(size)))


def insert(data: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(data) + 1)
    data[at:at] = dice.randbytes(dice.choice((1, 2, 16, 1000)))


def remove(data: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(data))
    del data[at : at + dice.choice((1, 2, 16, 1000))]


def repeat(data: bytearray, dice: random.Random) -> None:
    at = dice.randrange(len(data))
    piece = data[at : at + dice.choice((1, 16, 500))]
    where = dice.randrange(len(data) + 1)
    data[where:where] = piece


def swap(data: bytearray, dice: random.Random) -> None:
    size = dice.choice((1, 16, 64))
    a, b = sorted(dice.randrange(len(data)) for _ in range(2))
    if b - a >= size:
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


MUTATIONS = (flip, flip, overwrite, insert, remove, repeat, swap)


def mutated(data: bytes, dice: random.Random, other: bytes) -> bytes:
    if dice.random() < 0.05:  # the head of one and the tail of another
        at = dice.randrange(len(data) + 1)
        return data[:at] + other[at:]
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        if changed:
            dice.choice(MUTATIONS)(changed, dice)
    return bytes(changed)


def part_mutated(collateral: Collateral, dice: random.Random, other: Collateral) -> Collateral:
    """One part of it changed, past what JSON allows: as a provider that is not ours would give it."""
    name = dice.choice([field.name for field in fields(Collateral)])
    value, foreign = getattr(collateral, name), getattr(other, name)
    if isinstance(value, bytes):
        return replace(collateral, **{name: mutated(value, dice, foreign)})
    text = mutated(value.encode(), dice, foreign.encode()).decode("utf-8", "replace")
    return replace(collateral, **{name: text})


def attack(sample: Sample, other: Sample, dice: random.Random) -> None:
    kind = dice.randrange(4)
    quote, collateral = sample.quote, sample.collateral
    try:
        if kind == 0:
            collateral = parse_collateral(mutated(sample.text, dice, other.text))
        elif kind == 1:
            collateral = part_mutated(sample.collateral, dice, other.collateral)
        if kind >= 2:
            quote = mutated(sample.quote, dice, other.quote)
        verified = verify_quote(quote, collateral, root=sample.root, now_s=sample.now_s)
    except LogError:
        return
    # Accepted: then it is known evidence (of two of one platform, perhaps the other), and the collateral says the same.
    known = {each.expected.evidence_id: each.expected for each in (sample, other)}[verified.evidence_id]
    assert replace(verified, collateral_id=known.collateral_id) == known
    if verified.collateral_id != sample.expected.collateral_id:
        # What may differ is what no signature covers and nobody trusts.
        for name in ("tcb_info", "qe_identity"):
            assert getattr(collateral, name) == getattr(sample.collateral, name)


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_mutated_evidence_is_refused_or_proves_the_same(share: int) -> None:
    path = os.environ.get("ASSAY_VECTORS")
    known = samples(Path(path) if path else None)
    for number in range(share, ROUNDS, SHARES):
        dice = random.Random(number)  # not a secret
        sample, other = dice.choice(known), dice.choice(known)
        began_s = time.process_time()
        try:
            attack(sample, other, dice)
        except Exception as error:
            raise AssertionError(f"case {number}") from error
        assert time.process_time() - began_s < MAX_CPU_S, f"case {number} hangs"


def test_the_unchanged_samples_would_be_accepted() -> None:
    for sample in samples(None):
        again = parse_collateral(format_collateral(sample.collateral))
        assert verify_quote(sample.quote, again, root=sample.root, now_s=sample.now_s) == sample.expected
