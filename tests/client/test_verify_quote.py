"""``verify-quote``: one quote by itself; every check is told, none that did not run is called passed."""

import json

import pytest

from assay import cli
from assay.attest.measurement import Tee
from assay.attest.quote.collateral import format_collateral
from assay.attest.quote.tdx import TdBody
from assay.attest.roots import TrustedRoot
from assay.attest.simulated.platform import HEALTHY, SW_HARDENING_NEEDED, SimulatedPlatform, Variant
from assay.client import quote_cli
from assay.client.verdict import Result
from assay.client.verify_quote import judge_one_quote

T = 1_760_000_000
DAY = 86_400
MR_ENCLAVE, MR_TD, REPORT_DATA = b"\x11" * 32, b"\x33" * 48, bytes(range(64))
EVIDENCE = [
    "structure",
    "collateral",
    "certificates",
    "collateral-dates",
    "collateral-signers",
    "quoting-enclave",
    "quote-signature",
    "tcb-level",
    "debug",
]


class Machine:
    def __init__(self, variant=HEALTHY, tee=Tee.SGX, *, debug=False, seed=b"\x06" * 32):
        platform = SimulatedPlatform(seed, epoch_s=T, variant=variant)
        if tee is Tee.SGX:
            self.quote = platform.quote(
                platform.report(
                    mr_enclave=MR_ENCLAVE,
                    mr_signer=b"\x22" * 32,
                    isv_prod_id=7,
                    isv_svn=3,
                    report_data=REPORT_DATA,
                    debug=debug,
                )
            )
        else:
            self.quote = platform.td_quote(TdBody(platform.td_report(mr_td=MR_TD, report_data=REPORT_DATA)))
        self.root_der = platform.root_der
        self.collateral = format_collateral(platform.collateral(issued_s=T - DAY, tee=tee))

    def judge(self, *, quote=None, collateral=None, at_s=T, **options):
        root = TrustedRoot("sim", self.root_der)
        return judge_one_quote(
            self.quote if quote is None else quote,
            self.collateral if collateral is None else collateral,
            root=root,
            at_s=at_s,
            **options,
        )

    def files(self, folder):
        for name, content in {
            "quote": self.quote,
            "collateral": self.collateral,
            "root.der": self.root_der,
        }.items():
            (folder / name).write_bytes(content)
        collateral, root = str(folder / "collateral"), str(folder / "root.der")
        return [str(folder / "quote"), "--collateral", collateral, "--root", root, "--at", str(T)]


def results(verdict):
    return {check.name: str(check.result) for check in verdict.checks}


@pytest.mark.parametrize("tee", [Tee.SGX, Tee.TDX])
def test_good_evidence_passes_every_check_and_the_policys_are_not_checked(tee):
    verdict = Machine(tee=tee).judge()
    td = ["td"] if tee is Tee.TDX else []
    assert verdict.verified
    assert results(verdict) == dict.fromkeys(EVIDENCE + td, "pass") | {
        "identity": "not-checked",
        "tcb": "not-checked",
    }
    assert verdict.label == "simulated"
    assert verdict.facts["tcb"] == {
        "status": "UpToDate",
        "advisories": [],
        "evaluation_number": 20,
        "valid_from_s": T - DAY,
        "valid_until_s": T + 29 * DAY,
    }
    assert verdict.facts["quote"]["tee"] == str(tee)
    name, value = ("mr_enclave", MR_ENCLAVE) if tee is Tee.SGX else ("mr_td", MR_TD)
    assert verdict.facts["quote"][name] == value.hex()


FAILURES = {
    "another root": (
        lambda: Machine().judge(collateral=Machine(seed=b"\x07" * 32).collateral),
        "certificates",
    ),
    "revoked": (lambda: Machine(Variant(pck_revoked=True)).judge(), "certificates"),
    "expired": (lambda: Machine().judge(at_s=T + 31 * DAY), "collateral-dates"),
    "of the future": (lambda: Machine().judge(at_s=T - 2 * DAY), "collateral-dates"),
    "collateral of TDX": (
        lambda: Machine().judge(collateral=Machine(tee=Tee.TDX).collateral),
        "collateral-signers",
    ),
    "quoting enclave": (lambda: Machine(Variant(qe_isv_prod_id=9)).judge(), "quoting-enclave"),
    "flipped": (
        lambda: Machine().judge(quote=bytes([*Machine().quote[:112], 1, *Machine().quote[113:]])),
        "quote-signature",
    ),
    "below every level": (lambda: Machine(Variant(pce_svn=1)).judge(), "tcb-level"),
    "debug": (lambda: Machine(debug=True).judge(), "debug"),
    "TDX module": (lambda: Machine(Variant(mr_signer_seam=b"\x07" * 48), Tee.TDX).judge(), "td"),
    "trailing byte": (lambda: Machine().judge(quote=Machine().quote + b"\0"), "structure"),
    "empty": (lambda: Machine().judge(quote=b""), "structure"),
    "collateral that is none": (lambda: Machine().judge(collateral=b"{}"), "collateral"),
}


@pytest.mark.parametrize(("judge", "name"), FAILURES.values(), ids=FAILURES)
def test_a_defect_fails_its_own_check_and_no_other_is_called_passed(judge, name):
    verdict = judge()
    assert not verdict.verified
    assert verdict.platform is None
    assert "quote" not in verdict.facts
    found = results(verdict)
    assert [each for each, result in found.items() if result == "fail"] == [name]
    passed = {each for each, result in found.items() if result == "pass"}
    assert passed <= {"structure", "collateral"}
    assert verdict.check(name).code


def test_no_reason_is_the_librarys_text():
    for judge, name in FAILURES.values():
        detail = judge().check(name).detail
        for word in ("Verification failed", "Caused by", "0:", "UnixTime", "mismatch: expected"):
            assert word not in detail


def test_report_data_is_checked_if_it_is_given():
    assert Machine().judge(report_data=REPORT_DATA).verified
    verdict = Machine().judge(report_data=bytes(64))
    assert not verdict.verified
    assert verdict.check("report-data").result is Result.FAIL


POLICY = """[quotes]
root = "root.der"
tcb_status = {status}
min_evaluation_number = {number}
[quotes.advisories]
{advisories}
{more}
"""


def run(folder, capsys, machine, *more, policy=None):
    arguments = machine.files(folder)
    if policy is not None:
        values = {"status": '["UpToDate"]', "number": 20, "advisories": "", "more": ""} | policy
        (folder / "policy.toml").write_text(POLICY.format(**values))
        arguments += ["--policy", str(folder / "policy.toml")]
    capsys.readouterr()
    code = cli.main(["verify-quote", *arguments, "--json", *more])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else None


def test_the_command_without_a_policy_judges_the_evidence_alone(tmp_path, capsys):
    code, told = run(tmp_path, capsys, Machine(SW_HARDENING_NEEDED))
    assert (code, told["verified"], told["platform"]) == (0, True, "simulated")
    assert told["tcb"]["status"] == "SWHardeningNeeded"
    assert {"name": "tcb", "result": "not-checked", "detail": "no policy is given"} in told["checks"]


HARDENING = {"status": '["SWHardeningNeeded"]', "advisories": f'"{MR_ENCLAVE.hex()}" = ["INTEL-SA-00615"]'}


@pytest.mark.parametrize(
    ("variant", "policy", "failed"),
    [
        (HEALTHY, {}, None),
        (HEALTHY, {"number": 21}, "tcb"),
        (HEALTHY, {"status": '["OutOfDate"]'}, "tcb"),
        (SW_HARDENING_NEEDED, {}, "tcb"),
        (SW_HARDENING_NEEDED, {"status": '["SWHardeningNeeded"]'}, "tcb"),
        (SW_HARDENING_NEEDED, HARDENING, None),
        (HEALTHY, {"more": f'[quotes.identity]\nmeasurements = ["{MR_ENCLAVE.hex()}"]'}, None),
        (HEALTHY, {"more": f'[quotes.identity]\nmeasurements = ["{MR_TD.hex()}"]'}, "identity"),
        (HEALTHY, {"more": f'[quotes.identity]\nmr_signers = ["{"22" * 32}"]\nisv_prod_id = 7'}, None),
        (HEALTHY, {"more": "[quotes.identity]\nmin_isv_svn = 4"}, "identity"),
    ],
)
def test_the_command_with_a_policy_judges_platform_and_enclave(tmp_path, capsys, variant, policy, failed):
    code, told = run(tmp_path, capsys, Machine(variant), policy=policy)
    assert code == (0 if failed is None else 1)
    assert [check["name"] for check in told["checks"] if check["result"] == "fail"] == [failed] * (
        failed is not None
    )


@pytest.mark.parametrize(
    "policy",
    [
        {"more": "[other]"},
        {"more": "[quotes.identity]\nunknown = 1"},
        {"more": "[quotes.identity]\nmeasurements = []"},
        {"more": '[quotes.identity]\nmeasurements = ["00"]'},
        {"more": f'[quotes.identity]\nmr_signers = ["{"aa" * 32}", "{"aa" * 32}"]'},
        {"more": "[quotes.identity]\nmin_isv_svn = 65536"},
        {"more": "[quotes.identity]\nisv_prod_id = -1"},
        {"status": "[]"},
        {"advisories": '"00" = []'},
    ],
)
def test_a_policy_that_is_none_is_refused(tmp_path, capsys, policy):
    assert run(tmp_path, capsys, Machine(), policy=policy) == (1, None)


def test_a_policy_of_another_root_is_a_usage_error(tmp_path, capsys):
    machine = Machine()
    arguments = machine.files(tmp_path)
    (tmp_path / "policy.toml").write_text(
        POLICY.format(status='["UpToDate"]', number=1, advisories="", more="").replace("root.der", "intel")
    )
    assert cli.main(["verify-quote", *arguments, "--policy", str(tmp_path / "policy.toml")]) == 2


def test_without_a_root_or_collateral_nothing_is_judged(tmp_path):
    arguments = Machine().files(tmp_path)
    assert cli.main(["verify-quote", *arguments[:3]]) == 2
    assert cli.main(["verify-quote", arguments[0], *arguments[3:]]) == 2
    assert cli.main(["verify-quote", *arguments[1:]]) == 2


def test_the_second_verdict_is_as_of_today(tmp_path, capsys):
    machine = Machine()
    (tmp_path / "today").write_bytes(machine.collateral)
    code, told = run(tmp_path, capsys, machine, "--today", str(tmp_path / "today"))
    # As of the given time all is well; today this collateral is long expired.
    assert (code, told["verified"], told["today"]["verified"]) == (0, True, False)
    failed = [check["name"] for check in told["today"]["checks"] if check["result"] == "fail"]
    assert failed == ["collateral-dates"]


def test_what_people_see(tmp_path, capsys):
    arguments = Machine().files(tmp_path)
    assert cli.main(["verify-quote", *arguments]) == 0
    out = capsys.readouterr().out
    for text in (MR_ENCLAVE.hex(), "SIMULATED PLATFORM", "UpToDate", "not checked: identity, tcb"):
        assert text in out
    (tmp_path / "quote").write_bytes(b"nothing")
    assert cli.main(["verify-quote", *arguments]) == 1
    assert "NOT VERIFIED: structure" in capsys.readouterr().out


def test_many_quotes_are_judged_in_their_order_by_several_processes(tmp_path, capsys):
    machine = Machine()
    arguments = machine.files(tmp_path)[1:]
    names = []
    for number in range(40):
        name = tmp_path / f"q{number:02d}"
        name.write_bytes(machine.quote if number % 5 else machine.quote[:-1])
        names.append(str(name))
    assert cli.main(["verify-quote", *names, *arguments, "--json", "--jobs", "2"]) == 1
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["file"] for each in told] == names
    assert [each["verified"] for each in told] == [bool(number % 5) for number in range(40)]


def test_a_few_quotes_need_no_process(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(quote_cli, "ProcessPoolExecutor", None)
    machine = Machine()
    arguments = machine.files(tmp_path)
    assert cli.main(["verify-quote", arguments[0], arguments[0], *arguments[1:]]) == 0
    assert capsys.readouterr().out.count("verified (simulated), UpToDate") == 2
