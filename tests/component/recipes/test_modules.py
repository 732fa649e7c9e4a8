"""A package of modules built out of tree against a stand-in for kernel-devel, by rpmbuild itself."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.line_model import ModuleSet
from pipeline.core import process
from pipeline.errors import Refused, UsageError
from pipeline.packaging import rpmbuild
from pipeline.recipes import modules
from pipeline.recipes.modules import Parameters
from tests.fixtures.rpms import of_files, rpm
from tests.fixtures.targets import LTS61

EPOCH = 1_760_000_000
UNAME = "6.1.187-1.lts61.x86_64"
# As far as the stand-in goes: what would be compiled is copied.
MAKEFILE = b"modules:\n\tcd $(M) && for each in *.c; do cp $$each $${each%.c}.ko; done\n"
MODEL = ModuleSet.model_validate(
    {"kind": "module-set", "source": "toy", "summary": "A toy", "version": "1.0", "modules": ["ip_vs", "ip_vs_rr"]}
)
TOY = Parameters(LTS61, "toy-modules", MODEL, UNAME, "toy.tar", "toy-1.0", EPOCH)


def module(uname: str = UNAME) -> bytes:
    return b"\x7fELF\0vermagic=" + uname.encode() + b" SMP mod_unload \0"


def tarball(path: Path, files: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w") as made:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"toy-1.0/{name}")
            entry.size, entry.mtime = len(data), EPOCH
            made.addfile(entry, io.BytesIO(data))


def devel(release: str = "1.lts61") -> Path:
    return of_files("kernel-devel", "6.1.187", release, {f"/usr/src/kernels/{UNAME}/Makefile": MAKEFILE})


def build(top: Path, parameters: Parameters = TOY, **files: bytes) -> Path:
    rpmbuild.make_tree(top)
    sources = {"ip_vs.c": module(), "ip_vs_rr.c": module(), **{f"{name}.c": data for name, data in files.items()}}
    tarball(top / "SOURCES" / "toy.tar", sources)
    modules.prepare(top / "SOURCES", top / "SPECS", parameters, [rpm("kernel"), devel()])
    macros = rpmbuild.Macros(topdir=str(top), ccache=False, payload="w1.gzdio", dist=LTS61.build.dist)
    env = {**process.clean_environment(), **rpmbuild.environment(EPOCH, ccache=""), "HOME": str(top / "tmp")}
    process.run(rpmbuild.build_argv(modules.SPEC, macros), env=env, timeout=120)
    return top / "RPMS"


def test_the_modules_are_built_against_the_kernels_own_package_and_proven(tmp_path: Path) -> None:
    found = modules.check(build(tmp_path), TOY)
    assert found.package.nevra == "toy-modules-1.0-1.6.1.187_1.lts61.x86_64" == TOY.nevra
    [package] = [rpmbuild.read_package(path) for path in (tmp_path / "RPMS").rglob("*.rpm")]
    assert {path for path in package.files if path.endswith(".ko")} == {
        f"/lib/modules/{UNAME}/updates/{name}.ko" for name in ("ip_vs", "ip_vs_rr")
    }
    override = (tmp_path / "BUILDROOT").rglob("*.conf")
    assert list(override) == []  # rpm removed it; what is in the package:
    text = process.run(
        ["cpio", "-i", "--quiet", "--to-stdout", "./etc/depmod.d/toy-modules.conf"],
        stdin=process.run(["rpm2cpio", package.path]).out,
    ).text
    assert text == f"override ip_vs {UNAME} updates\noverride ip_vs_rr {UNAME} updates\n"


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (
        {path.name: path.read_bytes() for path in build(tmp_path / name).rglob("*.rpm")} for name in ("one", "two")
    )
    assert first == second and len(first) == 1


def test_a_module_for_another_kernel_is_refused(tmp_path: Path) -> None:
    rpms = build(tmp_path, ip_vs_rr=module("6.1.188-1.lts61.x86_64"))
    with pytest.raises(Refused, match="not a module of this kernel"):
        modules.check(rpms, TOY)


def test_a_package_with_other_modules_than_the_line_names_is_refused(tmp_path: Path) -> None:
    fewer = replace(TOY, model=MODEL.model_copy(update={"modules": ("ip_vs",)}))
    with pytest.raises(Refused, match=r"surplus modules .*ip_vs_rr\.ko"):
        modules.check(build(tmp_path), fewer)


def test_no_other_kernels_package_is_built_against(tmp_path: Path) -> None:
    rpmbuild.make_tree(tmp_path)
    with pytest.raises(Refused, match=f"no kernel-devel-{UNAME}"):
        modules.prepare(tmp_path / "SOURCES", tmp_path / "SPECS", TOY, [devel("2.lts61")])


@pytest.mark.parametrize("wrong", [{"uname": "6.1; id"}, {"name": "a b"}, {"tree": "../x"}, {"tarball": "%x"}])
def test_what_cannot_stand_in_a_spec_file_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        replace(TOY, **wrong)  # type: ignore[arg-type]
