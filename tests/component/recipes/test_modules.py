"""A package of modules built out of tree against a stand-in for kernel-devel, by rpmbuild itself."""

from __future__ import annotations

import hashlib
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


PATCH = b"""--- a/net/ipvs/ip_vs.c
+++ b/net/ipvs/ip_vs.c
@@ -1 +1 @@
-stock
+of the role
"""
# Two files below a directory become modules at the top, as the line's makefile there says.
KBUILD = "NAMES = ip_vs ip_vs_rr\n"
OF_THE_KERNEL = (
    b"include $(M)/Kbuild\nmodules:\n\tset -e; cd $(M); for n in $(NAMES); do "
    b"{ printf '\\177ELF\\0vermagic=" + UNAME.encode() + b" SMP\\0'; cat net/ipvs/$$n.c; } > $$n.ko; done\n"
)


def module(uname: str = UNAME) -> bytes:
    return b"\x7fELF\0vermagic=" + uname.encode() + b" SMP mod_unload \0"


def tarball(path: Path, files: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w") as made:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"toy-1.0/{name}")
            entry.size, entry.mtime = len(data), EPOCH
            made.addfile(entry, io.BytesIO(data))


def devel(release: str = "1.lts61", makefile: bytes = MAKEFILE) -> Path:
    return of_files("kernel-devel", "6.1.187", release, {f"/usr/src/kernels/{UNAME}/Makefile": makefile})


def build(top: Path, parameters: Parameters = TOY, **files: bytes) -> Path:
    sources = {"ip_vs.c": module(), "ip_vs_rr.c": module(), **{f"{name}.c": data for name, data in files.items()}}
    return rpmbuilt(top, parameters, sources, devel())


def rpmbuilt(top: Path, parameters: Parameters, sources: Mapping[str, bytes], headers: Path) -> Path:
    rpmbuild.make_tree(top)
    tarball(top / "SOURCES" / "toy.tar", sources)
    (top / "SOURCES" / "one.patch").write_bytes(PATCH)
    modules.prepare(top / "SOURCES", top / "SPECS", parameters, [rpm("kernel"), headers])
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


def of_the_kernel(specs: Path, contains: str = "of the role") -> Parameters:
    """Modules of a directory of the kernel's source, with a series of one patch."""
    own = specs / LTS61.files.names[0]
    own.mkdir(parents=True)
    (own / "ipvs.kbuild").write_text(KBUILD)
    more = {"paths": ("net/ipvs",), "kbuild": "ipvs.kbuild", "contains": {"ip_vs": (contains,)}}
    return replace(
        TOY,
        target=replace(LTS61, files=replace(LTS61.files, own=specs)),
        model=MODEL.model_copy(update=more),
        patches={"one.patch": hashlib.sha256(PATCH).hexdigest()},
    )


def build_of_the_kernel(top: Path, parameters: Parameters, stock: bytes = b"stock\n") -> Path:
    sources = {"net/ipvs/ip_vs.c": stock, "net/ipvs/ip_vs_rr.c": b"", "net/core/other.c": b""}
    return rpmbuilt(top, parameters, sources, devel(makefile=OF_THE_KERNEL))


def test_modules_of_the_kernels_own_source_are_patched_and_proven_by_what_they_hold(tmp_path: Path) -> None:
    parameters = of_the_kernel(tmp_path / "specs")
    modules.check(build_of_the_kernel(tmp_path / "top", parameters), parameters)
    assert not (tmp_path / "top/BUILD/toy-1.0/net/core").exists()


def test_modules_without_the_text_of_their_role_are_refused(tmp_path: Path) -> None:
    parameters = of_the_kernel(tmp_path / "specs", "of another role")
    rpms = build_of_the_kernel(tmp_path / "top", parameters)
    with pytest.raises(Refused, match=r"ip_vs\.ko .* not the module of its role; expected in it of another role"):
        modules.check(rpms, parameters)


def test_a_patch_that_does_not_fit_ends_the_build(tmp_path: Path) -> None:
    with pytest.raises(process.ProgramFailed, match=r"applying one\.patch.*(?s:.*)%prep"):
        build_of_the_kernel(tmp_path / "top", of_the_kernel(tmp_path / "specs"), b"another\n")


@pytest.mark.parametrize("path", ["net/../etc", "a b", "$(id)"])
def test_a_path_that_cannot_stand_in_a_spec_file_is_refused(path: str) -> None:
    with pytest.raises(UsageError):
        replace(TOY, model=MODEL.model_copy(update={"paths": (path,)}))


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
