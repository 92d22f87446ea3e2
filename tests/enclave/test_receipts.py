"""Receipts: one chain without gaps whatever races, and an outbox that keeps nothing but what is public anyway."""

import threading
from pathlib import Path

import pytest

from assay.attest import entry, receipt
from assay.attest.entry import ReceiptEntry
from assay.enclave import receipts as receipts_module
from assay.tlog.errors import StaleError, UnavailableError, UntrustedError
from assay.tlog.merkle import leaf_hash
from assay.tlog.strict import base64_text

T0 = 1_800_000_000
VALUES = {
    "model": "m",
    "nonce": "n",
    "parameters": {},
    "prompt": "a secret prompt",
    "result": "a secret result",
}


def issue(enclave, now_s=T0 + 5):
    return enclave.receipts.issue(VALUES, head=enclave.link.head(), now_s=now_s)


def outbox(enclave):
    return sorted(path.name for path in (enclave.folder / "outbox").iterdir())


def test_receipts_are_signed_and_name_registration_and_head(enclave):
    head = enclave.link.head()
    signed = issue(enclave).signed
    said = receipt.verify_receipt(signed, public_key=enclave.boot.public_key)
    assert said.log_head == head
    assert said.registration == enclave.registration.leaf_hash
    assert said.time_claimed_s == T0 + 5


def test_sequence_and_chain_have_no_gaps_under_eight_threads(enclave):
    head, made = enclave.link.head(), []

    def work():
        made.extend(enclave.receipts.issue(VALUES, head=head, now_s=T0 + 5).signed for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chain = sorted(made, key=lambda signed: signed.receipt.sequence)
    assert [each.receipt.sequence for each in chain] == list(range(160))
    assert [each.receipt.previous for each in chain] == [None, *(each.id for each in chain[:-1])]


def test_every_boot_begins_a_chain_of_its_own(boot_enclave):
    for _ in range(2):
        said = issue(boot_enclave()).signed.receipt
        assert (said.sequence, said.previous) == (0, None)


def test_the_outbox_holds_the_cose_and_nothing_else(enclave):
    issued = issue(enclave)
    (path,) = (enclave.folder / "outbox").iterdir()
    assert path.read_bytes() == issued.signed.cose
    kept = b"".join(each.read_bytes() for each in enclave.folder.rglob("*") if each.is_file())
    for opening in issued.commitments.openings.values():
        assert opening.salt not in kept
        assert opening.salt.hex().encode() not in kept
    assert b"secret" not in kept


def test_a_posted_receipt_leaves_the_outbox_and_is_remembered(enclave):
    signed = issue(enclave).signed
    logged = enclave.receipts.post(signed)
    assert logged.leaf == entry.format_entry(ReceiptEntry(signed))
    assert outbox(enclave) == []
    assert enclave.state.last_receipt == leaf_hash(logged.leaf)


def test_posting_twice_is_harmless_and_never_goes_back(enclave):
    one, two = issue(enclave).signed, issue(enclave).signed
    first = enclave.receipts.post(one)
    second = enclave.receipts.post(two)
    assert enclave.receipts.post(one).index == first.index
    assert enclave.state.last_receipt == second.leaf_hash


def test_a_clock_behind_the_head_signs_nothing(enclave):
    head = enclave.link.head()
    assert head.cosigned_at_s == T0
    with pytest.raises(StaleError) as caught:
        issue(enclave, now_s=T0 - 1)
    assert caught.value.code == "clock-behind"
    assert outbox(enclave) == []
    assert issue(enclave, now_s=T0).signed.receipt.sequence == 0


def test_a_full_outbox_signs_nothing(enclave, monkeypatch):
    monkeypatch.setattr(receipts_module, "MAX_OUTBOX", 2)
    issue(enclave), issue(enclave)
    with pytest.raises(UnavailableError) as caught:
        issue(enclave)
    assert caught.value.code == "full"
    assert enclave.receipts.post_waiting() == 2
    assert issue(enclave).signed.receipt.sequence == 2


def test_an_outbox_that_cannot_be_written_uses_no_sequence_number(enclave, monkeypatch):
    def fail(descriptor):
        raise OSError("the disk is full")

    monkeypatch.setattr(receipts_module.os, "fsync", fail)
    with pytest.raises(UnavailableError) as caught:
        issue(enclave)
    assert caught.value.code == "full"
    monkeypatch.undo()
    assert issue(enclave).signed.receipt.sequence == 0


def test_what_waits_is_posted_after_a_restart(boot_enclave, fake_log):
    first = boot_enclave()
    waiting = {issue(first).signed.cose for _ in range(3)}
    second = boot_enclave()
    assert second.receipts.post_waiting() == 3
    assert {each.signed.cose for each in fake_log.receipts()} == waiting
    assert outbox(second) == []
    assert second.receipts.post_waiting() == 0


def test_a_log_that_is_down_keeps_everything_waiting(enclave, fake_log):
    signed = issue(enclave).signed
    for status in (503, 500, 429, 404):
        fake_log.down(status, "" if status == 404 else "busy")
        with pytest.raises(UnavailableError):
            enclave.receipts.post(signed)
        assert enclave.receipts.post_waiting() == 0
    assert outbox(enclave) == [f"{signed.id.hex()}.cose"]
    assert enclave.state.last_receipt is None


def test_a_refused_receipt_is_set_aside_and_the_others_go_on(enclave, fake_log):
    signed = sorted((issue(enclave).signed for _ in range(3)), key=lambda each: each.id)
    refused = entry.format_entry(ReceiptEntry(signed[1]))
    fake_log.instead = lambda method, path, body: (400, b'{"code":"x"}') if body == refused else None
    assert enclave.receipts.post_waiting() == 2
    assert outbox(enclave) == [f"{signed[1].id.hex()}.refused"]
    assert enclave.receipts.post_waiting() == 0


def test_a_log_that_proves_nothing_does_not_make_us_give_up(enclave, fake_log):
    """Who stands between us and the log could otherwise have every receipt set aside."""
    names = sorted(f"{issue(enclave).signed.id.hex()}.cose" for _ in range(2))
    witnesses = fake_log.witnesses
    for tamper in (
        lambda answer: {**answer, "proof": "nonsense"},
        lambda answer: {**answer, "leaf": base64_text(b"another")},
        lambda answer: {},
    ):
        fake_log.tamper = tamper
        assert enclave.receipts.post_waiting() == 0
    fake_log.tamper, fake_log.witnesses = (lambda answer: answer), ()
    assert enclave.receipts.post_waiting() == 0
    assert outbox(enclave) == names
    fake_log.witnesses = witnesses
    assert enclave.receipts.post_waiting() == 2


def test_another_receipt_in_ours_place_is_not_believed(enclave, fake_log):
    one, two = issue(enclave).signed, issue(enclave).signed
    other = enclave.receipts.post(one)
    fake_log.tamper = lambda answer: {
        **answer,
        "leaf": base64_text(other.leaf),
        "proof": fake_log.prove(other.index),
    }
    with pytest.raises(UntrustedError) as caught:
        enclave.receipts.post(two)
    assert caught.value.code == "other-entry"
    assert outbox(enclave) == [f"{two.id.hex()}.cose"]


def test_what_the_host_puts_into_the_outbox_is_set_aside(enclave, boot_enclave, fake_log):
    folder = enclave.folder / "outbox"
    foreign = issue(boot_enclave("another")).signed
    mine = issue(enclave).signed
    (folder / f"{foreign.id.hex()}.cose").write_bytes(foreign.cose)
    (folder / "renamed.cose").write_bytes(mine.cose)
    (folder / "garbage.cose").write_bytes(b"garbage")
    (folder / "empty.cose").write_bytes(b"")
    (folder / "huge.cose").write_bytes(bytes(1 << 20))
    (folder / "folder.cose").mkdir()
    (folder / "link.cose").symlink_to("link.cose")
    assert enclave.receipts.post_waiting() == 1
    assert [each.signed.cose for each in fake_log.receipts()] == [mine.cose]
    assert not [name for name in outbox(enclave) if name.endswith(".cose")]
    assert enclave.state.last_receipt == leaf_hash(entry.format_entry(ReceiptEntry(mine)))


def test_a_receipt_that_is_posted_meanwhile_is_no_failure(enclave, monkeypatch):
    issue(enclave)
    opened = Path.open

    def vanish(path, *arguments, **options):
        if path.suffix == ".cose":
            path.unlink()
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", vanish)
    assert enclave.receipts.post_waiting() == 0
    assert outbox(enclave) == []


def test_a_state_that_cannot_be_saved_keeps_the_receipt_waiting(enclave, monkeypatch):
    signed = issue(enclave).signed
    monkeypatch.setattr(
        type(enclave.state_file),
        "write",
        lambda *_: (_ for _ in ()).throw(UnavailableError("full", code="state")),
    )
    with pytest.raises(UnavailableError):
        enclave.receipts.post(signed)
    assert outbox(enclave) == [f"{signed.id.hex()}.cose"]
