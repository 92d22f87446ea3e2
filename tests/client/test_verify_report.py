"""``verify-quote`` of SEV-SNP reports: real and simulated, each defect at its own check."""

import json
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from assay import cli
from assay.attest.quote.snp import POLICY_DEBUG
from assay.attest.simulated.certificates import DAY_S
from assay.attest.simulated.snp import POLICY, SimulatedSnp, SnpVariant
from assay.client.verify_report import judge_one_report, parse_snp_collateral
from assay.tlog.errors import MalformedError

T = 1_760_000_000
MEASUREMENT, REPORT_DATA = b"\x11" * 48, bytes(range(64))
EVIDENCE = ["structure", "collateral", "certificates", "report-signature", "tcb-version", "chip", "debug"]
REAL = {"virtee_milan": "amd-milan", "veraison_genoa": "amd-genoa", "debug_policy": "amd-milan"}


@cache
def machine(**variant):
    return SimulatedSnp(b"\x01" * 32, epoch_s=T, variant=SnpVariant(**variant))


def report(platform=None, **options):
    platform = platform or machine()
    return platform.sign(platform.report(measurement=MEASUREMENT, report_data=REPORT_DATA, **options))


def judge(data=None, collateral=None, *, at_s=T, platform=None, **options):
    platform = platform or machine()
    return judge_one_report(
        report(platform) if data is None else data,
        platform.chain_pem.encode() if collateral is None else collateral,
        root=platform.root,
        at_s=at_s,
        **options,
    )


def results(verdict):
    return {check.name: str(check.result) for check in verdict.checks}


def test_a_good_report_passes_every_check_and_says_what_was_not():
    verdict = judge()
    assert verdict.verified
    assert verdict.label == "simulated"
    assert results(verdict) == dict.fromkeys(EVIDENCE, "pass") | dict.fromkeys(
        ["revocation", "identity", "tcb"], "not-checked"
    )
    assert verdict.facts["quote"]["measurement"] == MEASUREMENT.hex()
    assert verdict.facts["tcb"]["status"] is None


def test_with_a_revocation_list_it_is_checked():
    platform = machine()
    verdict = judge(crl=platform.revocation_list(issued_s=T))
    assert results(verdict)["revocation"] == "pass"
    verdict = judge(crl=platform.revocation_list(platform.intermediate, issued_s=T))
    assert results(verdict)["certificates"] == "fail"


def flipped(data, at):
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


FAILURES = {
    "flipped": (lambda: judge(flipped(report(), 0x90)), "report-signature"),
    "hidden behind the signature": (lambda: judge(flipped(report(), 0x330)), "structure"),
    "trailing byte": (lambda: judge(report() + b"\0"), "structure"),
    "empty": (lambda: judge(b""), "structure"),
    "before its time": (lambda: judge(at_s=T - 400 * 365 * DAY_S), "certificates"),
    "expired": (lambda: judge(at_s=T + 40 * 365 * DAY_S), "certificates"),
    "debug": (lambda: judge(report(policy=POLICY | POLICY_DEBUG)), "debug"),
    "no certificates": (lambda: judge(collateral=b"{}"), "collateral"),
    "nothing": (lambda: judge(collateral=b""), "collateral"),
}


@pytest.mark.parametrize(("make", "name"), FAILURES.values(), ids=FAILURES)
def test_a_defect_fails_its_own_check_and_no_other_is_called_passed(make, name):
    verdict = make()
    assert not verdict.verified
    assert verdict.platform is None
    found = results(verdict)
    assert [each for each, result in found.items() if result == "fail"] == [name]
    assert {each for each, result in found.items() if result == "pass"} <= {"structure", "collateral"}


def test_report_data_is_checked_if_it_is_given():
    assert judge(report_data=REPORT_DATA).verified
    assert results(judge(report_data=bytes(64)))["report-data"] == "fail"


def parts():
    return dict(zip(("vcek", "ask", "ark"), pems(machine().chain_pem), strict=True))


def pems(text):
    return [part + "-----END CERTIFICATE-----\n" for part in text.split("-----END CERTIFICATE-----\n")[:3]]


@pytest.mark.parametrize(
    "change",
    [
        {"ark": None},
        {"vcek": None},
        {"ask": None},
        {"vlek": "x"},
        {"asvk": "x"},
        {"other": "x"},
        {"ark": 1},
        {"ark": "garbage"},
        {"ask": ""},
        {"ask": "\ud800"},
        {"vcek": "ab" * 40_000},
    ],
)
def test_collateral_in_another_form_is_refused(change):
    value = {name: text for name, text in (parts() | change).items() if text is not None}
    with pytest.raises(MalformedError) as caught:
        parse_snp_collateral(json.dumps(value).encode())
    assert caught.value.code == "malformed-collateral"


def test_collateral_is_pem_or_json():
    chain = machine().chain
    assert parse_snp_collateral(machine().chain_pem.encode()) == chain
    assert parse_snp_collateral(json.dumps(parts()).encode()) == chain
    one = {"vlek": parts()["vcek"], "asvk": parts()["ask"], "ark": parts()["ark"]}
    assert parse_snp_collateral(json.dumps(one).encode()) == chain


def run(folder, capsys, *more, data=None, policy=None):
    (folder / "report").write_bytes(report() if data is None else data)
    (folder / "chain.pem").write_text(machine().chain_pem)
    ark = x509.load_der_x509_certificate(machine().chain.ark)
    (folder / "ark.pem").write_bytes(ark.public_bytes(Encoding.PEM))
    arguments = [str(folder / "report"), "--collateral", str(folder / "chain.pem")]
    arguments += ["--root", str(folder / "ark.pem"), "--at", str(T), "--json", *more]
    if policy is not None:
        (folder / "rules.toml").write_text(policy)
        arguments += ["--policy", str(folder / "rules.toml")]
    capsys.readouterr()
    code = cli.main(["verify-quote", *arguments])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else None


RULES = """[snp]
vmpls = {vmpls}
allow_migration_agent = false
require_revocation = {revocation}
{more}
[snp.minimum_tcb.{product}]
bootloader = {bootloader}
tee = 0
snp = 0
microcode = 0
"""


def rules(**changes):
    values = {"vmpls": "[0]", "revocation": "false", "more": "", "product": "Milan", "bootloader": 0}
    return RULES.format(**values | changes)


@pytest.mark.parametrize(
    ("policy", "failed"),
    [
        (rules(), None),
        (rules(more=f'measurements = ["{MEASUREMENT.hex()}"]'), None),
        (rules(more=f'measurements = ["{"00" * 48}"]'), "identity"),
        (rules(bootloader=255), "tcb"),
        (rules(product="Genoa"), "tcb"),
        (rules(vmpls="[1, 2, 3]"), "tcb"),
        (rules(revocation="true"), "tcb"),
    ],
)
def test_the_command_with_a_policy_judges_platform_and_guest(tmp_path, capsys, policy, failed):
    code, told = run(tmp_path, capsys, policy=policy)
    assert code == (0 if failed is None else 1)
    assert told["verified"] is (failed is None)
    failures = [check["name"] for check in told["checks"] if check["result"] == "fail"]
    assert failures == ([] if failed is None else [failed])


@pytest.mark.parametrize(
    "policy",
    [
        "",
        rules(vmpls="[4]"),
        rules(vmpls="[]"),
        rules(vmpls='["0"]'),
        rules(vmpls="[true]"),
        rules(product="Naples"),
        rules(bootloader=256),
        rules(bootloader=-1),
        rules(more='measurements = ["00"]'),
        rules(more="unknown = 1"),
        rules() + "fmc = 1\n",
    ],
)
def test_rules_that_are_none_are_refused(tmp_path, capsys, policy):
    assert run(tmp_path, capsys, policy=policy) == (1, None)


def test_rules_for_another_vendor_are_a_usage_error(tmp_path, capsys):
    quotes = '[quotes]\nroot = "intel"\ntcb_status = ["UpToDate"]\nmin_evaluation_number = 1\n[quotes.advisories]\n'
    assert run(tmp_path, capsys, policy=quotes)[0] == 2


@pytest.mark.parametrize("name", REAL)
def test_a_real_report_is_judged_as_expected(vectors, tmp_path, capsys, name):
    folder = vectors / "quotes" / "snp" / name
    meta = json.loads((folder / "meta.json").read_text())
    arguments = ["--collateral", str(folder / "collateral.json"), "--root", REAL[name]]
    arguments += ["--at", str(meta["verify_at"]), "--json"]
    code = cli.main(["verify-quote", str(folder / "quote.bin"), *arguments])
    told = json.loads(capsys.readouterr().out)
    if name == "debug_policy":
        assert code == 1
        assert [check["name"] for check in told["checks"] if check["result"] == "fail"] == ["debug"]
    else:
        assert (code, told["platform"]) == (0, "amd")
        assert told["quote"]["measurement"] == meta["expected"]["measurement"]
    # Another line of processors has another root.
    other = "amd-turin"
    arguments[arguments.index(REAL[name])] = other
    assert cli.main(["verify-quote", str(folder / "quote.bin"), *arguments]) == 1
