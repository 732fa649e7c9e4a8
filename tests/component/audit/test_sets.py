"""What an audit says of the packages of a set together: the option number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.audit import role_checks
from pipeline.audit.findings import Findings, Result
from pipeline.audit.policy import Policy, PolicyFile
from pipeline.audit.snapshot_checks import Audited
from tests.fixtures.damaged import SNAPSHOT
from tests.fixtures.kernelparts import files, module, package
from tests.fixtures.rawrpms import Entry

ANY, OF_200 = (
    PolicyFile(Policy.model_validate({"schema": 1, "lines": {"el6": wanted}}), "policy.toml", "a" * 64)
    for wanted in ({}, {"option-number": 200})
)
Content = Mapping[str, Sequence[Entry]]


def failures(place: Path, sets: Mapping[str, Content], policy: PolicyFile = ANY) -> dict[str, str]:
    """What fails of a snapshot with these packages in its sets, by check and subject."""
    return {name: reason for name, (result, reason) in found(place, sets, policy).items() if result is Result.FAIL}


def found(place: Path, sets: Mapping[str, Content], policy: PolicyFile = ANY) -> dict[str, tuple[Result, str]]:
    for name in sets:
        (place / name).mkdir(parents=True, exist_ok=True)
    made = {
        name: [package(place / name, each, list(content)).name for each, content in packages.items()]
        for name, packages in sets.items()
    }
    findings = Findings()
    for file in {file for packed in made.values() for file in packed}:
        findings.good("package", file, "signed")
    document = replace(SNAPSHOT, sets={name: tuple(packed) for name, packed in made.items()}, packages={})
    role_checks.check(Audited(place, document, None), {}, policy, findings)
    rows = [row for row in findings.rows if row.check not in ("package", "line", "configuration")]
    rows.sort(key=lambda row: list(Result).index(row.result))  # of several about one subject the worst
    return {f"{row.check}: {row.subject}": (row.result, row.reason) for row in rows}


def test_an_option_number_that_is_unknown_fails_where_the_policy_names_one(tmp_path: Path) -> None:
    sets = {"realserver": {"kernel": files(server=module("toa", option=200, other=254))}}
    assert failures(tmp_path / "any", sets) == {}
    assert found(tmp_path / "any", sets)["option number: unknown"][0] is Result.WARN
    assert "the policy accepts 200" in failures(tmp_path / "one", sets, OF_200)["option number: unknown"]
    rows = failures(tmp_path / "none", {"realserver": {"kernel": files()}}, OF_200)
    assert "no package writes or reads it" in rows["option number: unknown"]
    assert failures(tmp_path / "stock", {"stock": {"kernel": files()}}, OF_200) == {}
