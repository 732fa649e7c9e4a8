"""Which compiled sources a module was made of by the names of both, and where a pristine source defines a symbol."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.audit import built_symbols
from pipeline.core import manifest
from pipeline.errors import Refused
from tests.fixtures.rawrpms import entry, write

PLACE = "/lib/modules/6.1.0/kernel/net/netfilter/ipvs"
COMPILED = [
    *(f"net/netfilter/ipvs/{name}" for name in ("ip_vs_conn.c", "ip_vs_core.c", "ip_vs_rr.c", "ip_vs.mod.c")),
    *("net/netfilter/core.c", "include/net/ip_vs.h"),
]
PACKAGED = [f"{PLACE}/ip_vs.ko", f"{PLACE}/ip_vs_rr.ko", "/lib/modules/6.1.0/modules.dep"]


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        (f"{PLACE}/ip_vs.ko", ["net/netfilter/ipvs/ip_vs_conn.c", "net/netfilter/ipvs/ip_vs_core.c"]),
        (f"{PLACE}/ip_vs_rr.ko", ["net/netfilter/ipvs/ip_vs_rr.c"]),
        (f"{PLACE}/ip_vs_rr.ko.xz", ["net/netfilter/ipvs/ip_vs_rr.c"]),
        ("/lib/modules/6.1.0/updates/lvs/ip_vs_rr.ko", ["net/netfilter/ipvs/ip_vs_rr.c"]),
    ],
)
def test_a_module_is_made_of_the_file_with_its_name_or_of_its_directorys_others(module: str, wanted: list[str]) -> None:
    assert built_symbols.sources_of(module, None, COMPILED, PACKAGED)[0] == wanted


def test_modules_near_a_source_are_those_of_its_directory() -> None:
    modules = [*PACKAGED[:2], "/lib/modules/6.1.0/kernel/fs/ext4.ko"]
    assert built_symbols.near(modules, "net/netfilter/ipvs/ip_vs_conn.c") == PACKAGED[:2]
    assert built_symbols.near(modules, "net/core.c") == []
    elsewhere = ["/lib/modules/6.1.0/updates/ip_vs.ko"]
    assert built_symbols.near(elsewhere, "net/netfilter/ipvs/ip_vs_conn.c") == elsewhere


@pytest.mark.parametrize(
    ("wanted", "called"),
    [("ip_vs.ko", True), ("ip_vs.ko.xz", True), (f"{PLACE}/ip_vs.ko.xz", True), ("vs.ko", False), ("ip_vs", False)],
)
def test_a_module_is_called_by_its_name_or_its_path(wanted: str, called: bool) -> None:
    assert built_symbols.is_called(f"{PLACE}/ip_vs.ko.xz", wanted) is called


def test_a_definition_is_found_in_a_tree_of_the_steps_own_source_alone(tmp_path: Path) -> None:
    place = tmp_path / "key"
    (place / "files" / "net").mkdir(parents=True)
    lines = [
        "int answer(void);",
        "static int",
        "other(void)",
        "{",
        "\treturn answer();",
        "}",
        "int answer(void)",
        "{",
        "}",
    ]
    (place / "files" / "net" / "a.c").write_text("\n".join([*lines, "#define LIMIT 4", ""]))
    manifest.record(place, {"source": "0" * 64, "wanted": []})
    (tmp_path / "damaged" / "files").mkdir(parents=True)
    found = {
        name: built_symbols.lines_of(tmp_path, ["0" * 64], "net/a.c", name) for name in ("answer", "other", "LIMIT")
    }
    assert found == {"answer": [7], "other": [3], "LIMIT": [10]}
    assert built_symbols.lines_of(tmp_path, ["1" * 64], "net/a.c", "answer") == []
    assert built_symbols.lines_of(tmp_path, ["0" * 64], "net/b.c", "answer") == []


MAP = entry("/boot/System.map-6.1.0", b"ffffffff81000000 T start_kernel\nffffffff81000010 U elsewhere\n")


def test_a_symbol_of_the_boot_image_is_found_in_its_map_alone(tmp_path: Path) -> None:
    module = entry(f"{PLACE}/ip_vs.ko", b"no ELF file, and not read: start_kernel")
    package = write(tmp_path / "a.rpm", [MAP, module])
    assert built_symbols.defining(package, "start_kernel") == [built_symbols.Built(MAP.path, None)]
    with pytest.raises(Refused, match="not a whole ELF file"):
        built_symbols.defining(package, "kernel")


def test_a_map_and_a_module_that_differ_from_their_digests_are_refused(tmp_path: Path) -> None:
    module = entry(f"{PLACE}/ip_vs.ko", b"the module's content")
    package = write(
        tmp_path / "a.rpm", [MAP, module], compression="none", damage=lambda data: data.replace(b"start", b"STOP_")
    )
    with pytest.raises(Refused, match=r"System\.map-6\.1\.0 differs from its sha256"):
        built_symbols.defining(package, "start_kernel")
    assert built_symbols.read_module(package, module.path) == module.data
    package = write(
        tmp_path / "b.rpm", [MAP, module], compression="none", damage=lambda data: data.replace(b"content", b"CONTENT")
    )
    with pytest.raises(Refused, match=r"ip_vs\.ko differs from its sha256"):
        built_symbols.read_module(package, module.path)
    with pytest.raises(Refused, match=r"ip_vs\.ko differs from its sha256"):
        built_symbols.defining(package, "elsewhere_defined")
