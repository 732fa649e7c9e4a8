"""Make a guest's boot files: the kernel of a built package, and a cached initramfs.

Static programs of the userland step; the modules asked for and what they need, of the kernel package and of packages
beside it, with what modprobe reads; the files of further built packages, with the libraries of the builder image that
they need. The same inputs give the same bytes. Must not know what a guest is for.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from pipeline.core import cache, fingerprint, fs
from pipeline.errors import Refused
from pipeline.formats import archive, cpio
from pipeline.inspect import kernel_package, shared_libs
from pipeline.inspect.kernel_package import Kernel
from pipeline.recipes import guest_userland
from pipeline.sandbox import images, runtime

MODULES = "etc/fnat/modules"  # what init loads, in order: absolute paths, one a line
VIRTIO_MODULES = ("virtio_pci", "virtio_net", "virtio_console")
_E1000_MODULES = ("e1000",)
_BASE_MODULES = ("af_packet",)
_INITRAMFS, _INDEX = "initramfs.gz", "about.json"  # in the directory of a guest's files
_LEFT_OUT = ("usr/share/man/",)  # of packages: documentation is useless in a guest
_EMPTY = ("dev", "proc", "sys", "run", "tmp", "root", "mnt", "var/run", "var/lib", "var/log", "var/lock/subsys")
_IPTABLES = ("iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")
_TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n",
    "etc/protocols": "ip 0 IP\nicmp 1 ICMP\nipencap 4 IP-ENCAP\ntcp 6 TCP\nudp 17 UDP\nvrrp 112 VRRP\n",
}


@dataclass(frozen=True)
class Contents:
    """The contents of a guest. `userland` is the output of that step, `kernel` a kernel's RPM.

    `modules` are loaded at the start, with those that every guest needs; `spare` ones only lie there for
    modprobe. Each is a module's name or alias. `packages` are RPMs, whose libraries come from `builder`; `beside`
    are RPMs too, those of the role, whose modules stand before the kernel's. `files` are laid over all else: path to
    content and permissions. `digests` are the SHA-256 that the kernel and the packages must have, by their paths;
    those without one are taken for what they are.
    """

    userland: Path
    kernel: Path
    modules: tuple[str, ...] = ()
    optional_modules: tuple[str, ...] = ()
    packages: tuple[Path, ...] = ()
    beside: tuple[Path, ...] = ()
    builder_image: runtime.Image | None = None
    files: Mapping[str, tuple[bytes, int]] = field(default_factory=dict)
    digests: Mapping[Path, str] = field(default_factory=dict)

    def digest(self, package: Path) -> str:
        """Return the SHA-256 that a package must have."""
        return self.digests.get(package) or fs.sha256_of(package)


@dataclass(frozen=True)
class Image:
    """QEMU's inputs. `virtio`: the kernel has virtio's card and port; otherwise an e1000 and a serial port serve.

    `config` is the kernel's configuration, its options by name.
    """

    kernel: Path
    initramfs: Path
    uname: str
    virtio: bool
    config: Mapping[str, str]


def make_image(contents: Contents, place: Path, note: Callable[[str], object] = lambda _: None) -> Image:
    """Return the guest's image, made below `place` where it is missing or damaged, which `note` reports.

    Raises `Refused` for wrong packages, and for missing dependencies.
    """
    kernel = unpacked_kernel(contents, place, note)
    name = cache.key(kernel.place.name, _cache_inputs(contents), fingerprint.digest(__name__))
    found = cache.ensure(place / "guests" / name, lambda into: _make(contents, kernel, into), note)
    return Image(kernel.image, found / _INITRAMFS, kernel.uname, _has_virtio(kernel), kernel.config)


def unpacked_kernel(contents: Contents, place: Path, note: Callable[[str], object] = lambda _: None) -> Kernel:
    """Return the guest's kernel with the modules of the role's own packages, unpacked below `place` where need be."""
    kernel = kernel_package.unpack_once(contents.kernel, contents.digest(contents.kernel), place / "kernels", note)
    beside = {path: contents.digest(path) for path in contents.beside}
    return kernel_package.with_modules(kernel, beside, place / "modules", note)


def _cache_inputs(contents: Contents) -> Mapping[str, object]:
    """Return all inputs of the bytes besides the kernel package and our own code."""
    programs = sorted(path for path in contents.userland.rglob("*") if path.is_file())
    return {
        "userland": {str(p.relative_to(contents.userland)): fs.sha256_of(p) for p in programs},
        "modules": contents.modules,
        "spare": contents.optional_modules,
        "packages": [contents.digest(path) for path in contents.packages],
        "beside": [contents.digest(path) for path in contents.beside],
        "builder": contents.builder_image.key if contents.builder_image else "",
        "files": {path: [_digest(data), mode] for path, (data, mode) in contents.files.items()},
    }


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _make(contents: Contents, kernel: Kernel, into: Path) -> None:
    requested = [*(VIRTIO_MODULES if _has_virtio(kernel) else _E1000_MODULES), *_BASE_MODULES, *contents.modules]
    loaded = kernel.closure(requested)
    there = kernel.closure([*loaded, *contents.optional_modules])
    builtin = {name for name in (*requested, *contents.optional_modules) if kernel.is_built_in(name)}
    if contents.builder_image:
        images.check(contents.builder_image)
    # Each one copied just before it is read: what is read has the digest.
    installed = _package_entries(
        fs.copy_verified(path, into.parent / path.name, contents.digest(path))
        for path in (*contents.packages, *contents.beside)
    )
    needed = shared_libs.required_libraries(
        {path: entry.data for path, entry in installed.items() if not path.startswith(f"{kernel.directory()}/")},
        contents.builder_image.rootfs if contents.builder_image else None,
    )
    parts = (
        _userland_entries(contents.userland),
        _kernel_entries(kernel, loaded, there, builtin),
        [cpio.file(path, data, 0o755) for path, data in needed.items()],
        installed.values(),
        [cpio.file(path.lstrip("/"), data, mode) for path, (data, mode) in contents.files.items()],
    )
    whole = {entry.path: entry for part in parts for entry in part}  # a later part's wins
    packed = cpio.archive([*whole.values(), *_directories(whole)])
    (into / _INITRAMFS).write_bytes(gzip.compress(packed, compresslevel=6, mtime=0))
    about: dict[str, object] = {"uname": kernel.uname, "loaded": loaded, "modules": there, "libraries": sorted(needed)}
    about |= {"size": len(packed), "sha256": _digest(packed)}
    (into / _INDEX).write_text(json.dumps(about, indent=1) + "\n")


def _has_virtio(kernel: Kernel) -> bool:
    return all(kernel.has(name) for name in VIRTIO_MODULES)


def _userland_entries(output: Path) -> list[cpio.Entry]:
    """Return the static programs under all their names, and the few other files of a system."""
    programs = output / guest_userland.BIN
    links = (output / guest_userland.LINKS).read_text().split()
    return [
        *(cpio.symlink(path.lstrip("/"), "/bin/busybox") for path in links),
        *(cpio.symlink(f"sbin/{name}", "iptables") for name in _IPTABLES),
        cpio.file("bin/busybox", (programs / "busybox").read_bytes(), 0o755),
        cpio.file("sbin/iptables", (programs / "iptables").read_bytes(), 0o755),
        cpio.file("bin/fnat-guest", (programs / "fnat-guest").read_bytes(), 0o755),
        cpio.symlink("init", "bin/fnat-guest"),
        # The kernel gives init its console before anything can be mounted on /dev.
        cpio.device("dev/console", "c", 5, 1),
        cpio.device("dev/null", "c", 1, 3, 0o666),
        *(cpio.file(path, text.encode()) for path, text in _TEXTS.items()),
        *(cpio.directory(path) for path in _EMPTY),
    ]


def _kernel_entries(
    kernel: Kernel, loaded: list[str], there: list[str], builtin_requested: set[str]
) -> list[cpio.Entry]:
    """Return the modules, init's load order, and modprobe's index files."""
    base = kernel.directory()
    builtin = sorted({*kernel.builtin, *map(kernel_package.normalized, builtin_requested)})
    order = "".join(f"/{base}/{kernel.modules[name].path}\n" for name in loaded)
    return [
        *(cpio.file(f"{base}/{kernel.modules[name].path}", kernel.content(name)) for name in there),
        cpio.file(f"{base}/modules.dep", kernel_package.modules_dep(kernel, there).encode()),
        cpio.file(f"{base}/modules.alias", kernel_package.modules_alias(kernel, there).encode()),
        cpio.file(f"{base}/modules.builtin", "".join(f"kernel/{name}.ko\n" for name in builtin).encode()),
        cpio.file(MODULES, order.encode()),
    ]


def _package_entries(packages: Iterable[Path]) -> dict[str, cpio.Entry]:
    """Return the files of RPMs by their paths. Raises `Refused` when two packages differ in a file."""
    found: dict[str, cpio.Entry] = {}
    for package in packages:
        for entry in _entries_of(package):
            if found.setdefault(entry.path, entry) != entry:
                raise Refused(f"{package.name} and a package before it both have /{entry.path}", where=str(package))
    return found


def _entries_of(package: Path) -> Iterable[cpio.Entry]:
    own: dict[str, cpio.Entry] = {}
    for item, data in archive.members(package):
        if item.path.startswith(_LEFT_OUT):
            continue
        if item.kind == "directory":
            own[item.path] = cpio.directory(item.path, item.mode)
        elif item.kind == "symlink":
            own[item.path] = cpio.symlink(item.path, item.target)
        elif item.kind == "hardlink":
            own[item.path] = cpio.file(item.path, own[item.target].data, item.mode)
        else:
            own[item.path] = cpio.file(item.path, data, item.mode)
    return own.values()


def _directories(entries: Mapping[str, cpio.Entry]) -> list[cpio.Entry]:
    """Return the directories above all entries that are not among them."""
    above = {str(parent) for path in entries for parent in PurePosixPath(path).parents} - {"."}
    return [cpio.directory(path) for path in sorted(above - entries.keys())]
