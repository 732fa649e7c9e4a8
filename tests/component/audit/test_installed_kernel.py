"""The kernel of a host: its files, what is loaded of it, and what a user may not read."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

from pipeline.audit import installed_kernel
from pipeline.audit.identity import Identity, Role
from tests.fixtures.commandline import Inv
from tests.fixtures.kernelparts import KERNEL, director, files, module, on_disk, realserver
from tests.fixtures.rawrpms import Entry, entry

VS = "/proc/sys/net/ipv4/vs"


def identify(root: Path, content: list[Entry], **more: str) -> Identity:
    """The identity of a host with these files; names of `more` have two underscores for a slash."""
    texts = {name.replace("__", "/"): text for name, text in more.items()}
    return installed_kernel.identify(on_disk(root, content, texts), KERNEL)


def test_the_files_of_a_host_tell_its_role(tmp_path: Path) -> None:
    found = identify(tmp_path, director())
    assert (found.role, found.options[0].numbers, found.kernel) == (Role.DIRECTOR, (200,), KERNEL)
    assert identify(tmp_path / "b", realserver()).role is Role.REALSERVER
    assert identify(tmp_path / "c", files()).role is Role.STOCK


def test_what_is_loaded_counts_before_files(tmp_path: Path) -> None:
    texts = {
        "/proc/modules": "ip_vs 1 0 - Live 0x0\n",
        "/proc/net/ip_vs": "IP Virtual Server version 1.2.1 (size=4194304)\n",
        f"{VS}/fullnat_toa_option": "254\n",
    }
    content = files(director=module("ip_vs", "NETLINK", option=200))
    found = installed_kernel.identify(on_disk(tmp_path, content, texts), KERNEL)
    assert (found.role, found.tab_bits) == (Role.DIRECTOR, 22)
    assert [option.numbers for option in found.options] == [(254,)]


def test_a_loaded_module_that_is_not_the_one_on_disk_is_named(tmp_path: Path) -> None:
    found = identify(tmp_path, files(), proc__modules="ip_vs 1\n", sys__module__ip_vs__srcversion="OTHER\n")
    assert "srcversion OTHER" in found.problems[0].what
    same = identify(tmp_path / "b", files(), proc__modules="ip_vs 1\n", sys__module__ip_vs__srcversion="ABC\n")
    assert same.problems == ()


def test_the_size_of_the_table_is_that_of_the_loaded_module(tmp_path: Path) -> None:
    assert identify(tmp_path, files(), sys__module__ip_vs__parameters__conn_tab_bits="20\n").tab_bits == 20


def test_loaded_toa_makes_a_real_server(tmp_path: Path) -> None:
    assert identify(tmp_path, files(), proc__net__toa_stats="x").role is Role.REALSERVER


def test_of_two_modules_of_one_name_that_counts_which_is_loaded(tmp_path: Path) -> None:
    content = [*files(), entry(f"/lib/modules/{KERNEL}/updates/ip_vs.ko", module("ip_vs", "NETLINK"))]
    dep = f"/lib/modules/{KERNEL}/modules.dep"
    found = installed_kernel.identify(on_disk(tmp_path, content, {dep: "updates/ip_vs.ko: kernel/a.ko\n"}), KERNEL)
    assert found.role is Role.DIRECTOR
    rows = {dep: "kernel/net/netfilter/ipvs/ip_vs.ko: kernel/a.ko\n"}
    assert installed_kernel.identify(on_disk(tmp_path, content, rows), KERNEL).role is Role.STOCK


def test_a_configuration_is_taken_from_proc_where_no_file_has_it(tmp_path: Path) -> None:
    root = on_disk(tmp_path, [entry("/proc/config.gz", gzip.compress(b"CONFIG_IP_VS=n\n"))], {})
    found = installed_kernel.identify(root, KERNEL)
    assert found.role is Role.STOCK
    assert found.evidence[0].where == "/proc/config.gz"


def test_a_host_without_anything_to_read_has_an_unknown_role(tmp_path: Path) -> None:
    assert installed_kernel.identify(tmp_path, KERNEL).role is Role.UNKNOWN


def test_a_damaged_module_is_named_and_makes_nothing_known(tmp_path: Path) -> None:
    content = [entry(item.path, b"damaged") if item.path.endswith("ip_vs.ko") else item for item in files()]
    found = identify(tmp_path, content)
    assert found.role is Role.UNKNOWN
    assert any("not read" in row.text for row in found.evidence)


def test_any_user_may_look(inv: Inv) -> None:
    found = inv("identify", "--installed", "--json").json["packages"][0]
    assert found["kernel"] == os.uname().release
