"""Which role a patch serves: content proves it, names only claim it, and every mistake has its own message."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from pipeline.config.line_model import RoleName, Rule
from pipeline.errors import ExitCode, Refused
from pipeline.patching import role_rules
from pipeline.patching.patch_file import PatchFile, parse
from pipeline.patching.role_rules import Classification, classify
from tests.fixtures.patches import RULES, director, edit, entry, git_rename, plain, realserver

DIRECTOR, REALSERVER = RoleName.DIRECTOR, RoleName.REALSERVER


def classified(data: bytes, rules: Mapping[RoleName, Rule] = RULES) -> Classification:
    return classify(parse(data, "p.patch"), rules)


def checked(data: bytes, slot: RoleName, member: str = "made/some.patch", **more: object) -> tuple[str, ...]:
    parsed: PatchFile = parse(data, "p.patch")
    pinned = entry(data, slot, member).model_copy(update=more)
    return role_rules.check("some", pinned, parsed, slot, classify(parsed, RULES))


def refusal(data: bytes, slot: RoleName, member: str = "made/some.patch", **more: object) -> Refused:
    with pytest.raises(Refused) as caught:
        checked(data, slot, member, **more)
    assert caught.value.code == ExitCode.REFUSED
    assert caught.value.where and caught.value.why and caught.value.hint
    return caught.value


def test_each_patch_proves_its_role_and_says_by_which_content() -> None:
    found = classified(director())
    assert (found.role, found.fits) == (DIRECTOR, (DIRECTOR,))
    assert found.by == (
        "by content: it adds net/netfilter/ipvs/ip_vs_synproxy.c; touches include/linux/ip_vs.h;"
        " touches nothing in net/toa/; adds 'IP_VS_CONN_F_FULLNAT'"
    )
    assert classified(realserver()).role is REALSERVER


def test_every_clause_that_failed_is_named_for_the_other_role() -> None:
    assert classified(director()).failed(REALSERVER) == (
        "does not add net/toa/toa.c",
        "does not touch net/ipv4/tcp_ipv4.c",
        "touches net/netfilter/ipvs/ip_vs_conn.c, though nothing in net/netfilter/ipvs/ may be",
        "does not add 'config TOA'",
    )
    assert classified(director()).failed(DIRECTOR) == ()


def test_a_file_that_is_changed_is_not_one_that_is_added() -> None:
    path = "net/netfilter/ipvs/ip_vs_synproxy.c"
    data = director().replace(plain(path, "", "int synproxy(void);\n"), plain(path, "int a;\n", "int b;\n"))
    found = classified(data)
    assert found.role is None
    assert found.failed(DIRECTOR) == (f"does not add {path} (modified instead)",)


def test_renaming_a_file_away_touches_where_it_was() -> None:
    found = classified(realserver() + git_rename("net/netfilter/ipvs/ip_vs_conn.c", "net/other.c"))
    assert found.role is None and "touches net/netfilter/ipvs/ip_vs_conn.c" in found.failed(REALSERVER)[0]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(director(flag="IP_VS_CONN_F_FULLNAT_NOT"), id="beginning of a longer word"),
        pytest.param(director(flag="NOT_IP_VS_CONN_F_FULLNAT"), id="end of a longer word"),
        pytest.param(b"IP_VS_CONN_F_FULLNAT\n" + director(flag="OTHER"), id="text before the diff"),
        pytest.param(
            director(flag="OTHER").replace(b" int flag_19", b" int IP_VS_CONN_F_FULLNAT"), id="a context line"
        ),
        pytest.param(director(flag="OTHER") + plain("x.c", "IP_VS_CONN_F_FULLNAT\nb\n", "b\n"), id="a removed line"),
    ],
)
def test_only_an_added_whole_word_is_contained(data: bytes) -> None:
    assert classified(data).failed(DIRECTOR) == ("does not add 'IP_VS_CONN_F_FULLNAT'",)


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("x/toa-2.6.32.patch", "realserver"),
        ("lvs-2.6.32.patch", "director"),
        ("Linux-FULLNAT.diff", "director"),
        ("lvs-fullnat-synproxy/toa.patch", "realserver"),
        ("toa-for-lvs.patch", "-"),
        ("0001-net.patch", "-"),
    ],
)
def test_a_name_is_a_claim_and_directories_claim_nothing(name: str, claim: str) -> None:
    assert role_rules.claimed(name) == claim


@pytest.mark.parametrize(("prefix", "depth"), [(b"", 0), (b"old/linux/", 2)])
def test_a_patch_of_another_depth_is_refused_with_that_reason_in_a_series_too(prefix: bytes, depth: int) -> None:
    data = realserver().replace(b" toy.orig/", b" " + prefix).replace(b" toy/", b" " + prefix)
    error = refusal(data, REALSERVER)
    assert f"no role: its paths are those of patch -p{depth}, and only -p1 is read" in error.what
    assert "git diff" in error.hint


def test_the_guides_mistake_is_named_whatever_the_file_is_called() -> None:
    error = refusal(director(), REALSERVER, "guide/toa.patch")
    assert "the LVS-FULLNAT patch is in the realserver's series: its content proves the role director" in error.what
    for fact in ("best-known guide", "applies cleanly, builds and boots", "modprobe toa", "director's local address"):
        assert fact in error.why
    assert "whatever its name claims (realserver)" in error.why
    assert "[roles.realserver]" in error.hint


def test_the_reverse_mistake_has_its_own_message() -> None:
    error = refusal(realserver(), DIRECTOR)
    assert "the TOA patch is in the director's series" in error.what
    assert "guide" not in error.why and "Masq" in error.why and "Protocol not available" in error.why


def test_a_swap_is_told_before_a_wrong_digest() -> None:
    assert "series" in refusal(director(), REALSERVER, sha256="0" * 64).what


def test_another_digest_than_pinned_is_refused_with_both() -> None:
    error = refusal(director(), DIRECTOR, sha256="0" * 64)
    assert f"its SHA-256 is {parse(director(), 'p').sha256}, pinned is {'0' * 64}" in error.what


def test_a_patch_of_no_role_is_refused_with_each_roles_failed_clauses() -> None:
    error = refusal(edit("Makefile", "all:", "\techo"), DIRECTOR)
    assert "fits the rules of no role" in error.what
    assert "not director: it does not add net/netfilter/ipvs/ip_vs_synproxy.c; does not touch" in error.what
    assert "not realserver: it does not add net/toa/toa.c; does not touch net/ipv4/tcp_ipv4.c" in error.what


def test_a_patch_of_both_roles_is_refused() -> None:
    lax = {role: rule.model_copy(update={"must_not_touch": ()}) for role, rule in RULES.items()}
    parsed = parse(director() + realserver(), "p.patch")
    found = classify(parsed, lax)
    assert (found.role, found.fits, found.by) == (None, (DIRECTOR, REALSERVER), "")
    with pytest.raises(Refused, match="fits the rules of several roles: director, realserver"):
        role_rules.check("some", entry(parsed.data, DIRECTOR), parsed, DIRECTOR, found)


def test_with_the_real_exclusions_both_roles_at_once_fit_none() -> None:
    assert "fits the rules of no role" in refusal(director() + realserver(), DIRECTOR).what


def test_a_declared_role_that_content_disproves_is_refused() -> None:
    error = refusal(director(), DIRECTOR, role=REALSERVER)
    assert "declared for the role realserver, its content proves director" in error.what


def test_a_name_that_claims_another_role_is_only_a_note() -> None:
    (note,) = checked(director(), DIRECTOR, "x/toa.patch")
    assert "name claims realserver, its content proves director; content decides" in note
    assert checked(director(), DIRECTOR, "x/lvs.patch") == ()
    assert checked(director(), DIRECTOR, "x/0001.patch") == ()


@pytest.mark.parametrize("number", [200, "0xC8", "0310", "(200)", "200U", "200 /* ours */"])
def test_the_option_number_is_read_as_c_reads_it(number: object) -> None:
    found = classified(director(number)).option
    assert found is not None and found.numbers == (200,)
    assert found.found[0][0] == "include/linux/ip_vs.h"
    assert b"TCPOPT_ADDR" in director(number).splitlines()[found.found[0][1] - 1]
    assert checked(director(number), DIRECTOR) == ()


def test_another_option_number_is_refused_with_its_place() -> None:
    error = refusal(realserver(254), REALSERVER)
    assert "TCP option number 254 (TCPOPT_TOA in net/toa/toa.c, line" in error.what
    assert "the line's realserver uses 200" in error.what and "local address" in error.why


@pytest.mark.parametrize("number", ["OTHER_MACRO", "200 +", '"200"', "089"])
def test_an_option_that_is_no_plain_number_counts_as_missing(number: str) -> None:
    assert "it does not define TCPOPT_TOA" in refusal(realserver(number), REALSERVER).what


def test_two_definitions_that_disagree_are_refused() -> None:
    data = realserver() + plain("net/toa/more.h", "", "#define TCPOPT_TOA 254\n")
    assert "TCP option number 254 (TCPOPT_TOA in net/toa/more.h" in refusal(data, REALSERVER).what


def test_an_option_in_the_text_between_diffs_does_not_count() -> None:
    assert checked(b"+#define TCPOPT_TOA 254\n" + realserver(), REALSERVER) == ()


def test_the_option_number_does_not_decide_the_role() -> None:
    assert classified(realserver(254)).role is REALSERVER


def test_roles_of_one_line_must_use_one_number() -> None:
    role_rules.check_options({"lvs": classified(director()), "toa": classified(realserver())})
    with pytest.raises(Refused) as caught:
        role_rules.check_options({"lvs": classified(director(254)), "toa": classified(realserver())})
    assert "different TCP option numbers: lvs (director): 254, toa (realserver): 200" in caught.value.what
