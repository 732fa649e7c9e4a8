"""Kernel configurations: fragments are read strictly, and what Kconfig dropped or changed is told symbol by symbol."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import resources
from pipeline.errors import BuildFailed, ExitCode, FileProblems
from pipeline.formats import kconfig

BASE = """\
# Why this is here.
CONFIG_NET=y

CONFIG_IP_VS=m
CONFIG_IP_VS_TAB_BITS=12
CONFIG_LSM="yama,bpf"
CONFIG_BASE=0x1000
# CONFIG_IP_VS_DEBUG is not set
CONFIG_OLD=n
"""
# As the kernel's tools write it: what is off is not always listed.
FINISHED = """\
#
# Automatically generated file; DO NOT EDIT.
#
CONFIG_NET=y
CONFIG_INET=y
CONFIG_IP_VS=m
CONFIG_IP_VS_TAB_BITS=12
CONFIG_LSM="yama,bpf"
CONFIG_BASE=0x1000
# CONFIG_IP_VS_DEBUG is not set
# end of Networking
"""
# The kernel's own language, of which only "depends on" is read.
KCONFIG = """\
menuconfig IP_VS
	tristate "IPVS"
	depends on NET && INET
	depends on (NF_CONNTRACK || NF_CONNTRACK=n)
	help
	Text.

if IP_VS

config	IP_VS_RR
	tristate "round robin"

config IP_VS_MH
	depends on MH
"""


def base() -> dict[str, kconfig.RequestedSymbol]:
    return kconfig.parse(BASE, "base.config")


def test_a_fragment_says_which_line_asks_for_what() -> None:
    asked = base()
    assert {symbol: item.value for symbol, item in asked.items()} == {
        "CONFIG_NET": "y",
        "CONFIG_IP_VS": "m",
        "CONFIG_IP_VS_TAB_BITS": "12",
        "CONFIG_LSM": '"yama,bpf"',
        "CONFIG_BASE": "0x1000",
        "CONFIG_IP_VS_DEBUG": "n",
        "CONFIG_OLD": "n",
    }
    assert asked["CONFIG_IP_VS"].where == "base.config:4"


def test_every_mistake_of_a_fragment_is_told_at_once_with_its_line() -> None:
    lines = ["CONFIG_A=y", "CONFIG_B=yes", "B=y", "CONFIG_A=m", "CONFIG_C = y", 'CONFIG_D="open', "  CONFIG_E=y"]
    with pytest.raises(FileProblems) as caught:
        kconfig.parse("\n".join(lines), "x.config")
    assert [problem.line for problem in caught.value.problems] == [2, 3, 4, 5, 6, 7]
    assert "CONFIG_A is already set at x.config:1" in str(caught.value)


@pytest.mark.parametrize("value", ["y", "m", "n", "12", "-1", "0x1F", '"text"', '"a \\"b\\" c"', '""'])
def test_every_kind_of_value_is_read_and_written_alike(value: str) -> None:
    asked = kconfig.options({"CONFIG_X": value}, "here")
    assert kconfig.parse(kconfig.text(asked), "x")["CONFIG_X"].value == value


@given(st.text(max_size=20))
def test_a_value_is_one_of_kconfigs_or_refused(value: str) -> None:
    try:
        asked = kconfig.options({"CONFIG_X": value}, "here")
    except FileProblems:
        return
    assert kconfig.text(asked).count("\n") == 1
    assert kconfig.values(kconfig.text(asked)) == {"CONFIG_X": value}


def test_options_of_a_line_file_are_held_to_the_same_values() -> None:
    with pytest.raises(FileProblems, match="CONFIG_X=yes is no kernel option and value"):
        kconfig.options({"CONFIG_X": "yes"}, "lts61.toml")


def test_a_later_part_overrides_an_earlier_one_and_is_what_messages_name() -> None:
    role = kconfig.parse("CONFIG_IP_VS=y\n# CONFIG_NET is not set\n", "role.config")
    whole = kconfig.merged(base(), role)
    assert (whole["CONFIG_IP_VS"].value, whole["CONFIG_IP_VS"].where) == ("y", "role.config:1")
    assert whole["CONFIG_NET"].value == "n"
    assert whole["CONFIG_IP_VS_TAB_BITS"].where == "base.config:5"


def test_the_same_symbols_give_the_same_bytes_in_whatever_order_they_were_asked() -> None:
    one = kconfig.parse("CONFIG_A=y\nCONFIG_B=m\n", "one")
    two = kconfig.parse("# another comment\nCONFIG_B=m\nCONFIG_A=y\n", "two")
    assert kconfig.text(one) == kconfig.text(two) == "CONFIG_A=y\nCONFIG_B=m\n"


def test_a_configuration_that_has_all_that_was_asked_for_passes() -> None:
    assert kconfig.compare(base(), FINISHED) == []
    kconfig.check(base(), FINISHED, ".config")


@pytest.mark.parametrize(
    ("written", "instead", "told"),
    [
        ("CONFIG_IP_VS=m\n", "", "base.config:4: CONFIG_IP_VS=m was dropped"),
        ("CONFIG_IP_VS=m\n", "# CONFIG_IP_VS is not set\n", "base.config:4: CONFIG_IP_VS=m was dropped"),
        ("CONFIG_IP_VS=m\n", "CONFIG_IP_VS=y\n", "base.config:4: CONFIG_IP_VS=m became y"),
        ("BITS=12\n", "BITS=20\n", "base.config:5: CONFIG_IP_VS_TAB_BITS=12 became 20"),
        ("# CONFIG_IP_VS_DEBUG is not set\n", "CONFIG_IP_VS_DEBUG=y\n", "CONFIG_IP_VS_DEBUG=n became y"),
        ('"yama,bpf"', '"yama"', 'CONFIG_LSM="yama,bpf" became "yama"'),
        ("# end of Networking", "CONFIG_OLD=m", "CONFIG_OLD=n became m"),
    ],
)
def test_what_was_dropped_or_changed_is_told_with_the_line_that_asked(written: str, instead: str, told: str) -> None:
    assert FINISHED.count(written) == 1
    with pytest.raises(BuildFailed) as caught:
        kconfig.check(base(), FINISHED.replace(written, instead), "/boot/config-1")
    assert told in str(caught.value)
    assert caught.value.code == ExitCode.BUILD
    assert caught.value.where == "/boot/config-1"
    assert "1 symbol(s)" in caught.value.what


def test_a_symbol_whose_name_begins_like_another_is_not_taken_for_it() -> None:
    asked = kconfig.parse("CONFIG_IP_VS_R=m\n", "x")
    assert len(kconfig.compare(asked, "CONFIG_IP_VS_RR=m\n")) == 1


def test_a_long_list_is_cut_and_says_so() -> None:
    asked = kconfig.parse("".join(f"CONFIG_S{number}=y\n" for number in range(kconfig.LISTED + 7)), "x")
    with pytest.raises(BuildFailed, match="and 7 more"):
        kconfig.check(asked, "", ".config")


def test_what_a_dropped_symbol_depends_on_is_looked_up_in_the_tree() -> None:
    asked = kconfig.parse("CONFIG_IP_VS=m\nCONFIG_IP_VS_RR=m\nCONFIG_TOA=m\n", "x")
    error = kconfig.failure(kconfig.compare(asked, ""), ".config", [KCONFIG])
    assert error.what.splitlines()[4:] == [
        "  CONFIG_IP_VS depends on NET && INET and (NF_CONNTRACK || NF_CONNTRACK=n)",
        "  CONFIG_IP_VS_RR depends on the menus around it",
        "  CONFIG_TOA is no option of this tree: a patch that brings it is missing, or its name is misspelt",
    ]
    assert "depends" not in kconfig.failure(kconfig.compare(asked, ""), ".config").what


def test_the_words_of_the_spec_files_own_check_are_understood() -> None:
    log = (
        "make: all well\n"
        "error: kconfig: CONFIG_IP_VS: asked for m, has n\n"
        'error: kconfig: CONFIG_LSM: asked for "yama,bpf", has "yama"\n'
        "error: kconfig: CONFIG_NEVER: asked for y, has n\n"
    )
    assert [str(difference) for difference in kconfig.from_log(log.splitlines(), base())] == [
        "base.config:4: CONFIG_IP_VS=m was dropped",
        'base.config:6: CONFIG_LSM="yama,bpf" became "yama"',
    ]
    assert kconfig.from_log(["make: all well"], base()) == []


@pytest.mark.parametrize("file", sorted(resources.specs_dir().glob("*/config/*.config")), ids=lambda file: file.name)
def test_the_projects_own_fragments_are_well_formed(file: Path) -> None:
    kconfig.fragment(file)
