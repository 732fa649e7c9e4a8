"""What an audit says of the packages of a set together: kernels in parts, the tools' interface, the option number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.audit import role_checks
from pipeline.audit.findings import Findings, Result
from pipeline.audit.policy import Policy, PolicyFile
from pipeline.audit.snapshot_checks import Audited
from tests.component.audit.test_identify import KEEPALIVED, NEW_IPVSADM, OLD_IPVSADM, STOCK_IPVSADM
from tests.fixtures.damaged import SNAPSHOT
from tests.fixtures.kernelparts import director, files, module, package, realserver
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


def test_tools_of_a_director_speak_its_kernels_interface(tmp_path: Path) -> None:
    tools = {"ipvsadm": OLD_IPVSADM, "keepalived": KEEPALIVED}
    rows = found(tmp_path, {"director": {"kernel": director(), **tools}})
    interfaces = {name: result for name, (result, _) in rows.items() if name.startswith("interface: ")}
    assert list(interfaces.values()) == [Result.PASS, Result.PASS]
    assert not [name for name, (result, _) in rows.items() if result is Result.FAIL]


@pytest.mark.parametrize(("tool", "speaks"), [(NEW_IPVSADM, "netlink interface"), (STOCK_IPVSADM, "has no FULLNAT")])
def test_a_tool_of_another_interface_is_named(tmp_path: Path, tool: list[Entry], speaks: str) -> None:
    rows = failures(tmp_path, {"director": {"kernel": director(), "ipvsadm": tool, "keepalived": KEEPALIVED}})
    (name,) = rows
    assert name == "interface: ipvsadm-1.0-1.x86_64.rpm"
    assert "sockopt interface, the tool" in rows[name] and speaks in rows[name]


def test_a_tool_beside_a_stock_kernel_has_no_interface_to_speak(tmp_path: Path) -> None:
    assert failures(tmp_path, {"stock": {"kernel": files(), "ipvsadm": NEW_IPVSADM}}) == {}


def test_a_kernel_in_parts_has_the_role_that_they_have_together(tmp_path: Path) -> None:
    content = director()
    parts = {"kernel-core": content[:3], "kernel-modules": content[3:]}
    assert failures(tmp_path / "good", {"director": {**parts, "ipvsadm": OLD_IPVSADM}}) == {}
    assert failures(tmp_path / "number", {"director": parts}, OF_200) == {}
    rows = failures(tmp_path / "bad", {"realserver": {**parts, "kernel": realserver()}})
    assert "kernel-modules-1.0-1.x86_64.rpm is part of a director by content" in rows["role: realserver"]
    assert set(failures(tmp_path / "wrong", {"stock": parts})) == {"role: stock"}


@pytest.mark.parametrize("part", ["kernel-core", "kernel-modules"])
def test_a_part_of_a_kernel_without_the_rest_is_named(tmp_path: Path, part: str) -> None:
    content = director()
    parts = {"kernel-core": content[:3], "kernel-modules": content[3:]}
    rows = failures(tmp_path, {"director": {part: parts[part]}, "stock": {"kernel": files()}})
    assert "the set has no rest of it" in rows[f"role: {part}-1.0-1.x86_64.rpm"]


def test_an_option_number_that_is_unknown_fails_where_the_policy_names_one(tmp_path: Path) -> None:
    sets = {"realserver": {"kernel": files(server=module("toa", option=200, other=254))}}
    assert failures(tmp_path / "any", sets) == {}
    assert found(tmp_path / "any", sets)["option number: unknown"][0] is Result.WARN
    assert "the policy accepts 200" in failures(tmp_path / "one", sets, OF_200)["option number: unknown"]
    rows = failures(tmp_path / "none", {"realserver": {"kernel": files()}}, OF_200)
    assert "no package writes or reads it" in rows["option number: unknown"]
    assert failures(tmp_path / "stock", {"stock": {"kernel": files()}}, OF_200) == {}
