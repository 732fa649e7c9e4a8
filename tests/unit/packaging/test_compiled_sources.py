"""The record of compiled sources is made from what the compiler wrote, and from no file outside of the build."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pipeline.errors import BuildFailed, Refused
from pipeline.packaging import compiled_sources
from pipeline.packaging.compiled_sources import CompiledSources, Recorded, kbuild
from pipeline.packaging.outputs import BuildOutputs, OutputLimits


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def record(place: Path, name: str, *files: str, flags: str = "-D__KERNEL__") -> None:
    """Writes the `.cmd` file of the object `name`, a path below `place`."""
    path = place / name
    listed = "".join(f"  {file} \\\n" for file in files[1:])
    text = f"cmd_{name} := gcc {flags} -c\n\nsource_{name} := {files[0]}\n\ndeps_{name} := \\\n{listed}\n"
    write(path.with_name(f".{path.name}.cmd"), text)


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """BUILD with a kernel's tree: one object, its header, and a program that runs in the build."""
    tree = tmp_path / "BUILD" / "linux-6.1"
    for name in ("net/a.c", "net/unused.c", "include/a.h", "scripts/fix.c", "tools/x/check.c", "tools/x/check.h"):
        write(tree / name, name)
    record(tree, "net/a.o", "net/a.c", "include/a.h", "./include/../include/a.h", "/usr/lib/gcc/stdarg.h")
    record(tree, "scripts/fix.o", "scripts/fix.c", "include/a.h", "/usr/include/stdio.h", flags="-O2")
    record(tree, "tools/x/check.o", "check.c", "check.h", flags="-O2")  # made in its own directory
    write(tree / "include" / "config" / "auto.conf.cmd", "deps_config := \\\n\tKconfig\n")
    return tmp_path / "BUILD"


def collected(build: Path, where: Recorded) -> CompiledSources:
    return compiled_sources.collect(BuildOutputs("kernel:stock", build.parent, "./inv shell"), where)


def test_kernel_code_and_programs_of_the_build_are_told_apart(build: Path) -> None:
    found = collected(build, kbuild("linux-6.1"))
    tree = found.trees["linux-6.1"]
    assert tree.files == {name: digest(name) for name in ("include/a.h", "net/a.c")}
    assert tree.build_programs == {
        name: digest(name) for name in ("scripts/fix.c", "tools/x/check.c", "tools/x/check.h")
    }
    assert (found.compilations, found.outside, tree.unread) == (3, 2, ())
    assert found.paths == {"include/a.h", "net/a.c"}


def test_a_tree_of_red_hats_spec_shares_its_files_with_the_pristine_one(build: Path) -> None:
    (build / "linux-6.1").rename(build / "x")
    (build / "kernel-2.6.32").mkdir()
    (build / "x").rename(build / "kernel-2.6.32" / "linux-1.el6")
    (build / "pristine.c").hardlink_to(build / "kernel-2.6.32" / "linux-1.el6" / "net" / "a.c")
    found = collected(build, kbuild("kernel-*/linux-1.el6"))
    assert found.trees["kernel-2.6.32/linux-1.el6"].files["net/a.c"] == digest("net/a.c")


def test_modules_read_their_own_sources_and_the_kernels_headers(build: Path) -> None:
    write(build / "ipvs" / "own.c", "own")
    record(build / "ipvs", "own.o", "/build/BUILD/ipvs/own.c", "include/a.h")
    found = collected(build, kbuild("linux-6.1", "ipvs"))
    assert found.trees["ipvs"].files == {"own.c": digest("own")}
    assert "include/a.h" in found.trees["linux-6.1"].files


def test_rules_of_make_are_read_from_where_the_compiler_stood(build: Path) -> None:
    for name in ("tool/main.c", "tool/lib/x.c", "tool/include/x.h"):
        write(build / name, name)
    write(build / "tool" / "main.d", "main.o: main.c include/x.h /usr/include/stdio.h\n")
    write(build / "tool" / "lib" / ".deps" / "x.Plo", "x.o: x.c ../include/x.h\n../include/x.h:\n")
    write(build / "tool" / "lib" / ".deps" / "y.Po", "# dummy\n")
    found = collected(build, Recorded(("tool",)))
    assert found.trees["tool"].files == {n.removeprefix("tool/"): digest(n) for n in sorted(
        ("tool/main.c", "tool/lib/x.c", "tool/include/x.h")
    )}  # fmt: skip
    assert (found.compilations, found.outside) == (2, 1)


def test_the_same_build_gives_the_same_bytes(build: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        compiled_sources.write(tmp_path / name, collected(build, kbuild("linux-6.1")))
    one, two = (compiled_sources.path_of(tmp_path / name) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert compiled_sources.read(one) == collected(build, kbuild("linux-6.1"))


def test_a_file_that_is_gone_or_a_link_is_named_and_not_followed(build: Path, tmp_path: Path) -> None:
    secret = write(tmp_path / "key", "hunter2")
    (build / "linux-6.1" / "include" / "link.h").symlink_to(secret)
    record(build / "linux-6.1", "net/b.o", "net/gone.S", "include/link.h")
    tree = collected(build, kbuild("linux-6.1")).trees["linux-6.1"]
    assert tree.unread == ("include/link.h", "net/gone.S")
    assert digest("hunter2") not in tree.files.values()


def test_a_path_that_leads_out_of_the_build_is_counted_alone(build: Path) -> None:
    record(build / "linux-6.1", "net/b.o", "net/a.c", "../../../../etc/passwd", "../../SOURCES/x")
    assert collected(build, kbuild("linux-6.1")).outside == 4


@pytest.mark.parametrize("where", [kbuild("linux-9"), Recorded(("linux-6.1",)), kbuild("none-*/linux")])
def test_a_build_without_any_record_is_refused(build: Path, where: Recorded) -> None:
    with pytest.raises(BuildFailed, match="kernel:stock: 0 compiled sources recorded; expected 1 to"):
        collected(build, where)


def test_a_record_that_is_a_link_is_refused_by_name(build: Path, tmp_path: Path) -> None:
    (build / "linux-6.1" / "net" / ".b.o.cmd").symlink_to(tmp_path / "key")
    with pytest.raises(BuildFailed, match=r"BUILD/linux-6.1/net/.b.o.cmd: a link; expected a regular file"):
        collected(build, kbuild("linux-6.1"))


def test_too_many_records_are_refused(build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled_sources, "_RECORDS", OutputLimits(file=1 << 20, total=1 << 20, count=2))
    with pytest.raises(BuildFailed, match="too much of this kind; expected at most 2 files"):
        collected(build, kbuild("linux-6.1"))


def test_a_damaged_record_is_refused(build: Path, tmp_path: Path) -> None:
    compiled_sources.write(tmp_path, collected(build, kbuild("linux-6.1")))
    path = compiled_sources.path_of(tmp_path)
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(Refused, match=r"compiled-sources.json: damaged"):
        compiled_sources.read(path)
    path.unlink()
    with pytest.raises(Refused, match=r"compiled-sources.json: missing"):
        compiled_sources.read(path)
