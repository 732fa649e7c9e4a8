"""The overlay: every change hangs on a line that must be there exactly once."""

from __future__ import annotations

import pytest

from pipeline.config.line_model import required
from pipeline.errors import Refused
from pipeline.recipes.spec_overlay import configured, overlaid, spec_edits
from tests.fixtures.targets import EL6

ANCHORS = required(EL6.build.anchors, "[build.anchors]")
DECLARED, APPLIED, RELEASE = ANCHORS.patch_declared, ANCHORS.patch_applied, ANCHORS.release
SIGNING = ANCHORS.signing

SPEC = f"""%define dist .el6
# % define buildid .local
{SIGNING}
{RELEASE}
Source82: config-generic
{DECLARED}

%prep
make -f %{{SOURCE20}} configs
{APPLIED}
%build
"""


def lines(spec: str = SPEC, *, sign: bool = True, patches: tuple[str, ...] = ("lvs.patch",)) -> list[str]:
    return overlaid(spec, spec_edits(ANCHORS, patches, sign_modules=sign)).splitlines()


def test_a_patch_is_declared_and_applied_by_its_own_name_just_before_the_hook() -> None:
    result = lines(patches=("one.patch", "two.patch"))
    hook = result.index(APPLIED)
    assert result[hook - 2 : hook] == ["ApplyPatch one.patch", "ApplyPatch two.patch"]
    declared = result.index(DECLARED)
    assert result[declared - 2 : declared] == ["Patch990001: one.patch", "Patch990002: two.patch"]


def test_nothing_else_changes() -> None:
    assert [line for line in lines() if "lvs.patch" not in line] == SPEC.splitlines()
    assert lines(patches=()) == SPEC.splitlines()


def test_module_signing_is_left_out_only_when_asked() -> None:
    assert SIGNING in lines()
    assert "%define signmodules 0" in lines(sign=False)
    assert SIGNING not in lines(sign=False)


def test_blanks_make_no_difference() -> None:
    tabbed = SPEC.replace(DECLARED, "Patch999999:\tlinux-kernel-test.patch  ")
    assert "Patch990001: lvs.patch" in lines(tabbed)


@pytest.mark.parametrize("anchor", [DECLARED, APPLIED, RELEASE])
def test_a_hook_that_moved_is_refused_with_the_line_that_was_missed(anchor: str) -> None:
    moved = SPEC.replace(
        anchor, anchor.replace("linux-kernel-test", "linux-kernel-extra").replace("?buildid", "?build_id")
    )
    with pytest.raises(Refused) as caught:
        lines(moved)
    assert f"`{anchor}` nowhere" in caught.value.what
    assert "most like it is line" in caught.value.why
    assert "[build.anchors] of the line file" in caught.value.hint


def test_a_hook_that_is_there_twice_is_refused() -> None:
    with pytest.raises(Refused, match="2 times") as caught:
        lines(SPEC + APPLIED + "\n")
    assert caught.value.where == "kernel.spec:12"


CONFIG = "CONFIG_IP_VS=m\nCONFIG_IP_VS_TAB_BITS=12\n# CONFIG_IP_VS_DEBUG is not set\n"


def test_a_value_is_set_where_it_stands_or_at_the_end() -> None:
    changed = configured(CONFIG, {"CONFIG_IP_VS_TAB_BITS": "22", "CONFIG_TOA": "m", "CONFIG_IP_VS": "n"})
    assert changed == (
        "# CONFIG_IP_VS is not set\nCONFIG_IP_VS_TAB_BITS=22\n# CONFIG_IP_VS_DEBUG is not set\nCONFIG_TOA=m\n"
    )


def test_an_option_whose_name_begins_like_another_is_not_taken_for_it() -> None:
    assert "CONFIG_IP_VS_TAB_BITS=12" in configured(CONFIG, {"CONFIG_IP_VS": "y"})


def test_an_option_that_is_set_twice_is_refused() -> None:
    with pytest.raises(Refused, match="CONFIG_IP_VS is set 2 times"):
        configured(CONFIG + "CONFIG_IP_VS=y\n", {"CONFIG_IP_VS": "m"})
