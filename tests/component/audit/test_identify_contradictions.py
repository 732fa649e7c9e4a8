"""Packages that contradict themselves, or hide what they are: refused, named, or unknown, and never guessed."""

from __future__ import annotations

import gzip
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.audit.identify import identify, problems
from pipeline.audit.identity import Identification, Identity, Kind, Role
from pipeline.errors import ExitCode, Refused
from pipeline.inspect.contents import Depth
from tests.fixtures.commandline import Inv
from tests.fixtures.kernelparts import KERNEL, director, files, module, package, realserver
from tests.fixtures.rawrpms import Entry, entry, link

TREE = f"/lib/modules/{KERNEL}"
TOA, IPVS = f"{TREE}/kernel/net/toa/toa.ko", f"{TREE}/kernel/net/netfilter/ipvs/ip_vs.ko"
CONFIG, IMAGE = f"/boot/config-{KERNEL}", f"/boot/vmlinuz-{KERNEL}"


def identified(*paths: Path, expected: Role | None = None) -> Identification:
    return identify(list(paths), expected, Depth.MODULES)


def one(place: Path, content: list[Entry], payload: list[Entry] | None = None) -> Identity:
    (found,) = identified(package(place, "kernel", content, payload=payload)).packages
    return found


def without(content: list[Entry], path: str) -> list[Entry]:
    return [item for item in content if item.path != path]


def evidence(identity: Identity) -> str:
    return "; ".join(row.text for row in identity.evidence)


@pytest.mark.parametrize(
    ("path", "mode", "kind"),
    [
        (IMAGE, stat.S_IFDIR, "a directory"),
        (CONFIG, stat.S_IFIFO, "a FIFO"),
        (CONFIG, stat.S_IFLNK, "a link"),
        (f"{TREE}/vmlinuz", stat.S_IFLNK, "a link"),
        (f"{TREE}/config", stat.S_IFCHR, "a special file"),
    ],
)
def test_evidence_that_is_no_regular_file_is_refused(tmp_path: Path, path: str, mode: int, kind: str) -> None:
    path_in_package = package(tmp_path, "kernel", [*without(files(), path), Entry(path, b"x", mode | 0o644)])
    with pytest.raises(Refused, match=f"{path} is {kind}; expected the file itself") as error:
        identified(path_in_package)
    assert error.value.where == str(path_in_package)
    assert error.value.hint == f"rpmkeys --checksig -v {path_in_package}"


def test_a_link_in_boot_that_rpm_only_names_is_no_evidence(tmp_path: Path) -> None:
    config = next(item for item in files() if item.path == CONFIG)
    packed = [*without(files(), CONFIG), replace(config, path=f"{TREE}/config")]
    ghost = Entry(CONFIG, b"../x", stat.S_IFLNK | 0o777, flags=1 << 6)
    found = one(tmp_path, [*packed, ghost], payload=packed)
    assert (found.role, found.problems) == (Role.STOCK, ())


@pytest.mark.parametrize(
    "hidden",
    [link(TOA, "/opt/toa.ko"), entry(f"{TOA}.lz4", b"x"), link(f"{TREE}/weak-updates/toa.ko", "/opt/toa.ko")],
    ids=["a link", "an unknown compression", "a weak update"],
)
def test_a_module_called_toa_that_cannot_be_read_leaves_the_role_unknown(tmp_path: Path, hidden: Entry) -> None:
    found = one(tmp_path, [*files(), hidden])
    assert (found.role, found.options) == (Role.UNKNOWN, ())
    assert "a module called toa is listed, and is no file that can be read" in evidence(found)


def test_a_module_is_known_whatever_the_case_of_its_name(tmp_path: Path) -> None:
    upper = entry(f"{TREE}/kernel/net/toa/TOA.ko", module("toa", option=254))
    found = one(tmp_path, [*files(), upper])
    assert (found.role, found.options[0].numbers) == (Role.REALSERVER, (254,))


def test_a_stock_kernel_says_on_what_that_rests(tmp_path: Path) -> None:
    assert "no TOA: no module called toa, and CONFIG_TOA is not set" in evidence(one(tmp_path, files()))


def test_no_option_is_read_out_of_another_machines_code(tmp_path: Path) -> None:
    toa = bytearray(module("toa", option=254))
    toa[18:20] = (183).to_bytes(2, "little")  # EM_AARCH64
    found = one(tmp_path, files(server=bytes(toa)))
    assert (found.role, found.options[0].numbers) == (Role.REALSERVER, ())
    assert found.options[0].how == f"the code of {TOA} is for another machine than x86-64"


def test_a_kernel_for_another_machine_is_no_contradiction(tmp_path: Path) -> None:
    content = [replace(item, data=b"MZ" + bytes(5000)) if item.path == IMAGE else item for item in files()]
    other = package(tmp_path, "kernel", content, arch="aarch64")
    assert identified(other).packages[0].problems == ()
    (problem,) = one(tmp_path, content).problems
    assert f"{IMAGE} is no x86 boot image" in problem.what


def test_a_module_of_32_bits_is_read_as_far_as_its_texts_go(tmp_path: Path) -> None:
    narrow = bytearray(module("ip_vs", "SOCKOPT"))
    narrow[4] = 1  # ELFCLASS32
    found = one(tmp_path, [replace(item, data=bytes(narrow)) if item.path == IPVS else item for item in director()])
    assert (found.role, found.options[0].numbers, found.problems) == (Role.DIRECTOR, (), ())


def test_an_image_for_debuggers_is_no_second_kernel(tmp_path: Path) -> None:
    plain = entry(f"/boot/vmlinux-{KERNEL}.gz", gzip.compress(b"\x7fELF" + bytes(1000), mtime=0))
    found = one(tmp_path, [*files(), plain])
    assert (found.kind, found.kernel, found.problems) == (Kind.KERNEL, KERNEL, ())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            [*files(), entry(f"{TREE}/config", b"CONFIG_MODULES=y\nCONFIG_IP_VS=m\nCONFIG_TOA=y\n")],
            f"{CONFIG} and {TREE}/config differ in CONFIG_IP_VS_TAB_BITS, CONFIG_TOA",
        ),
        (
            files(config="CONFIG_MODULES=y\nCONFIG_IP_VS=y\n"),
            f"{CONFIG} has IPVS built in, and there is {IPVS}",
        ),
        (
            without(files(config="CONFIG_IP_VS=n\nCONFIG_IP_VS_TAB_BITS=99\n"), IPVS),
            "its configuration has CONFIG_IP_VS_TAB_BITS=99; expected 8 to 27",
        ),
        (
            files(director=module("ip_vs", "SOCKOPT")),
            f"{IPVS} has the FULLNAT of the LVS patch, and no image that exports what it needs",
        ),
    ],
    ids=["configurations", "built in", "table size", "exports"],
)
def test_contents_that_contradict_each_other_are_named(tmp_path: Path, content: list[Entry], problem: str) -> None:
    assert problem in " ".join(each.what for each in one(tmp_path, content).problems)


def test_of_two_modules_that_which_modprobe_loads_counts(tmp_path: Path) -> None:
    stock, own = module("ip_vs", kernel="6.1"), module("ip_vs", "NETLINK", kernel="6.1")
    both = {"updates": stock, "kernel/net/netfilter/ipvs": own}
    content = [entry(f"/lib/modules/6.1/{place}/ip_vs.ko", data) for place, data in both.items()]
    assert identified(package(tmp_path, "kmod", content)).packages[0].has == ()
    content = [entry(item.path, both[place]) for item, place in zip(content, reversed(both), strict=True)]
    assert identified(package(tmp_path, "kmod", content)).packages[0].has == (Role.DIRECTOR,)


def test_a_director_whose_modules_write_two_options_does_not_work_with_a_server_of_one(tmp_path: Path) -> None:
    modules = {"extra": 200, "kernel/net": 254}
    content = [
        entry(f"/lib/modules/6.1/{place}/ip_vs.ko", module("ip_vs", "NETLINK", kernel="6.1", option=option))
        for place, option in modules.items()
    ]
    server = [entry("/lib/modules/6.1/extra/toa.ko", module("toa", option=200, kernel="6.1"))]
    found = identified(package(tmp_path, "kmod", content), package(tmp_path, "kmod-toa", server))
    assert found.pair is not None and found.pair.works is False
    assert found.pair.reasons == ("the director writes the option 200, 254, the server reads 200",)


def test_parts_of_a_kernel_and_the_whole_of_them_are_paired_too(tmp_path: Path) -> None:
    core, modules = director()[:3], director()[3:]
    parts = [package(tmp_path, "kernel-core", core), package(tmp_path, "kernel-modules", modules)]
    other = package(tmp_path, "kernel", realserver(option=254), "1.toa")
    same = package(tmp_path / "same", "kernel", realserver(), "1.toa")
    tool = entry("/usr/bin/ipvsadm", b"\x7fELF\2\1\1" + bytes(60) + b"\0add-service\0get-laddr\0FullNat\0")
    ipvsadm = package(tmp_path, "ipvsadm", [tool])
    works = {
        "whole, same": identified(*parts, same).pair,
        "whole, other": identified(*parts, other).pair,
        "modules": identified(parts[1], other).pair,
        "core": identified(parts[0], other).pair,
        "tool": identified(parts[1], ipvsadm).pair,
    }
    assert {name: pair and pair.works for name, pair in works.items()} == {
        "whole, same": True,
        "whole, other": False,
        "modules": False,
        "core": None,
        "tool": True,
    }


def test_a_part_that_is_given_twice_makes_no_whole(tmp_path: Path) -> None:
    core = package(tmp_path, "kernel-core", director()[:3])
    found = identified(core, core)
    assert (found.whole, [each.role for each in found.packages]) == ((), [Role.PARTIAL] * 2)


def test_a_stock_image_with_a_directors_modules_is_no_director(tmp_path: Path) -> None:
    parts = [package(tmp_path, "kernel-core", files()[:3]), package(tmp_path, "kernel-modules", director()[3:])]
    found = identified(*parts, expected=Role.DIRECTOR)
    assert found.whole[0].role is Role.UNKNOWN
    assert "no image that exports what it needs" in problems(found)[0].what


def test_a_source_package_is_named_as_one(tmp_path: Path) -> None:
    source = package(tmp_path, "kernel", [entry("kernel.spec", b"Name: kernel\n")], changed={1106: (4, 1, b"\0\0\0\1")})
    (found,) = identified(source).packages
    assert (found.kind, found.role, found.digests[-1]) == (Kind.SOURCE, Role.NONE, "payload sha256")


def test_the_next_command_can_be_typed_where_the_first_was(tmp_path: Path, inv: Inv) -> None:
    path = package(tmp_path, "kernel", director(), "1.fnat")
    result = inv("identify", path, "--expect", "realserver", "--depth", "boot", expect=ExitCode.REFUSED)
    assert f"next: ./inv identify {path} --expect realserver\n" in result.out


def test_what_is_no_file_is_called_what_it_is(tmp_path: Path, inv: Inv) -> None:
    result = inv("identify", tmp_path, expect=ExitCode.USAGE)
    assert f"{tmp_path}: a directory; expected an RPM package" in result.err
    assert f"./inv identify {tmp_path}/*.rpm" in result.err
    assert "/dev/zero: no regular file" in inv("identify", "/dev/zero", expect=ExitCode.USAGE).err


def test_an_error_of_a_file_names_its_package(tmp_path: Path) -> None:
    path = package(tmp_path, "kernel", [*files(), entry(TOA, b"no module")])
    with pytest.raises(Refused, match=f"{path.name}: {TOA}: not a whole ELF file") as error:
        identified(path)
    assert error.value.where == str(path)
