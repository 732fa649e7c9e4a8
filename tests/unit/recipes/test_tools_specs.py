"""The spec files of tools and roles as rpm reads them, and what keepalived's configure says."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.line_model import Init, RoleName
from pipeline.core import process
from pipeline.errors import BuildFailed, UsageError
from pipeline.packaging import rpmbuild
from pipeline.recipes import lvs_tools, role_packages
from pipeline.recipes.debian import tools
from pipeline.recipes.debian.tools import SUMMARY
from pipeline.recipes.lvs_tools import Tool
from tests.fixtures.targets import LTS61, roles

EPOCH = 1_700_000_000
LINES = ("el6", "lts61")
# As 2.2.7 prints it, shortened.
CONFIGURED = """\
checking for ar... ar
checking the archiver (ar) interface... ar

Keepalived configuration
------------------------
Keepalived version       : 2.2.7
Compiler                 : gcc gcc (Debian 12.2.0-14+deb12u1) 12.2.0
Preprocessor flags       : -D_GNU_SOURCE -I/usr/include/libnl3
Use IPVS Framework       : Yes
IPVS use libnl           : Yes
IPVS syncd attributes    : Yes
IPVS 64 bit stats        : Yes
HTTP_GET regex support   : No
fwmark socket support    : Yes
Use VRRP Framework       : Yes
SNMP vrrp support        : No
DBUS support             : No
Use iptables             : No
Use nftables             : No
init type                : systemd
systemd notify           : No
+ wanted 'Use IPVS Framework' Yes
"""


def tool(name: Tool, **more: object) -> tools.Parameters:
    version = "1.31" if name is Tool.IPVSADM else "2.2.7"
    values = {"version": version, "tarball": f"{name}_{version}.orig.tar.gz", "tree": f"{name}-{version}"}
    return tools.Parameters(target=LTS61, tool=name, epoch=EPOCH, **{**values, **more})  # type: ignore[arg-type]


def rpmspec(top: Path, spec: str, *words: str) -> str:
    """What rpm itself makes of a spec file."""
    macros = rpmbuild.Macros(topdir=str(top), ccache=False)
    argv = ["rpmspec", *macros.options(), *words, str(top / "SPECS" / spec)]
    return process.run(argv, env={**process.clean_environment(), **rpmbuild.environment(EPOCH, ccache="")}).text


def nevras(top: Path, spec: str) -> set[str]:
    query = "%{NAME}-%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}.%{ARCH}\n"
    return set(rpmspec(top, spec, "-q", "--builtrpms", "--qf", query).splitlines())


def newer(one: str, other: str) -> bool:
    """rpm's own comparison of two releases."""
    macro = f'%{{lua:print(rpm.vercmp("{one}", "{other}"))}}'
    return int(process.run(["rpm", "--eval", macro]).text) > 0


# --- Tools -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guard", [0, 7])
@pytest.mark.parametrize("name", Tool)
def test_a_tools_spec_gives_the_package_it_promises(tmp_path: Path, name: Tool, guard: int) -> None:
    parameters = tool(name, guard=guard, number=3, tag=".override_house")
    rpmbuild.make_tree(tmp_path)
    written = tools.prepare(tmp_path / "SOURCES", tmp_path / "SPECS", parameters)
    assert all(path.is_file() for path in written)
    assert nevras(tmp_path, parameters.spec) == {parameters.nevra}
    assert (":" in parameters.nevra) == bool(guard)
    expanded = rpmspec(tmp_path, parameters.spec, "-P")
    assert "%config(noreplace)" in expanded and "{{" not in expanded and "None" not in expanded
    sources = {path.name for path in written} - {parameters.spec}
    assert set(re.findall(r"^Source\d+: (.*)$", expanded, re.MULTILINE)) == {parameters.tarball, *sources}


@pytest.mark.parametrize("name", Tool)
def test_a_patched_tools_spec_applies_its_patches_in_order_and_without_fuzz(tmp_path: Path, name: Tool) -> None:
    parameters = tool(name, patches={"0001-One.patch": "1" * 64, "0002-Two-s.patch": "2" * 64})
    rpmbuild.make_tree(tmp_path)
    tools.prepare(tmp_path / "SOURCES", tmp_path / "SPECS", parameters)
    expanded = rpmspec(tmp_path, parameters.spec, "-P")
    assert re.findall(r"^Patch(\d+): (.*)$", expanded, re.MULTILINE) == [
        ("1", "0001-One.patch"),
        ("2", "0002-Two-s.patch"),
    ]
    applied = re.findall(r"^patch (.*) < .*/SOURCES/(\S+)$", expanded, re.MULTILINE)
    assert [file for _, file in applied] == list(parameters.patches)
    assert all("-p1 -F0 " in options for options, _ in applied)
    assert "for the line lts61, with 2 patches\n" in expanded
    plain = tools.rendered(tool(name))[parameters.spec]
    assert "patch -p1" not in plain and "xargs touch" not in plain and "patches" not in plain


@pytest.mark.parametrize("theirs", ["6.el9", "1.el9", "4.fc40"])
def test_only_the_epoch_keeps_a_distributions_package_from_replacing_ours(theirs: str) -> None:
    for name in Tool:
        assert newer(theirs, tool(name).release), "so `dnf upgrade` would put theirs in its place"
        assert f"{name.value}-1:" in tool(name).nevra


def test_our_releases_count_up() -> None:
    assert newer(tool(Tool.IPVSADM, number=10).release, tool(Tool.IPVSADM, number=9).release)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tarball": "x y.tar.gz"},
        {"tree": "a/b"},
        {"tree": "$(id)"},
        {"version": "1-2"},
        {"tag": "-x"},
        {"number": 0},
        {"guard": -1},
        {"options": ("--with-x;id",)},
        {"patches": {"a b.patch": "0" * 64}},
        {"patches": {"$(id).patch": "0" * 64}},
    ],
)
def test_what_cannot_stand_in_a_spec_file_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        tool(Tool.KEEPALIVED, **wrong)


def test_every_assertion_on_configure_is_in_the_spec() -> None:
    text = tools.rendered(tool(Tool.KEEPALIVED, options=("--disable-lvs",)))["keepalived.spec"]
    assert all(f"wanted '{label}' '{word}'\n" in text for label, word in SUMMARY)
    assert "--disable-systemd \\\n    --disable-lvs \\\n    2>&1 | tee" in text


def test_the_table_of_configure_is_read_by_its_labels() -> None:
    found = lvs_tools.summary(CONFIGURED.splitlines())
    assert {label: found[label] for label, _ in SUMMARY} == dict(SUMMARY)
    assert found["Compiler"] == "gcc gcc (Debian 12.2.0-14+deb12u1) 12.2.0"
    assert lvs_tools.summary(["checking for Use IPVS Framework : Yes"]) == {}


def test_a_build_whose_configure_found_everything_is_not_blamed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for text in (CONFIGURED, "", "nothing of configure\n"):
        log.write_text(text)
        tools.explain(log, tool(Tool.KEEPALIVED))


def test_a_configure_without_ipvs_is_told_though_it_ended_with_success(tmp_path: Path) -> None:
    log = tmp_path / "log"
    # As it prints it then: the rows that belong to IPVS are not there at all.
    rows = [row for row in CONFIGURED.splitlines() if not re.match("IPVS|HTTP_GET", row)]
    log.write_text("\n".join(rows).replace("Use IPVS Framework       : Yes", "Use IPVS Framework       : No"))
    with pytest.raises(BuildFailed) as caught:
        tools.explain(log, tool(Tool.KEEPALIVED))
    assert "Use IPVS Framework: No, must be Yes" in caught.value.what
    assert "IPVS use libnl: missing, must be Yes" in caught.value.what
    assert caught.value.where == str(log)
    tools.explain(log, tool(Tool.IPVSADM))


# --- Roles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guard", [0, 2])
@pytest.mark.parametrize("line", LINES)
def test_the_roles_spec_gives_the_packages_it_promises(tmp_path: Path, line: str, guard: int) -> None:
    parameters = roles(line, epoch=EPOCH, guard=guard)
    rpmbuild.make_tree(tmp_path)
    role_packages.prepare(tmp_path / "SOURCES", tmp_path / "SPECS", parameters)
    assert nevras(tmp_path, role_packages.SPEC) == set(parameters.nevras.values())
    expanded = rpmspec(tmp_path, role_packages.SPEC, "-P")
    assert expanded.count("%config(noreplace)") == 2
    assert ("chkconfig --add" in expanded) == (parameters.init is Init.SYSV)
    assert ("systemctl" in expanded) == (parameters.init is Init.SYSTEMD)


@pytest.mark.parametrize("line", LINES)
def test_each_init_system_gets_its_own_files_and_nothing_of_the_other(line: str) -> None:
    parameters = roles(line, epoch=EPOCH)
    paths = [file.path for file in role_packages.installed(parameters)]
    sysv, systemd = ([p for p in paths if part in p] for part in ("/etc/rc.d/init.d/", "/usr/lib/systemd/"))
    assert (len(sysv), len(systemd)) == ((2, 0) if line == "el6" else (0, 2))
    assert len(set(paths)) == len(paths)


def test_an_init_script_has_what_chkconfig_and_lsb_read() -> None:
    parameters = roles("el6", epoch=EPOCH)
    for file in role_packages.installed(parameters):
        if "/init.d/" in file.path:
            assert file.mode == 0o755 and file.text.startswith("#!/bin/sh\n")
            assert re.search(r"^# chkconfig: - \d\d \d\d$", file.text, re.MULTILINE)
            assert re.search(r"^# description: \S", file.text, re.MULTILINE)
            block = file.text.split("### BEGIN INIT INFO\n")[1].split("### END INIT INFO\n")[0]
            assert f"# Provides:          {role_packages.package_name(file.role)}\n" in block


@pytest.mark.parametrize("role", role_packages.ROLES)
def test_every_setting_is_explained_and_has_its_default_in_the_file(role: RoleName) -> None:
    parameters = roles("lts61", epoch=EPOCH)
    text = role_packages.configuration(role, parameters.paths(role))
    assignments = re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)
    assert assignments == [(row.name, row.default) for row in role_packages.SETTINGS[role]]
    assert all(line.startswith("#") or "=" in line for line in text.splitlines() if line)


def test_a_keepalived_without_fullnat_gets_no_example_of_it() -> None:
    parameters = replace(roles("lts61", epoch=EPOCH), fullnat=False)
    assert parameters.examples == ("nat", "dr", "tun")


def with_packages(*beside: RoleName) -> role_packages.Parameters:
    packages = {RoleName.DIRECTOR: ("kmod-x",), RoleName.REALSERVER: ("reader-x",)}
    return replace(roles("lts61", epoch=EPOCH), packages=packages, beside=beside)


def test_a_role_package_requires_what_makes_its_role_of_the_stock_kernel(tmp_path: Path) -> None:
    rpmbuild.make_tree(tmp_path)
    role_packages.prepare(tmp_path / "SOURCES", tmp_path / "SPECS", with_packages())
    for name, wanted in (("director", "kmod-x"), ("realserver", "reader-x")):
        (spec,) = (
            part for part in rpmspec(tmp_path, role_packages.SPEC, "-P").split("%package ") if part.startswith(name)
        )
        required = {line.removeprefix("Requires: ") for line in spec.splitlines() if line.startswith("Requires: ")}
        assert wanted in required and not required & ({"kmod-x", "reader-x"} - {wanted})


@pytest.mark.parametrize("beside", [(), role_packages.ROLES])
def test_scripts_and_texts_speak_of_what_fullnat_and_toa_come_from(beside: tuple[RoleName, ...]) -> None:
    texts = {file.source: file.text for file in role_packages.installed(with_packages(*beside))}
    for words, names in (
        (("ipvsadm --get-laddr",), ("lvs-fnat-director.sh", "lvs-fnat-director.README")),
        (("lvs-toa",), ("lvs-fnat-realserver.sh", "lvs-fnat-realserver.README")),
    ):
        for name in names:
            assert all((word in texts[name]) == bool(beside) for word in words), name
    assert ("fullnat_lport_min" in texts["lvs-fnat-director.sh"]) != bool(beside)
    assert ("modprobe toa" in texts["lvs-fnat-realserver.sh"]) != bool(beside)


@pytest.mark.parametrize("line", LINES)
def test_words_of_fullnat_are_in_the_example_of_the_line_that_has_it_only(line: str) -> None:
    parameters = roles(line, epoch=EPOCH)
    examples = {mode: role_packages.example(mode, parameters) for mode in parameters.examples}
    kinds = {mode: re.findall(r"lb_kind (\w+)", text) for mode, text in examples.items()}
    assert kinds == {"fullnat": ["FNAT"], "nat": ["NAT"], "dr": ["DR"], "tun": ["TUN"]}
    words = ("laddr", "local_address_group", "syn_proxy", "FNAT")
    assert not [w for w in words for mode, text in examples.items() if mode != "fullnat" and w in text]
    has = [word for word in words if word in examples["fullnat"]]
    assert has == [word for word in words if line == "el6" or word != "syn_proxy"], "a word of 1.2.2 alone"
    if line == "el6":
        assert "script_user" not in "".join(examples.values()), "a word that 1.2.2 does not know"
    for text in examples.values():
        assert text.count("{") == text.count("}")
        assert "virtual_router_id 51" in text and "priority 101" in text and "weight -2" in text
