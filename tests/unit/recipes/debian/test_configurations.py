"""The configurations of the lines from Debian's tarballs: full and small, and what the lab needs of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import line_loader
from pipeline.config.line_model import RoleName
from pipeline.core.process import clean_environment, run
from pipeline.packaging import rpmbuild
from pipeline.recipes.debian import kernel

VERSIONS = {"lts61": "6.1.187", "lts612": "6.12.107"}
FULL = {
    name: kernel.of_line(
        line_loader.load(name),
        RoleName.STOCK,
        version=version,
        tarball=f"linux_{version}.orig.tar.xz",
        tree=f"linux-{version}",
        patches=(),
        epoch=1_760_000_000,
    )
    for name, version in VERSIONS.items()
}
LINES = pytest.mark.parametrize("name", VERSIONS)
SIZES = pytest.mark.parametrize("small", [False, True], ids=["full", "small"])


def requested(name: str, *, small: bool = False) -> dict[str, str]:
    """The values of a line's configuration, by symbol without CONFIG_."""
    symbols = kernel.requested(replace(FULL[name], small=small))
    return {symbol.removeprefix("CONFIG_"): item.value for symbol, item in symbols.items()}


@LINES
@SIZES
def test_packages_and_kernel_bear_the_lines_mark_and_a_small_ones_too(name: str, small: bool, tmp_path: Path) -> None:
    made = replace(FULL[name], small=small)
    release = f"1.{name}{'.small' if small else ''}"
    rpmbuild.make_tree(tmp_path)
    kernel.prepare(tmp_path / "SOURCES", tmp_path / "SPECS", made)
    options = rpmbuild.Macros(jobs=2, topdir=str(tmp_path)).options()
    argv = ["rpmspec", "-q", "--builtrpms", "--qf", "%{NEVRA}\\n", *options, str(tmp_path / "SPECS" / kernel.SPEC)]
    text = run(argv, env=clean_environment(HOME=str(tmp_path), SOURCE_DATE_EPOCH=str(made.epoch))).text
    assert text.split() == [f"{package}-{VERSIONS[name]}-{release}.x86_64" for package in kernel.PACKAGES]
    assert requested(name, small=small)["LOCALVERSION"] == f'"-{release}.x86_64"'


@LINES
def test_a_full_kernels_texts_do_not_mention_a_small_one(name: str) -> None:
    assert not [text for text in kernel.rendered(FULL[name]).values() if ".small" in text]


@LINES
@SIZES
def test_ipvs_has_every_scheduler_and_protocol(name: str, small: bool) -> None:
    # net/netfilter/ipvs/Kconfig of Linux 6.1 and 6.12
    schedulers = ["RR", "WRR", "LC", "WLC", "FO", "OVF", "LBLC", "LBLCR", "DH", "SH", "MH", "SED", "NQ", "TWOS"]
    symbols = requested(name, small=small)
    assert {symbols[f"IP_VS_{scheduler}"] for scheduler in schedulers} == {"m"}
    assert {symbols[f"IP_VS_PROTO_{protocol}"] for protocol in ("TCP", "UDP", "ESP", "AH", "SCTP")} == {"y"}
    assert (symbols["IP_VS_IPV6"], symbols["IP_VS_NFCT"], symbols["IP_VS_FTP"]) == ("y", "y", "m")


@LINES
@SIZES
def test_the_lab_can_boot_it_and_load_what_scenarios_need(name: str, small: bool) -> None:
    machine = ("VIRTIO_PCI", "VIRTIO_NET", "VIRTIO_CONSOLE", "PVPANIC_PCI", "SERIAL_8250_CONSOLE", "HPET_TIMER")
    system = ("DEVTMPFS", "RD_GZIP", "PROC_FS", "SYSFS", "UNIX98_PTYS", "PACKET", "IPV6", "IP_MULTICAST")
    modules = ("NET_IPIP", "IP_NF_FILTER", "IP_NF_NAT", "NETFILTER_XT_TARGET_REDIRECT")
    symbols = requested(name, small=small)
    assert {symbols[symbol] for symbol in (*machine, *system)} == {"y"}
    assert {symbols[symbol] for symbol in modules} == {"m"}


@LINES
def test_a_small_kernel_is_a_part_of_the_full_one(name: str) -> None:
    full, small = requested(name), requested(name, small=True)
    differing = {symbol for symbol, value in small.items() if full.get(symbol) != value}
    assert differing <= {"LOCALVERSION", "NR_CPUS", "E1000", "CRYPTO", "CRYPTO_CRC32C"}
    assert len(small) < len(full) / 3


def test_mitigations_that_became_options_are_requested_in_full_kernels() -> None:
    """6.1 has them always; arch/x86/Kconfig of 6.12 has an option for each, which `allnoconfig` turns off."""
    symbols = requested("lts612")
    mitigations = (
        "RFDS",
        "SPECTRE_V1",
        "SPECTRE_V2",
        "MDS",
        "TAA",
        "MMIO_STALE_DATA",
        "L1TF",
        "RETBLEED",
        "SSB",
        "SRBDS",
    )
    assert {symbols[f"MITIGATION_{fault}"] for fault in mitigations} == {"y"}
