"""What packages are: by content, whatever they are called, alone and in pairs."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest

from pipeline.audit.identify import identify, problems
from pipeline.audit.identity import Identity, Kind, Pair, Role, claimed
from pipeline.errors import ExitCode
from pipeline.inspect.contents import Depth
from tests.fixtures import toa
from tests.fixtures.commandline import Inv
from tests.fixtures.kernelparts import (
    ANY_SYMBOL,
    KERNEL,
    SYNPROXY,
    director,
    files,
    module,
    package,
    realserver,
    stripped,
)
from tests.fixtures.rawrpms import COMPRESSIONS, Entry, entry, link

STOCK6 = "6.1.0-9-amd64"
TOA_MODULE = f"/lib/modules/{STOCK6}/extra/toa.ko"
TREE = f"/lib/modules/{KERNEL}"


def one(path: Path, expected: Role | None = None, depth: Depth = Depth.MODULES) -> Identity:
    (found,) = identify([path], expected, depth).packages
    return found


def pair(first: Path, second: Path) -> Pair:
    found = identify([first, second], None, Depth.MODULES)
    assert found.pair is not None
    assert bool(problems(found)) is (found.pair.related and not found.pair.works)
    return found.pair


def numbers(identity: Identity) -> dict[str, tuple[int, ...]]:
    return {option.use: option.numbers for option in identity.options}


def tool(name: str, text: bytes) -> list[Entry]:
    return [entry(f"/usr/sbin/{name}", b"\x7fELF\2\1\1" + bytes(60) + text)]


OLD_IPVSADM = tool("ipvsadm", b"\0add-service\0get-laddr\0FullNat\0")
NEW_IPVSADM = tool("ipvsadm", b"\0add-service\0FullNat\0IPVS_FULLNAT\0")
STOCK_IPVSADM = tool("ipvsadm", b"\0add-service\0IPVS\0")
KEEPALIVED = tool("keepalived", b"\0virtual_server\0laddr_group_name\0")
REPLACEMENT = [
    entry(f"/lib/modules/{STOCK6}/updates/ip_vs.ko", module("ip_vs", "NETLINK", kernel=STOCK6)),
    entry(f"/lib/modules/{STOCK6}/updates/ip_vs_rr.ko", module("ip_vs", kernel=STOCK6)),
]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The real program lvs-toa."""
    place = tmp_path_factory.mktemp("toa")
    return toa.compiled(place / "made", toa.libraries_below(place / "libraries"), "VERSION=1.0").read_bytes()


def lvs_toa(place: Path, reader: bytes, setting: str = "option = 200\n") -> Path:
    content = [entry("/usr/sbin/lvs-toa", reader), entry("/etc/lvs-toa.conf", setting.encode())]
    names = ("lvs-toa", "config(lvs-toa)", "lvs-toa(x86-64)")  # as rpmbuild adds them
    return package(place, "lvs-toa", content, "fnat.1", provides=[f"{name} = 1.0-fnat.1" for name in names])


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_director_is_one_by_its_content(tmp_path: Path, compression: str) -> None:
    found = one(package(tmp_path, "kernel", director(), "1.fnat", compression=compression))
    assert (found.kind, found.role, found.tab_bits, found.kernel) == (Kind.KERNEL, Role.DIRECTOR, 12, KERNEL)
    assert (numbers(found), found.problems) == ({"written": (200,)}, ())


@pytest.mark.parametrize("number", [200, 252, 254])
def test_a_real_server_says_which_option_it_reads(tmp_path: Path, number: int) -> None:
    found = one(package(tmp_path, "kernel", realserver(option=number), "1.toa"))
    assert (found.role, numbers(found), found.problems) == (Role.REALSERVER, {"read": (number,)}, ())


def test_an_option_in_contradictory_code_is_unknown(tmp_path: Path) -> None:
    found = one(package(tmp_path, "kernel", files(server=module("toa", option=200, other=254))))
    assert numbers(found) == {"read": ()}
    assert "several numbers, 200, 254" in found.options[0].how


def test_a_kernel_of_both_patches_is_both(tmp_path: Path) -> None:
    content = files(director=module("ip_vs", "SOCKOPT", option=254), server=module("toa", option=200), exports=SYNPROXY)
    found = one(package(tmp_path, "kernel", content))
    assert (found.role, numbers(found)) == (Role.BOTH, {"written": (254,), "read": (200,)})
    assert one(package(tmp_path, "kernel", content), Role.REALSERVER).problems == ()


def test_an_unpatched_kernel_is_stock(tmp_path: Path) -> None:
    found = one(package(tmp_path, "kernel", files(), "1.stock"), Role.STOCK)
    assert (found.role, found.options, found.problems) == (Role.STOCK, (), ())


@pytest.mark.parametrize("packed", ["gz", "xz", "zst", "bz2"])
def test_compressed_modules_are_read(tmp_path: Path, packed: str) -> None:
    pack = COMPRESSIONS[{"gz": "gzip", "zst": "zstd", "bz2": "bzip2"}.get(packed, packed)]
    content = [
        entry(f"{item.path}.{packed}", pack(item.data)) if item.path.endswith(".ko") else item for item in realserver()
    ]
    assert one(package(tmp_path, "kernel", content)).role is Role.REALSERVER


def test_a_name_that_claims_another_role_is_named(tmp_path: Path) -> None:
    found = one(package(tmp_path, "kernel", files(), "1.fnat"))
    assert found.role is Role.STOCK
    assert "its name claims a director" in found.problems[0].what


def test_a_director_called_a_real_server_is_the_guides_mistake(tmp_path: Path) -> None:
    path = package(tmp_path, "kernel-realserver", director(), "1.toa", provides=["kernel-realserver-role = 1.0-1.toa"])
    found = one(path, Role.REALSERVER)
    assert [problem.why.split(":")[0] for problem in found.problems] == ["the guide's mistake"] * 3
    assert [claim.source for claim in found.claims] == ["name", "Provides"]
    assert "expected realserver, got director" in found.problems[-1].what


def test_a_file_that_was_renamed_is_seen(tmp_path: Path) -> None:
    path = package(tmp_path, "kernel", director(), "1.fnat")
    found = one(path.rename(tmp_path / "kernel-1.0-1.toa.x86_64.rpm"))
    assert [claim.source for claim in found.claims] == ["name", "file name"]
    assert len(found.problems) == 1


def test_a_module_that_is_only_called_toa_makes_no_real_server(tmp_path: Path) -> None:
    found = one(package(tmp_path, "kernel", files(server=module("ip_vs"))))
    assert found.role is Role.UNKNOWN
    assert "CONFIG_TOA=m, and no module of it reads TOA" in found.problems[0].what


def test_exports_that_contradict_the_module_leave_the_role_unknown(tmp_path: Path) -> None:
    found = one(package(tmp_path, "kernel", files(exports=SYNPROXY)))
    assert (found.role, len(found.problems)) == (Role.UNKNOWN, 1)


def test_modules_for_another_kernel_are_named(tmp_path: Path) -> None:
    content = files(director=module("ip_vs", kernel="2.6.32-99"))
    assert "is for the kernel 2.6.32-99" in one(package(tmp_path, "kernel", content)).problems[0].what


def test_a_built_in_toa_has_an_unknown_option(tmp_path: Path) -> None:
    config = "CONFIG_MODULES=y\nCONFIG_IP_VS=n\nCONFIG_TOA=y\n"
    found = one(package(tmp_path, "kernel", [*files(config=config)[:3], entry(f"{TREE}/kernel/fs/a.ko", b"")]))
    assert (found.role, numbers(found)) == (Role.REALSERVER, {"read": ()})


@pytest.mark.parametrize(("name", "role"), [("ip_vs_synproxy_init", Role.DIRECTOR), ("printk", Role.UNKNOWN)])
def test_a_built_in_ipvs_is_judged_by_the_map(tmp_path: Path, name: str, role: Role) -> None:
    content = files(config="CONFIG_MODULES=n\nCONFIG_IP_VS=y\n")[:3]
    content.append(entry(f"/boot/System.map-{KERNEL}", f"ffffffff81000000 T {name}\n".encode()))
    assert one(package(tmp_path, "kernel", content)).role is role


def test_half_a_kernel_is_partial_and_both_halves_are_one(tmp_path: Path) -> None:
    content = director()
    core = package(tmp_path, "kernel-core", content[:3])
    modules = package(tmp_path, "kernel-modules", content[3:])
    assert [one(path).role for path in (core, modules)] == [Role.PARTIAL, Role.PARTIAL]
    assert one(modules).has == (Role.DIRECTOR,)
    assert "got partial, part of a director" in one(modules, Role.REALSERVER).problems[0].what
    found = identify([core, modules], Role.DIRECTOR, Depth.MODULES)
    assert [(row.role, row.problems, numbers(row)) for row in found.whole] == [(Role.DIRECTOR, (), {"written": (200,)})]
    assert problems(found) == []


def test_a_kernel_whose_boot_files_lie_with_its_modules_is_read(tmp_path: Path) -> None:
    moved = {"config": "config", "symvers": "symvers.gz", "vmlinuz": "vmlinuz"}
    content = [
        entry(f"{TREE}/{moved[item.path[6:].partition('-')[0]]}", item.data) if item.path.startswith("/boot") else item
        for item in director()
    ]
    ghosts = [entry(f"/boot/{name}-{KERNEL}", b"", flags=1 << 6) for name in moved]
    path = package(tmp_path, "kernel", [*content, *ghosts], payload=content)
    assert one(path).role is Role.DIRECTOR


def test_modules_in_place_of_a_kernels_own_are_a_directors(tmp_path: Path) -> None:
    found = one(package(tmp_path, "kmod-lvs-fullnat", REPLACEMENT))
    assert (found.kind, found.role, found.kernel) == (Kind.MODULES, Role.DIRECTOR, STOCK6)
    assert (numbers(found), found.tab_bits, found.problems) == ({"written": (200,)}, 12, ())


@pytest.mark.parametrize(
    ("content", "role"), [(OLD_IPVSADM, Role.DIRECTOR), (NEW_IPVSADM, Role.DIRECTOR), (STOCK_IPVSADM, Role.STOCK)]
)
def test_a_tool_is_for_whom_it_speaks_with(tmp_path: Path, content: list[Entry], role: Role) -> None:
    found = one(package(tmp_path, "ipvsadm", content))
    assert (found.kind, found.role, found.problems) == (Kind.TOOL, role, ())


def test_a_program_that_is_only_called_a_tool_is_none(tmp_path: Path) -> None:
    assert one(package(tmp_path, "ipvsadm", tool("ipvsadm", b"something else"))).role is Role.NONE


def test_lvs_toa_reads_what_its_configuration_says(tmp_path: Path, reader: bytes) -> None:
    found = one(lvs_toa(tmp_path, reader))
    assert (found.kind, found.role, numbers(found), found.problems) == (
        Kind.READER,
        Role.REALSERVER,
        {"read": (200,)},
        (),
    )
    assert numbers(one(lvs_toa(tmp_path, reader, "option = 254 252 # two\n"))) == {"read": (254, 252)}
    assert numbers(one(lvs_toa(tmp_path, reader, "# none\n"))) == {"read": (200,)}
    assert numbers(one(lvs_toa(tmp_path, reader, "option = x\n"))) == {"read": ()}


def test_what_is_no_kernel_is_said_to_be_none(tmp_path: Path) -> None:
    found = one(package(tmp_path, "kernel-devel", [entry("/usr/src/kernels/1/Makefile", b"x")], "1.fnat"))
    assert (found.role, found.kind, found.problems) == (Role.NONE, Kind.OTHER, ())
    assert one(package(tmp_path, "empty", [], payload=[])).role is Role.NONE


@pytest.mark.parametrize(
    ("depth", "role", "options"),
    [(Depth.HEADER, Role.UNKNOWN, {}), (Depth.BOOT, Role.UNKNOWN, {"written": ()})],
)
def test_what_was_not_read_is_not_guessed(tmp_path: Path, depth: Depth, role: Role, options: object) -> None:
    found = one(package(tmp_path, "kernel", director()), depth=depth)
    assert (found.role, numbers(found), found.digests[-1]) == (
        Role.DIRECTOR if depth is Depth.BOOT else role,
        options,
        "payload sha256",
    )


def pairs(place: Path, reader: bytes) -> dict[str, tuple[Path, Path]]:
    made = {
        "director": package(place, "kernel", director(), "1.fnat"),
        "server": package(place, "kernel", realserver(), "1.toa"),
        "other server": package(place, "kernel", realserver(option=254), "2.toa"),
        "unknown server": package(place, "kernel", files(server=module("toa", option=8)), "3.toa"),
        "stock": package(place, "kernel", files(), "1.stock"),
        "old tool": package(place, "ipvsadm", OLD_IPVSADM),
        "keepalived": package(place, "keepalived", KEEPALIVED),
        "new tool": package(place, "ipvsadm", NEW_IPVSADM, "2"),
        "stock tool": package(place, "ipvsadm", STOCK_IPVSADM, "3"),
        "modules": package(place, "kmod-lvs-fullnat", REPLACEMENT),
        "toa modules": package(place, "kmod-toa", [entry(TOA_MODULE, module("toa", kernel=STOCK6))]),
        "new kernel": package(place, "kernel", files(kernel=STOCK6), "6"),
        "reader": lvs_toa(place, reader),
    }
    return {f"{a}, {b}": (made[a], made[b]) for a in made for b in made}


@pytest.mark.parametrize(
    ("names", "works"),
    [
        ("director, server", True),
        ("server, director", True),
        ("director, other server", False),
        ("director, unknown server", None),
        ("director, reader", True),
        ("modules, reader", True),
        ("modules, other server", False),
        ("director, old tool", True),
        ("keepalived, director", True),
        ("director, new tool", False),
        ("director, stock tool", False),
        ("modules, new tool", True),
        ("modules, old tool", False),
        ("stock, old tool", False),
        ("stock, stock tool", True),
        ("new kernel, modules", True),
        ("new kernel, toa modules", True),
        ("director, toa modules", True),
        ("toa modules, director", True),
        ("modules, toa modules", True),
        ("server, toa modules", False),
        ("stock, toa modules", False),
        ("stock, modules", False),
        ("new kernel, reader", True),
        ("stock, reader", False),
    ],
)
def test_a_pair_works_together_or_not(tmp_path: Path, reader: bytes, names: str, works: bool | None) -> None:
    found = pair(*pairs(tmp_path, reader)[names])
    assert (found.works, found.related) == (works, True), found.reasons


def test_two_that_have_nothing_to_do_with_each_other_are_no_pair(tmp_path: Path, inv: Inv) -> None:
    files = package(tmp_path, "ipvsadm", OLD_IPVSADM), package(tmp_path, "keepalived", KEEPALIVED)
    assert not pair(*files).related
    assert "the two work together: does not apply\n" in inv("identify", *map(str, files)).out


@pytest.mark.parametrize(
    ("name", "version", "role"),
    [
        ("kernel", "2.6.32-220.el6.fnat", Role.DIRECTOR),
        ("kernel", "2.6.32-220.el6.toa.x86_64", Role.REALSERVER),
        ("lvs-fnat-realserver", "1.0-fnat.1", Role.REALSERVER),
        ("lvs-toa", "1.0-fnat.1", Role.REALSERVER),
        ("kmod-lvs-fullnat", "1", Role.DIRECTOR),
        ("kernel", "1.stock", Role.STOCK),
        ("kernel", "2.6.32-220.23.1.el6", None),
        ("dictatoah", "1", None),
    ],
)
def test_names_claim_roles(name: str, version: str, role: Role | None) -> None:
    assert claimed(name, version) is role


def test_a_link_in_boot_is_refused(tmp_path: Path, inv: Inv) -> None:
    path = package(tmp_path, "kernel", [*director()[1:], link(f"/boot/config-{KERNEL}", "/etc/passwd")])
    assert "is a link" in inv("identify", str(path), expect=ExitCode.REFUSED).err


def test_an_exported_list_that_unpacks_to_a_gigabyte_is_refused(tmp_path: Path, inv: Inv) -> None:
    bomb = gzip.compress(bytes(1 << 26), 9, mtime=0)
    content = [entry(item.path, bomb) if "symvers" in item.path else item for item in director()]
    path = package(tmp_path, "kernel", content)
    assert "bytes unpacked" in inv("identify", str(path), expect=ExitCode.REFUSED).err


def test_the_command_prints_the_role_and_ends_with_its_code(tmp_path: Path, inv: Inv) -> None:
    path = package(tmp_path, "kernel", director(), "1.fnat")
    found = inv("identify", str(path))
    for text in ("role                director", "TOA option written  200", "tcp_opt_add_toa", "payload sha256"):
        assert text in found.out
    document = inv("identify", str(path), "--expect", "realserver", "--json", expect=ExitCode.REFUSED).json
    assert document["packages"][0]["role"] == "director"
    assert "guide's mistake" in document["packages"][0]["problems"][0]["why"]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ((), 2, "expected packages, or --installed alone"),
        (("--installed", "a.rpm"), 2, "expected packages, or --installed alone"),
        (("missing.rpm",), 2, "no such file"),
        (("/etc/passwd",), 4, "not an RPM package"),
        (("a.rpm", "--expect", "gateway"), 2, "known: director"),
    ],
)
def test_wrong_words_are_refused(inv: Inv, words: tuple[str, ...], code: int, text: str) -> None:
    assert text in inv("identify", *words, expect=ExitCode(code)).err


def test_a_stripped_module_is_read_or_unknown_and_never_wrong(tmp_path: Path) -> None:
    server = files(server=stripped(module("toa", option=254)))
    assert numbers(one(package(tmp_path, "kernel", server))) == {"read": (254,)}
    built = files(director=stripped(module("ip_vs", "SOCKOPT", option=254), "--strip-all"), exports=SYNPROXY)
    found = one(package(tmp_path, "kernel", built, "2"))
    assert (found.role, numbers(found)) == (Role.DIRECTOR, {"written": ()})


def test_xz_in_a_module_is_bounded(tmp_path: Path, inv: Inv) -> None:
    content = [
        entry(f"{item.path}.xz", lzma.compress(bytes(65 << 20), preset=0)) if item.path.endswith("ip_vs.ko") else item
        for item in files(exports=ANY_SYMBOL)
    ]
    inv("identify", str(package(tmp_path, "kernel", content)), expect=ExitCode.REFUSED)
