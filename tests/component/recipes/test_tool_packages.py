"""Packages of tools and roles that rpmbuild made, held against what they are meant to be."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import process
from pipeline.errors import PipelineError, Refused
from pipeline.packaging import rpmbuild as rpmtool
from pipeline.recipes import role_packages
from pipeline.recipes.debian import tools
from pipeline.recipes.lvs_tools import Tool
from tests.fixtures.quickline import tarball
from tests.fixtures.targets import LTS61, roles

EPOCH = 1_700_000_000
IPVSADM = tools.Parameters(
    target=LTS61, tool=Tool.IPVSADM, version="1.31", tarball="ipvsadm.tar.gz", tree="ipvsadm-1.31", epoch=EPOCH
)
# A program as far as the check looks: it reads texts and never runs it.
PROGRAM = rb"\177ELF\0IPVS\0virtual-service\0masquerading\0nl_send_auto\0ipvsadm v1.31\0"
REQUIRES = ("libc.so.6(GLIBC_2.34)(64bit)", "libnl-3.so.200()(64bit)", "libpopt.so.0()(64bit)")


def rpmbuild(top: Path, spec: str, *words: str) -> Path:
    macros = rpmtool.Macros(topdir=str(top), ccache=False, payload="w1.gzdio")
    env = {**process.clean_environment(), **rpmtool.environment(EPOCH, ccache="")}
    env["HOME"] = str(top / "tmp")
    process.run([*rpmtool.build_argv(spec, macros), *words], env=env, timeout=120)
    return top / "RPMS"


# --- Roles -------------------------------------------------------------------------------------------------


def build_roles(
    top: Path, parameters: role_packages.Parameters, change: Callable[[str], str] = lambda text: text
) -> Path:
    rpmtool.make_tree(top)
    role_packages.prepare(top / "SOURCES", top / "SPECS", parameters)
    spec = top / "SPECS" / role_packages.SPEC
    spec.write_text(change(spec.read_text()))
    return rpmbuild(top, role_packages.SPEC)


@pytest.mark.parametrize("line", ["el6", "lts61"])
def test_the_packages_of_roles_are_built_and_proven(tmp_path: Path, line: str) -> None:
    parameters = roles(line, epoch=EPOCH, guard=3)
    rpms = build_roles(tmp_path / "one", parameters)
    found = role_packages.check(rpms, parameters)
    assert set(found.packages) == {"lvs-fnat-director", "lvs-fnat-realserver"}
    again = build_roles(tmp_path / "two", parameters)
    first, second = ({path.name: path.read_bytes() for path in place.rglob("*.rpm")} for place in (rpms, again))
    assert first == second and len(first) == 2, "same inputs, same bytes"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ("%config(noreplace) /etc/lvs-fnat/director.conf", "%config /etc/lvs-fnat/director.conf"),
            "wrong configuration files",
        ),
        (("Requires: kmod\n", "Requires: kmod\nRequires: python3\n"), "requires something else"),
        (("install -D -p -m 0755", "install -D -p -m 0744"), "has the mode 0744"),
        (("%config(noreplace)", "%config(noreplace) %attr(0600,root,root)"), "has the mode 0600"),
        (("\n%prep\n", "\n%prep\necho >>%{_sourcedir}/realserver.conf\n"), "is not what was rendered"),
        (("Version: 1.0\n", "Version: 1.1\n"), "not as planned"),
        (("%doc /usr/share/doc/lvs-fnat-realserver/README\n", "%exclude /usr/share/doc/*/README\n"), "files missing"),
    ],
)
def test_packages_that_are_not_what_they_must_be_are_refused(
    tmp_path: Path, change: tuple[str, str], said: str
) -> None:
    parameters = roles("lts61", epoch=EPOCH)

    def changed(text: str) -> str:
        assert change[0] in text
        return text.replace(*change)

    rpms = build_roles(tmp_path, parameters, changed)
    with pytest.raises(Refused, match=said):
        role_packages.check(rpms, parameters)


# --- Tools -------------------------------------------------------------------------------------------------


def build_tool(
    top: Path, program: bytes = PROGRAM, requires: tuple[str, ...] = REQUIRES, keep: str = "(noreplace)"
) -> Path:
    """A package that has the shape of ipvsadm's, without a compiler."""
    rpmtool.make_tree(top)
    (top / "SOURCES" / "program").write_bytes(program.replace(rb"\177", b"\x7f").replace(rb"\0", b"\0"))
    names = ("/usr/sbin/ipvsadm-save", "/usr/sbin/ipvsadm-restore", "/usr/share/man/man8/ipvsadm.8.gz")
    units = tuple(f"{tools.UNITS}/{name}.service" for name in ("ipvsadm", "ipvsadm-save"))
    lines = [
        *("%global __os_install_post %{nil}", "Name: ipvsadm", "Epoch: 1", "Version: 1.31"),
        *(f"Release: {IPVSADM.release}", "Summary: x", "License: x", "AutoReqProv: no", "BuildArch: x86_64"),
        *(f"Requires: {name}" for name in requires),
        *("%description", "x", "%install", "install -D %{_sourcedir}/program %{buildroot}/usr/sbin/ipvsadm"),
        *(f"install -D /dev/null %{{buildroot}}{name}" for name in (*names, *units, "/etc/sysconfig/ipvsadm")),
        *("%files", "/usr/sbin/ipvsadm", *names, *units, f"%config{keep} /etc/sysconfig/ipvsadm"),
    ]
    (top / "SPECS" / "x.spec").write_text("\n".join(lines) + "\n")
    return rpmbuild(top, "x.spec", "--target", "x86_64")


def test_a_tool_is_proven_by_texts_in_it_and_by_what_it_requires(tmp_path: Path) -> None:
    found = tools.check(build_tool(tmp_path), IPVSADM)
    assert found.glibc == "2.34"
    assert found.libraries == ["libc.so.6", "libnl-3.so.200", "libpopt.so.0"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"program": PROGRAM.replace(b"nl_send_auto", b"")}, "not in it: nl_send_auto"),
        ({"program": PROGRAM.replace(b"1.31", b"1.30")}, "not in it: 1.31"),
        ({"program": b"#!/bin/sh\n"}, "is no program"),
        ({"requires": (*REQUIRES, "libc.so.6(GLIBC_2.36)(64bit)")}, "needs version 2.36 of the C library"),
        ({"requires": (*REQUIRES, "libsystemd.so.0()(64bit)")}, r"requires libsystemd\.so\.0"),
        ({"requires": (*REQUIRES, "/bin/bash")}, "requires /bin/bash"),
        ({"requires": REQUIRES[1:]}, "which C library"),
        ({"keep": ""}, "wrong configuration files"),
    ],
)
def test_a_tool_that_is_not_what_it_must_be_is_refused(tmp_path: Path, wrong: dict[str, object], said: str) -> None:
    rpms = build_tool(tmp_path, **wrong)  # type: ignore[arg-type]
    with pytest.raises(Refused, match=said):
        tools.check(rpms, IPVSADM)


# --- Patched tools -----------------------------------------------------------------------------------------

PAGE = "doc/page.5.in"


def prepared(top: Path, patch: bytes) -> Path:
    """The tree of a keepalived of two files, as the spec file's %prep leaves it."""
    rpmtool.make_tree(top)
    name = "0001-A-change.patch"
    parameters = tools.Parameters(
        target=LTS61,
        tool=Tool.KEEPALIVED,
        version="2.2.7",
        epoch=EPOCH,
        tree="keepalived-2.2.7",
        tarball="keepalived.tar.xz",
        patches={name: hashlib.sha256(patch).hexdigest()},
    )
    files = {PAGE: "one\ntwo\nthree\n", "other": "other\n"}
    (top / "SOURCES" / parameters.tarball).write_bytes(tarball(parameters.tree, files))
    (top / "SOURCES" / name).write_bytes(patch)
    tools.prepare(top / "SOURCES", top / "SPECS", parameters)
    macros = rpmtool.Macros(topdir=str(top), ccache=False)
    argv = [word if word != "-bb" else "-bp" for word in rpmtool.build_argv(parameters.spec, macros)]
    env = {**process.clean_environment(), **rpmtool.environment(EPOCH, ccache=""), "HOME": str(top / "tmp")}
    process.run(argv, env=env, timeout=120)
    return top / "BUILD" / parameters.tree


def test_a_patched_tree_has_the_change_and_no_other_time(tmp_path: Path) -> None:
    """keepalived's manual page bears the day of the file that it is made of: else two builds would differ."""
    tree = prepared(tmp_path, git_patch(PAGE, "one\ntwo\nthree\n", "one\nzwei\nthree\n"))
    assert (tree / PAGE).read_text() == "one\nzwei\nthree\n"
    assert (tree / PAGE).stat().st_mtime == EPOCH
    assert list(tree.rglob("*.orig")) == []


def test_a_patch_for_another_tree_ends_the_build(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"--reject-file=-\n +error: Bad exit status .*\(%prep\)"):
        prepared(tmp_path, git_patch(PAGE, "one\ntwo\ndrei\n", "one\nzwei\ndrei\n"))


def git_patch(path: str, old: str, new: str) -> bytes:
    rows = difflib.unified_diff(old.splitlines(True), new.splitlines(True), f"a/{path}", f"b/{path}")
    return "".join(rows).encode()


def test_a_patched_tool_is_proven_by_texts_of_its_patches(tmp_path: Path) -> None:
    program = PROGRAM + rb"IPVS_FULLNAT\0"
    rpms = build_tool(tmp_path, program)
    texts = {"/usr/sbin/ipvsadm": ("IPVS_FULLNAT",)}
    assert tools.check(rpms, replace(IPVSADM, program_contains=texts)).glibc == "2.34"
    missing = {"/usr/sbin/ipvsadm": ("IPVS_FULLNAT", "add-laddr")}
    with pytest.raises(Refused, match="was built without a part") as caught:
        tools.check(rpms, replace(IPVSADM, program_contains=missing))
    assert caught.value.why == "not in it: add-laddr"
