"""Unpack a kernel package once: its boot image, its configuration, its modules and their metadata.

Packages of modules beside it are unpacked too; their modules stand before the kernel's own of the same names. Resolves
the dependencies and the load order of modules from their own metadata, as depmod(8) does, without a program of the
host. Must not know what guests are for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from pipeline.core import cache, documents, fingerprint, fs, neutral
from pipeline.errors import Refused
from pipeline.formats import archive, elf, kconfig
from pipeline.inspect import kernel_files
from pipeline.packaging import rpmbuild

IMAGE, INDEX, MODULES = "vmlinuz", "index.json", "modules"  # in the directory of a kernel
_BUILTIN = "modules.builtin"
_IMAGE_PREFIX = "boot/vmlinuz-"
_MODULE = re.compile(r"lib/modules/([^/]+)/(.+)\.ko")
_COMPRESSED = re.compile(r"lib/modules/[^/]+/.+\.ko\.\w+")
# Options of modules that are not named after them, for kernels that do not list what is built in.
_OPTIONS = {
    "8021q": "CONFIG_VLAN_8021Q",
    "af_packet": "CONFIG_PACKET",
    "ip_tables": "CONFIG_IP_NF_IPTABLES",
    "ipip": "CONFIG_NET_IPIP",
    "iptable_nat": "CONFIG_NF_NAT",
}


@dataclass(frozen=True)
class Module:
    """A module: its path below the kernel's directory, the names of its dependencies, its aliases as patterns."""

    path: str
    depends: tuple[str, ...]
    aliases: tuple[str, ...]


@dataclass(frozen=True)
class Index:
    """The document of a kernel package taken apart; fields as in `Kernel`."""

    uname: str
    config: Mapping[str, str]
    modules: Mapping[str, Module]
    builtin: frozenset[str]


@dataclass(frozen=True)
class Kernel:
    """A kernel package, unpacked in `place`. `modules` by name, `builtin` the names of those in the image.

    Names are written with underscores, whatever the file's name is. `beside` are the files of modules that other
    packages have, by name.
    """

    place: Path
    uname: str
    config: Mapping[str, str]
    modules: Mapping[str, Module]
    builtin: frozenset[str]
    beside: Mapping[str, Path] = field(default_factory=dict)

    @property
    def image(self) -> Path:
        """The boot image."""
        return self.place / IMAGE

    @cached_property
    def by_alias(self) -> Mapping[str, str]:
        """Names of modules by their aliases."""
        return {alias: name for name in sorted(self.modules) for alias in self.modules[name].aliases}

    def directory(self) -> str:
        """Return the directory of the kernel's modules, relative to the root."""
        return f"lib/modules/{self.uname}"

    def content(self, name: str) -> bytes:
        """Return the bytes of a module's file."""
        return self.beside.get(name, self.place / MODULES / self.modules[name].path).read_bytes()

    def has(self, name: str) -> bool:
        """Return whether the kernel has a module of this name or alias, built in or not."""
        return self._module_name(name) is not None or self.is_built_in(name)

    def is_built_in(self, name: str) -> bool:
        """Return whether the module of this name is built into the boot image."""
        option = _OPTIONS.get(name, f"CONFIG_{normalized(name).upper()}")
        return normalized(name) in self.builtin or self.config.get(option) == "y"

    def closure(self, names: Iterable[str]) -> list[str]:
        """Return the modules `names` with all dependencies, in an order in which each can be loaded.

        Leaves out built-in ones. Raises `Refused` for a name that is neither a module, an alias nor built in.
        """
        ordered: dict[str, None] = {}
        for name in names:
            module = self._module_name(name)
            if module is not None:
                self._add(module, ordered, ())
            elif not self.is_built_in(name):
                raise Refused(
                    f"the kernel {self.uname}: no module {name}; expected it in the package or built in",
                    where=str(self.place),
                    why="a guest with this kernel could not play its part",
                    hint="./inv lines; then enable its option in the kernel configuration of the line",
                )
        return list(ordered)

    def _module_name(self, name: str) -> str | None:
        return normalized(name) if normalized(name) in self.modules else self.by_alias.get(name)

    def _add(self, name: str, ordered: dict[str, None], above: tuple[str, ...]) -> None:
        if name in above:
            raise self._unloadable(f"the module {name}: dependency cycle {', '.join((*above, name))}")
        if name in ordered:
            return
        for need in self.modules[name].depends:
            if need in self.modules:
                self._add(need, ordered, (*above, name))
            elif need not in self.builtin:
                raise self._unloadable(f"the module {name}: missing dependency; expected {need} in the package")
        ordered[name] = None

    def _unloadable(self, what: str) -> Refused:
        why = f"no order of loading exists: the package of {self.uname} is damaged, or was not built as a whole"
        return Refused(what, where=str(self.place), why=why, hint="./inv build-all --verify")


def normalized(name: str) -> str:
    """Return a module's name as the kernel writes it, with underscores for the file's dashes."""
    return name.replace("-", "_")


def modules_dep(kernel: Kernel, names: Iterable[str]) -> str:
    """Return modules.dep(5): each module with all its dependencies, the first one to load last."""
    rows = []
    for name in sorted(names):
        needs = reversed(kernel.closure([name])[:-1])
        rows.append(" ".join([f"{kernel.modules[name].path}:", *(kernel.modules[need].path for need in needs)]))
    return "".join(f"{row}\n" for row in rows)


def modules_alias(kernel: Kernel, names: Iterable[str]) -> str:
    """Return modules.alias for the modules `names`."""
    rows = [f"alias {alias} {name}" for name in sorted(names) for alias in kernel.modules[name].aliases]
    return "".join(f"{row}\n" for row in rows)


def unpack_once(package: Path, sha256: str, place: Path, note: Callable[[str], object] = lambda _: None) -> Kernel:
    """Return the kernel of the RPM with this digest, unpacked below `place` where that was not done yet.

    Raises `Refused`, also for a package of another digest.
    """
    name = cache.key(sha256, fingerprint.digest(__name__))

    def fill(made: Path) -> None:
        copy = made.parent / package.name  # whose digest is that of the bytes that are read
        _unpack(fs.copy_verified(package, copy, sha256), made)

    return _read(cache.ensure(place / name, fill, note))


def with_modules(
    kernel: Kernel, packages: Mapping[Path, str], place: Path, note: Callable[[str], object] = lambda _: None
) -> Kernel:
    """Return the kernel with the modules of `packages`, their RPMs with digests, which stand before its own.

    They are unpacked below `place` where that was not done yet; a package without modules changes nothing. Raises
    `Refused` for modules of another kernel, for those that two packages have, and for a package of another digest.
    """
    modules, files = dict(kernel.modules), dict(kernel.beside)
    for package, sha256 in packages.items():
        name = cache.key(sha256, fingerprint.digest(__name__))

        def fill(made: Path, package: Path = package, sha256: str = sha256) -> None:
            _unpack_modules(fs.copy_verified(package, made.parent / package.name, sha256), made)

        found = cache.ensure(place / name, fill, note)
        index = _index(found)
        if index.modules and index.uname != kernel.uname:
            raise Refused(
                f"{package.name}: modules for the kernel {index.uname}; expected {kernel.uname}",
                where=str(package),
                why="no kernel loads the modules of another one",
                hint="./inv build-all",
            )
        if twice := sorted(index.modules.keys() & files.keys()):
            raise Refused(f"{package.name} and a package before it both have {twice[0]}", where=str(package))
        modules |= index.modules
        files |= {name: found / MODULES / module.path for name, module in index.modules.items()}
    return replace(kernel, modules=modules, beside=files)


@dataclass
class _PackageScan:
    """The content of a kernel package, as far as scanned."""

    unames: set[str] = field(default_factory=set)
    modules: dict[str, Module] = field(default_factory=dict)
    compressed: list[str] = field(default_factory=list)
    image: bytes = b""
    config: str = ""
    builtin: str = ""

    def add(self, path: str, data: bytes, into: Path) -> None:
        """Add one file of the package; modules are written below `into`."""
        if match := _MODULE.fullmatch(path):
            self.unames.add(match[1])
            self.modules[normalized(Path(match[2]).name)] = _module(f"{match[2]}.ko", data)
            target = into / f"{match[2]}.ko"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        elif _COMPRESSED.fullmatch(path):
            self.compressed.append(path)
        elif path.startswith(_IMAGE_PREFIX):
            self.image = data
            self.unames.add(path.removeprefix(_IMAGE_PREFIX))
        elif path.startswith("boot/config-"):
            self.config = data.decode()
        elif path.endswith(f"/{_BUILTIN}"):
            self.builtin = data.decode()

    def uname(self, package: Path) -> str:
        """Return the release of the package's single kernel. Raises `Refused` for one that no guest can boot."""
        wrong = f"kernels: {', '.join(sorted(self.unames)) or 'none'}" if len(self.unames) != 1 else ""
        wrong = wrong or ("no boot image" if not self.image else "no configuration" if not self.config else "")
        if self.compressed:
            wrong = f"compressed modules: {self.compressed[0]}"
        if wrong:
            expected = "one kernel with image, configuration and uncompressed modules"
            raise _unusable(package, wrong, expected, "a guest could not boot the kernel of this package")
        (uname,) = self.unames
        return uname


def _unusable(package: Path, wrong: str, expected: str, why: str) -> Refused:
    hint = neutral.command(["rpm", "-qlp", package])
    return Refused(f"{package.name}: {wrong}; expected {expected}", where=str(package), why=why, hint=hint)


def _scan(package: Path, into: Path) -> _PackageScan:
    scan = _PackageScan()
    for item, data in archive.members(package):
        if item.kind == "file":
            scan.add(item.path, data, into / MODULES)
    return scan


def _unpack_modules(package: Path, into: Path) -> None:
    scan = _scan(package, into)
    wrong = f"compressed modules: {scan.compressed[0]}" if scan.compressed else ""
    wrong = wrong or (f"kernels: {', '.join(sorted(scan.unames))}" if len(scan.unames) > 1 else "")
    if wrong:
        expected = "uncompressed modules of one kernel, or none"
        raise _unusable(package, wrong, expected, "a guest could not load the modules of this package")
    (into / INDEX).write_text(documents.to_json(_index_of(scan, "".join(scan.unames))))


def _index_of(scan: _PackageScan, uname: str) -> Index:
    return Index(
        uname=uname,
        config=kconfig.values(scan.config),
        modules={name: scan.modules[name] for name in sorted(scan.modules)},
        builtin=frozenset(normalized(Path(row).stem) for row in scan.builtin.split()),
    )


def _unpack(package: Path, into: Path) -> None:
    scan = _scan(package, into)
    uname = scan.uname(package)
    kernel_files.read_banner(scan.image, rpmbuild.read_package(package), f"/{_IMAGE_PREFIX}{uname}", uname)
    (into / IMAGE).write_bytes(scan.image)
    (into / INDEX).write_text(documents.to_json(_index_of(scan, uname)))


def _module(path: str, data: bytes) -> Module:
    rows = [row.decode(errors="replace") for row in elf.section(data, ".modinfo", path).split(b"\0")]
    pairs = [row.partition("=") for row in rows if "=" in row]
    depends = [need for name, _, value in pairs if name == "depends" for need in value.split(",") if need]
    aliases = [value for name, _, value in pairs if name == "alias"]
    return Module(path, tuple(map(normalized, depends)), tuple(aliases))


def _read(place: Path) -> Kernel:
    index = _index(place)
    return Kernel(place, index.uname, index.config, index.modules, index.builtin)


def _index(place: Path) -> Index:
    hint = "./inv clean guests, then repeat the command, which unpacks the kernel"
    return documents.read(place / INDEX, Index, hint=hint)
