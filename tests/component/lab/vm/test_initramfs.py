"""A guest's files out of made-up packages: modules, programs with their libraries, the same bytes twice."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core import manifest
from pipeline.core.cache import problems
from pipeline.core.fs import sha256_of
from pipeline.core.process import clean_environment, run
from pipeline.errors import Refused
from pipeline.inspect import kernel_package, shared_libs
from pipeline.lab.vm import initramfs
from pipeline.lab.vm.initramfs import Contents
from pipeline.sandbox.runtime import Image
from tests.fixtures.guestfiles import bootimage, library, module, program
from tests.fixtures.rootfs import record
from tests.fixtures.rpms import of_files

UNAME = "6.1.9-1.toy"
BASE = f"/lib/modules/{UNAME}"
CONFIG = b"CONFIG_PACKET=y\nCONFIG_E1000=y\n# CONFIG_TOA is not set\n"
LOADER = "/lib64/ld-linux-x86-64.so.2"
LIBRARIES = "lib/x86_64-linux-gnu"
VIRTIO = {
    f"{BASE}/kernel/virtio/virtio.ko": module(),
    f"{BASE}/kernel/virtio/virtio_pci.ko": module("depends=virtio"),
    f"{BASE}/kernel/net/virtio_net.ko": module("depends=virtio"),
    f"{BASE}/kernel/char/virtio_console.ko": module("depends=virtio"),
}


def kernel(modules: Mapping[str, bytes] = VIRTIO, *, image: bytes = bootimage(f"{UNAME} x"), **more: bytes) -> Path:
    """A kernel's package; `more` are files of its directory of modules."""
    files = {f"/boot/vmlinuz-{UNAME}": image, f"/boot/config-{UNAME}": CONFIG, **modules}
    files |= {f"{BASE}/{name.replace('_', '.')}": data for name, data in more.items()}
    files[f"{BASE}/kernel/net/dummy.ko"] = module("alias=rtnl-link-dummy")
    return of_files("kernel", "6.1.9", "1.toy", files)


@pytest.fixture(scope="module")
def with_virtio() -> Path:
    return kernel()


@pytest.fixture(scope="module")
def tools() -> Path:
    """A package with a program that needs a library, which needs another."""
    return of_files(
        "ipvsadm", "1.31", "1", {"/sbin/ipvsadm": program(LOADER, "libone.so.1"), "/etc/one.conf": b"one\n"}
    )


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """A root file system whose /lib is a link, as Debian's is."""
    root = tmp_path_factory.mktemp("image") / "rootfs"
    place = root / "usr" / LIBRARIES
    place.mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / "lib64").symlink_to("/usr/lib64")
    (root / "usr/lib64").mkdir()
    (place / "ld.so").write_bytes(library("ld-linux-x86-64.so.2"))
    (root / "usr" / LOADER.lstrip("/")).symlink_to(f"/{LIBRARIES}/ld.so")
    (place / "libone.so.1.0").write_bytes(library("libone.so.1", "libtwo.so.2", "ld-linux-x86-64.so.2"))
    (place / "libone.so.1").symlink_to("libone.so.1.0")
    (place / "libtwo.so.2").write_bytes(library("libtwo.so.2"))
    return record(Image("toy", "0123", root, root.parent / "packages.json"))


@pytest.fixture
def contents(tmp_path: Path, with_virtio: Path) -> Contents:
    output = tmp_path / "userland"
    (output / "bin").mkdir(parents=True)
    for name in ("busybox", "iptables", "fnat-guest"):
        (output / "bin" / name).write_bytes(name.encode())
    (output / "busybox.links").write_text("/bin/sh\n/sbin/ip\n/usr/bin/wget\n")
    return Contents(output, with_virtio)


class Guest:
    """What cpio unpacks of a guest's image."""

    def __init__(self, image: initramfs.Image, place: Path) -> None:
        self.root = place / "unpacked"
        self.root.mkdir()
        packed = place / "packed"
        packed.write_bytes(gzip.decompress(image.initramfs.read_bytes()))
        argv = ["cpio", "-idm", "--quiet", "--nonmatching", "dev/console", "dev/null"]
        with packed.open("rb") as stream:
            run(argv, cwd=self.root, stdin=stream, env=clean_environment())

    def text(self, path: str) -> str:
        return (self.root / path).read_text()

    def files(self) -> set[str]:
        found = (path for path in self.root.rglob("*") if path.is_symlink() or not path.is_dir())
        return {str(path.relative_to(self.root)) for path in found}


def guest(contents: Contents, place: Path) -> Guest:
    return Guest(initramfs.make_image(contents, place / "cache"), place)


# --- The kernel's part ---------------------------------------------------------------------------------


def test_init_loads_the_modules_of_every_guest_and_those_asked_for(contents: Contents, tmp_path: Path) -> None:
    found = guest(replace(contents, modules=("rtnl-link-dummy", "e1000")), tmp_path)
    order = [line.rpartition("/")[2] for line in found.text("etc/fnat/modules").splitlines()]
    assert order == ["virtio.ko", "virtio_pci.ko", "virtio_net.ko", "virtio_console.ko", "dummy.ko"]
    for line in found.text("etc/fnat/modules").splitlines():
        assert (found.root / line.lstrip("/")).read_bytes()[:4] == b"\x7fELF"
    assert "alias rtnl-link-dummy dummy\n" in found.text(f"{BASE[1:]}/modules.alias")
    assert "kernel/e1000.ko" in found.text(f"{BASE[1:]}/modules.builtin").split()


def test_a_spare_module_lies_there_and_is_not_loaded(contents: Contents, tmp_path: Path) -> None:
    found = guest(replace(contents, optional_modules=("dummy",)), tmp_path)
    assert "dummy" not in found.text("etc/fnat/modules")
    assert "kernel/net/dummy.ko:\n" in found.text(f"{BASE[1:]}/modules.dep")
    assert (found.root / BASE[1:] / "kernel/net/dummy.ko").is_file()


def test_a_kernel_without_virtio_gets_the_other_card(contents: Contents, tmp_path: Path) -> None:
    image = initramfs.make_image(replace(contents, kernel=kernel({})), tmp_path / "cache")
    assert not image.virtio
    assert Guest(image, tmp_path).text("etc/fnat/modules") == ""  # it is built in


def test_what_qemu_needs_is_told(contents: Contents, tmp_path: Path) -> None:
    image = initramfs.make_image(contents, tmp_path / "cache")
    assert (image.uname, image.virtio) == (UNAME, True)
    assert image.config == {"CONFIG_PACKET": "y", "CONFIG_E1000": "y", "CONFIG_TOA": "n"}
    assert image.kernel.read_bytes() == bootimage(f"{UNAME} x")


@pytest.mark.parametrize(
    ("package", "said"),
    [
        (lambda: kernel(image=bootimage("6.1.8 x")), "another kernel; expected"),
        (lambda: kernel({f"{BASE}/kernel/a.ko.xz": b"x"}), "compressed modules"),
        (lambda: kernel({"/lib/modules/6.1.8/kernel/a.ko": module()}), "kernels: 6.1.8, 6.1.9-1.toy"),
        (lambda: of_files("x", "1", "1", {"/etc/x": b"x"}), "kernels: none"),
    ],
)
def test_what_is_no_kernel_package_is_refused(package: object, said: str, tmp_path: Path) -> None:
    assert callable(package)
    given = package()
    with pytest.raises(Refused) as caught:
        kernel_package.unpack_once(given, sha256_of(given), tmp_path / "kernels")
    assert said in str(caught.value)
    assert [path.name for path in (tmp_path / "kernels").iterdir()] == ["lock"]


# --- Packages beside the kernel ------------------------------------------------------------------------


def modules_package(name: str, modules: Mapping[str, bytes], uname: str = UNAME) -> Path:
    """A package of modules below updates/."""
    return of_files(name, "1", "1", {f"/lib/modules/{uname}/updates/{each}": data for each, data in modules.items()})


@pytest.fixture(scope="module")
def beside() -> Path:
    """A dummy other than the kernel's, which needs a module that the kernel lacks, which needs one of the kernel."""
    modules = {"dummy.ko": module("depends=new", "alias=rtnl-link-dummy"), "new.ko": module("depends=virtio")}
    return modules_package("kmod", modules)


def test_modules_beside_the_kernel_stand_before_its_own_and_need_those_of_both(
    contents: Contents, beside: Path, tmp_path: Path
) -> None:
    found = guest(replace(contents, beside=(beside,), modules=("dummy",)), tmp_path)
    order = [line.removeprefix(f"{BASE}/") for line in found.text("etc/fnat/modules").splitlines()]
    assert order[0] == "kernel/virtio/virtio.ko" and order[-2:] == ["updates/new.ko", "updates/dummy.ko"]
    dep = dict(line.split(":") for line in found.text(f"{BASE[1:]}/modules.dep").splitlines())
    assert dep["updates/dummy.ko"].split() == ["updates/new.ko", "kernel/virtio/virtio.ko"]
    assert not (found.root / BASE[1:] / "kernel/net/dummy.ko").exists()
    assert "alias rtnl-link-dummy dummy\n" in found.text(f"{BASE[1:]}/modules.alias")
    plain = guest(replace(contents, modules=("dummy",)), mkdir(tmp_path / "plain"))
    assert plain.text("etc/fnat/modules").endswith("/kernel/net/dummy.ko\n")
    own, kernels = (one / BASE[1:] for one in (found.root, plain.root))
    assert (own / "updates/dummy.ko").read_bytes() != (kernels / "kernel/net/dummy.ko").read_bytes()


def mkdir(place: Path) -> Path:
    place.mkdir()
    return place


def test_files_of_a_package_beside_the_kernel_are_installed_with_their_libraries(
    contents: Contents, tools: Path, builder: Image, tmp_path: Path
) -> None:
    found = guest(replace(contents, beside=(tools,), builder_image=builder), tmp_path)
    assert (found.root / "sbin/ipvsadm").is_file() and (found.root / LIBRARIES / "libtwo.so.2").is_file()


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        ([("a", {"a.ko": b""}, "6.1.8-1.toy")], r"modules for the kernel 6\.1\.8-1\.toy; expected 6\.1\.9-1\.toy"),
        ([("a", {"new.ko": b""}, UNAME), ("b", {"new.ko": b""}, UNAME)], "both have new"),
        ([("a", {"new.ko.xz": b""}, UNAME)], "compressed modules: .*new.ko.xz; expected uncompressed modules"),
        ([("a", {"new.ko": b"depends=lost"}, UNAME)], "the module new: missing dependency; expected lost"),
    ],
)
def test_modules_that_the_guests_kernel_could_not_load_are_refused(
    contents: Contents, packages: list[tuple[str, Mapping[str, bytes], str]], said: str, tmp_path: Path
) -> None:
    made = [
        modules_package(name, {file: module(*filter(None, [word.decode()])) for file, word in files.items()}, uname)
        for name, files, uname in packages
    ]
    with pytest.raises(Refused, match=said):
        initramfs.make_image(replace(contents, beside=tuple(made), modules=("new",)), tmp_path / "cache")


# --- Programs and their libraries -----------------------------------------------------------------------


def test_the_static_programs_answer_to_their_names(contents: Contents, tmp_path: Path) -> None:
    found = guest(contents, tmp_path)
    assert (found.root / "init").resolve() == found.root / "bin/fnat-guest"
    assert (found.root / "usr/bin/wget").readlink() == Path("/bin/busybox")
    assert (found.root / "sbin/iptables-save").resolve().read_text() == "iptables"
    assert os.access(found.root / "bin/busybox", os.X_OK)
    assert {path.name for path in found.root.iterdir()} >= {"dev", "proc", "sys", "run", "tmp", "root"}


def test_libraries_are_followed_to_the_last_one(
    contents: Contents, tools: Path, builder: Image, tmp_path: Path
) -> None:
    found = guest(replace(contents, packages=(tools,), builder_image=builder), tmp_path)
    there = {path for path in found.files() if ".so" in path}
    assert there == {LOADER[1:], f"{LIBRARIES}/libone.so.1", f"{LIBRARIES}/libtwo.so.2"}
    assert (found.root / LOADER[1:]).read_bytes()[:4] == b"\x7fELF"
    assert found.text("etc/one.conf") == "one\n"


def test_a_dynamic_program_without_libraries_to_take_is_refused(
    contents: Contents, tools: Path, builder: Image, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match="/sbin/ipvsadm needs /lib64/ld-linux"):
        initramfs.make_image(replace(contents, packages=(tools,)), tmp_path / "cache")
    other = of_files("other", "1", "1", {"/sbin/other": program(LOADER, "libthree.so.3")})
    with pytest.raises(Refused, match=r"/sbin/other needs /lib/x86_64-linux-gnu/libthree\.so\.3"):
        initramfs.make_image(replace(contents, packages=(other,), builder_image=builder), tmp_path / "cache")


def test_a_program_brings_and_names_libraries_of_its_own(builder: Image) -> None:
    own = {"usr/lib/own/libthree.so.3": library("libthree.so.3"), "sbin/x": program(LOADER, "libthree.so.3")}
    assert set(shared_libs.required_libraries(own, builder.rootfs)) == {LOADER[1:]}
    (builder.rootfs / "opt").mkdir()
    (builder.rootfs / "opt/libfour.so").write_bytes(library("libfour.so"))
    record(builder)
    named = {"opt/bin/x": program(LOADER, "libfour.so", path="$ORIGIN/..")}
    assert set(shared_libs.required_libraries(named, builder.rootfs)) == {LOADER[1:], "opt/libfour.so"}


def test_links_of_a_root_file_system_stay_inside_it(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/etc/passwd")
    (tmp_path / "up").symlink_to("../../../../etc/passwd")
    (tmp_path / "ring").symlink_to("ring")
    assert (
        shared_libs.resolve_in_root(tmp_path, "a")
        == shared_libs.resolve_in_root(tmp_path, "up")
        == tmp_path / "etc/passwd"
    )
    with pytest.raises(Refused, match="too many links"):
        shared_libs.resolve_in_root(tmp_path, "/ring")


def test_what_is_laid_over_wins(contents: Contents, tools: Path, builder: Image, tmp_path: Path) -> None:
    over = {"/etc/one.conf": (b"two\n", 0o600), "/sbin/ip": (b"#!/bin/sh\n", 0o755)}
    found = guest(replace(contents, packages=(tools,), builder_image=builder, files=over), tmp_path)
    assert found.text("etc/one.conf") == "two\n"
    assert (found.root / "etc/one.conf").stat().st_mode & 0o777 == 0o600
    assert not (found.root / "sbin/ip").is_symlink()


def test_two_packages_with_one_path_are_refused(contents: Contents, tmp_path: Path) -> None:
    pair = tuple(of_files("x", "1", str(number), {"/etc/x": bytes([number])}) for number in (1, 2))
    with pytest.raises(Refused, match="both have /etc/x"):
        initramfs.make_image(replace(contents, packages=pair), tmp_path / "cache")


# --- Made once, the same each time ------------------------------------------------------------------------


def test_the_same_inputs_give_the_same_bytes(contents: Contents, tools: Path, builder: Image, tmp_path: Path) -> None:
    given = replace(contents, packages=(tools,), builder_image=builder, modules=("dummy",))
    one, other = (initramfs.make_image(given, tmp_path / place) for place in ("one", "other"))
    assert one.initramfs != other.initramfs
    assert one.initramfs.read_bytes() == other.initramfs.read_bytes()
    assert one.initramfs.read_bytes()[4:8] == bytes(4)  # the time in gzip's header, RFC 1952


def test_each_input_has_its_own_image(
    contents: Contents, tools: Path, beside: Path, builder: Image, tmp_path: Path
) -> None:
    (tmp_path / "copy").mkdir()
    run(["cp", "-r", contents.userland, tmp_path / "copy"], env=clean_environment())
    elsewhere = tmp_path / "copy" / "userland"
    changed = tmp_path / "changed"
    run(["cp", "-r", contents.userland, changed], env=clean_environment())
    (changed / "bin/fnat-guest").write_text("another")
    variants = [
        contents,
        replace(contents, modules=("dummy",)),
        replace(contents, optional_modules=("dummy",)),
        replace(contents, packages=(tools,), builder_image=builder),
        replace(contents, beside=(beside,)),
        replace(contents, beside=(tools,), builder_image=builder),
        replace(contents, files={"/x": (b"", 0o644)}),
        replace(contents, files={"/x": (b"", 0o600)}),
        replace(contents, userland=changed),
        replace(contents, kernel=kernel({})),
    ]
    made = {initramfs.make_image(variant, tmp_path / "cache").initramfs for variant in variants}
    assert len(made) == len(variants)
    assert initramfs.make_image(replace(contents, userland=elsewhere), tmp_path / "cache").initramfs in made


def test_the_second_time_nothing_is_made(contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = initramfs.make_image(contents, tmp_path / "cache")
    monkeypatch.setattr(initramfs, "_make", None)
    monkeypatch.setattr(kernel_package, "_unpack", None)
    assert initramfs.make_image(contents, tmp_path / "cache") == first


def test_several_at_once_make_it_once(contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, original = [], initramfs._make

    def counted(given: Contents, kernel: kernel_package.Kernel, into: Path) -> None:
        made.append(into)
        original(given, kernel, into)

    monkeypatch.setattr(initramfs, "_make", counted)
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(lambda _: initramfs.make_image(contents, tmp_path / "cache"), range(4)))
    assert len(made) == 1 and images == [images[0]] * 4


def test_one_that_fails_leaves_nothing_that_could_be_taken_for_it(contents: Contents, tmp_path: Path) -> None:
    with pytest.raises(Refused):
        initramfs.make_image(replace(contents, modules=("toa",)), tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache/guests").iterdir()] == ["lock"]


# --- What is booted is what was made ----------------------------------------------------------------------


def _one_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    before = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _link(path: Path) -> None:
    path.rename(path.parents[2] / "moved")
    path.symlink_to(path.parents[2] / "moved")


def _other(path: Path) -> None:
    """Puts the file of another directory of that kind in the file's place, which was made as well."""
    name = path.relative_to(path.parents[1]).parts[0]
    [other] = [place for place in path.parents[1].iterdir() if place.is_dir() and place.name != name]
    shutil.copy(other / path.name, path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "one byte": _one_byte,
    "emptied": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
    "a link in its place": _link,
    "that of another guest": _other,
}
KEPT = ["guests/*/initramfs.gz", "guests/*/manifest", "kernels/*/vmlinuz", "kernels/*/index.json", "kernels/*/manifest"]


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("what", KEPT)
def test_what_is_not_as_it_was_made_is_made_anew_before_it_is_booted(
    contents: Contents, tmp_path: Path, what: str, how: str
) -> None:
    cache, said = tmp_path / "cache", list[str]()
    image = initramfs.make_image(contents, cache)
    right = {path: path.read_bytes() for path in (image.kernel, image.initramfs)}
    [path] = cache.glob(what)
    other = kernel({}, image=bootimage(f"{UNAME} another"))
    initramfs.make_image(replace(contents, kernel=other, modules=("dummy",)), cache)
    DAMAGE[how](path)
    assert path.parent in {found.parent for found, _ in problems(cache)}
    assert initramfs.make_image(contents, cache, said.append) == image
    assert {path: path.read_bytes() for path in right} == right
    assert len(said) == 1 and "changed since it was made, making it anew" in said[0]
    assert list(problems(cache)) == []


def test_a_half_made_directory_and_one_under_another_key_are_not_taken(contents: Contents, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    image = initramfs.make_image(contents, cache)
    place = image.initramfs.parent
    moved = initramfs.make_image(replace(contents, modules=("dummy",)), cache).initramfs.parent
    right = image.initramfs.read_bytes()
    shutil.rmtree(place)
    moved.rename(place)
    assert initramfs.make_image(contents, cache).initramfs.read_bytes() == right
    shutil.rmtree(place)
    place.mkdir()
    assert initramfs.make_image(contents, cache).initramfs.read_bytes() == right


@pytest.mark.parametrize("which", ["kernel", "tools", "beside"])
def test_a_package_swapped_after_the_snapshot_was_verified_is_refused(
    contents: Contents, tools: Path, beside: Path, builder: Image, tmp_path: Path, which: str
) -> None:
    own = {
        name: Path(shutil.copy(path, tmp_path))
        for name, path in (("kernel", contents.kernel), ("tools", tools), ("beside", beside))
    }
    digests = {path: sha256_of(path) for path in own.values()}
    given = replace(
        contents,
        kernel=own["kernel"],
        packages=(own["tools"],),
        beside=(own["beside"],),
        builder_image=builder,
        digests=digests,
    )
    shutil.copy(kernel({}) if which == "kernel" else of_files("other", "1.31", "2", {"/sbin/x": b"x"}), own[which])
    with pytest.raises(Refused, match=r"SHA-256 \w+; expected"):
        initramfs.make_image(given, tmp_path / "cache")


def test_libraries_are_taken_from_no_image_that_changed(
    contents: Contents, tools: Path, builder: Image, tmp_path: Path
) -> None:
    shutil.copytree(builder.rootfs.parent, tmp_path / "image", symlinks=True)
    changed = replace(builder, rootfs=tmp_path / "image/rootfs", packages=tmp_path / "image/packages.json")
    (changed.rootfs / "usr" / LIBRARIES / "libtwo.so.2").write_bytes(library("libtwo.so.2", "libc.so.6"))
    with pytest.raises(Refused, match=r"builder image toy: 1 differences .*libtwo\.so\.2"):
        initramfs.make_image(replace(contents, packages=(tools,), builder_image=changed), tmp_path / "cache")


def test_what_is_as_it_was_made_is_not_read_again(
    contents: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = initramfs.make_image(contents, tmp_path / "cache")
    monkeypatch.setattr(manifest, "sha256_at", lambda path: pytest.fail(f"{path} is read"))
    assert initramfs.make_image(contents, tmp_path / "cache") == image
