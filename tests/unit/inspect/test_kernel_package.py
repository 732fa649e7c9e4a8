"""Which modules a guest gets and in which order, by what the modules say; nothing is read or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import Refused
from pipeline.inspect import kernel_package
from pipeline.inspect.kernel_package import Kernel, Module


def module(name: str, *depends: str, aliases: tuple[str, ...] = ()) -> Module:
    return Module(f"kernel/net/{name}.ko", depends, aliases)


MODULES = {
    "x_tables": module("x_tables"),
    "nf_conntrack": module("nf_conntrack"),
    "nf_nat": module("nf_nat", "nf_conntrack"),
    "ip_tables": module("ip_tables", "x_tables"),
    "iptable_nat": module("iptable_nat", "ip_tables", "nf_nat"),
    "virtio_rng": module("virtio-rng"),
    "xt_REDIRECT": module("xt_REDIRECT", "x_tables", "nf_nat", aliases=("ip6t_REDIRECT", "ipt_REDIRECT")),
}
KERNEL = Kernel(
    Path("/nowhere"), "6.1.9", {"CONFIG_PACKET": "y", "CONFIG_E1000": "y"}, MODULES, frozenset({"libcrc32c"})
)


def test_what_a_module_needs_is_loaded_before_it_and_once() -> None:
    assert KERNEL.closure(["iptable_nat", "nf_nat"]) == [
        *("x_tables", "ip_tables", "nf_conntrack", "nf_nat", "iptable_nat")
    ]


def test_the_order_asked_for_is_kept_where_nothing_speaks_against_it() -> None:
    assert KERNEL.closure(["virtio_rng", "x_tables"]) == ["virtio_rng", "x_tables"]
    assert KERNEL.closure(["x_tables", "virtio-rng"]) == ["x_tables", "virtio_rng"]


def test_a_module_is_found_by_an_alias() -> None:
    assert KERNEL.closure(["ipt_REDIRECT"])[-1] == "xt_REDIRECT"


@pytest.mark.parametrize("name", ["af_packet", "e1000", "libcrc32c"])
def test_what_is_built_in_is_there_and_is_not_loaded(name: str) -> None:
    assert KERNEL.has(name)
    assert KERNEL.closure([name]) == []


def test_what_a_kernel_does_not_have_is_refused() -> None:
    assert not KERNEL.has("toa")
    with pytest.raises(Refused, match=r"the kernel 6\.1\.9: no module toa"):
        KERNEL.closure(["toa"])


def test_a_module_whose_need_is_missing_is_refused() -> None:
    kernel = Kernel(Path("/nowhere"), "6.1.9", {}, {"ip_vs": module("ip_vs", "libcrc32c")}, frozenset())
    with pytest.raises(Refused, match=r"ip_vs: missing dependency; expected libcrc32c"):
        kernel.closure(["ip_vs"])


def test_modules_that_need_each_other_are_refused() -> None:
    ring = {"a": module("a", "b"), "b": module("b", "a")}
    with pytest.raises(Refused, match="dependency cycle a, b, a"):
        Kernel(Path("/nowhere"), "6.1.9", {}, ring, frozenset()).closure(["a"])


def test_modprobe_reads_what_must_be_loaded_first_last() -> None:
    rows = kernel_package.modules_dep(KERNEL, ["iptable_nat", "x_tables"]).splitlines()
    assert rows == [
        "kernel/net/iptable_nat.ko: kernel/net/nf_nat.ko kernel/net/nf_conntrack.ko kernel/net/ip_tables.ko "
        "kernel/net/x_tables.ko",
        "kernel/net/x_tables.ko:",
    ]


def test_modprobe_reads_the_aliases_of_the_modules_that_are_there() -> None:
    assert kernel_package.modules_alias(KERNEL, ["x_tables"]) == ""
    assert kernel_package.modules_alias(KERNEL, ["xt_REDIRECT"]) == (
        "alias ip6t_REDIRECT xt_REDIRECT\nalias ipt_REDIRECT xt_REDIRECT\n"
    )
