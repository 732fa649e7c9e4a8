"""Leaving a section out: exactly its bytes go, nothing is left out that was not examined."""

from __future__ import annotations

import hashlib

import pytest

from pipeline.config import line_loader
from pipeline.config.line_model import LeaveOut
from pipeline.core import resources
from pipeline.errors import ExitCode, Refused
from pipeline.patching.exclusion import leave_all_out, leave_out
from tests.fixtures.patches import config_section, director, edit, git_new, plain


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def rule(before: bytes, after: bytes, file: str = ".config", **config: str) -> LeaveOut:
    return LeaveOut.model_validate(
        {
            "file": file,
            "why": "the file does not exist when patches are applied",
            "config": config if file != ".config" else config or {"CONFIG_IP_VS_TAB_BITS": "22"},
            "sha256-before": sha256(before),
            "sha256-after": sha256(after),
        }
    )


def refusal(data: bytes, what: LeaveOut) -> Refused:
    with pytest.raises(Refused) as caught:
        leave_out(data, what, "lvs")
    assert caught.value.code == ExitCode.REFUSED and caught.value.hint
    return caught.value


@pytest.mark.parametrize("before", [b"", edit("Makefile", "all:", "\techo"), b"Subject: some text\n\n"])
@pytest.mark.parametrize("after", [director(), git_new("a.c", "x") + director(), director()[:-1] + b"\n-- \n2.39\n"])
def test_exactly_the_section_goes_wherever_it_stands(before: bytes, after: bytes) -> None:
    whole = before + config_section() + after
    assert leave_out(whole, rule(whole, before + after)) == before + after


def test_the_last_section_may_go_and_a_blank_line_between_stays() -> None:
    whole = director() + b"\n" + config_section()
    assert leave_out(whole, rule(whole, director() + b"\n")) == director() + b"\n"


def test_an_absent_section_is_refused() -> None:
    error = refusal(director(), rule(director(), director()))
    assert "patch lvs: there is no section of .config to leave out" in error.what


def test_a_patch_other_than_the_examined_one_is_refused_with_both_digests() -> None:
    whole = config_section() + director()
    error = refusal(whole + b"\n", rule(whole, director()))
    found = sha256(whole + b"\n")
    assert f"before .config is left out its SHA-256 is {found}" in error.what
    assert f"recorded is {sha256(whole)}" in error.what


def test_another_remainder_than_recorded_is_refused_with_both_digests() -> None:
    whole = config_section() + director()
    error = refusal(whole, rule(whole, whole))
    assert f"after .config was left out its SHA-256 is {sha256(director())}, recorded is {sha256(whole)}" in error.what


@pytest.mark.parametrize(
    ("section", "config", "reason"),
    [
        (
            config_section(),
            {"CONFIG_IP_VS_TAB_BITS": "20"},
            "carries CONFIG_IP_VS_TAB_BITS=20 over, the section sets it to 22",
        ),
        (
            config_section(),
            {"CONFIG_IP_VS_TAB_BITS": "2"},
            "carries CONFIG_IP_VS_TAB_BITS=2 over, the section sets it to 22",
        ),
        (config_section(), {"CONFIG_IP_VS": "m"}, "carries CONFIG_IP_VS=m over, the section does not set it"),
        (
            config_section("CONFIG_IP_VS_TAB_BITS=22\nCONFIG_NEW=y"),
            {"CONFIG_IP_VS_TAB_BITS": "22"},
            "the section of .config sets CONFIG_NEW=y, which no rule carries over",
        ),
    ],
)
def test_what_the_section_sets_must_be_what_is_carried_over(
    section: bytes, config: dict[str, str], reason: str
) -> None:
    whole = section + director()
    assert reason in refusal(whole, rule(whole, director(), **config)).what


def test_an_option_that_is_switched_off_is_carried_over_as_n() -> None:
    whole = config_section("# CONFIG_IP_VS_TAB_BITS is not set") + director()
    assert leave_out(whole, rule(whole, director(), CONFIG_IP_VS_TAB_BITS="n")) == director()


def test_several_rules_apply_one_after_the_other() -> None:
    other = plain("localversion", "", "-mine\n")
    whole = config_section() + other + director()
    rules = [rule(whole, other + director()), rule(other + director(), director(), "localversion")]
    assert leave_all_out(whole, rules, "lvs") == director()
    with pytest.raises(Refused, match="before localversion is left out"):
        leave_all_out(whole, rules[::-1], "lvs")


def test_what_the_project_leaves_out_begins_with_the_patch_that_is_pinned() -> None:
    found = [
        patch
        for name in resources.line_names()
        for patch in line_loader.load(name).data.patches.values()
        if patch.leave_out
    ]
    assert found, "el6's director patch edits .config"
    for patch in found:
        assert patch.leave_out[0].sha256_before == patch.sha256
        assert all(item.file not in patch.effect for item in patch.leave_out)
