"""Collect what the files of a package, or of a running host, say of its role: kernel, modules, tools.

`wanted` says which files are evidence, and `add` reads one. A path says what to look for and is no proof; the content
is. What contradicts itself is kept as it is: to judge is the caller's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property

from pipeline.formats import decompression, kconfig
from pipeline.formats.rpm_payload import Wanted
from pipeline.inspect import kernel_files, module_facts, tool_facts
from pipeline.inspect.module_facts import ModuleFacts
from pipeline.inspect.tool_facts import ReaderFacts, ToolFacts

# Bytes of a file, packed and unpacked. The largest of each kind in Debian's 6.1 and RHEL's kernels: a configuration of
# 0.3 MB, exported symbols of 2, a System.map of 8, an ip_vs.ko of 0.4 and with debugging data of 20, keepalived of 2.
_TEXT_MOST, _MAP_MOST, _MODULE_MOST, _PROGRAM_MOST, _SETTINGS_MOST = 8 << 20, 32 << 20, 64 << 20, 64 << 20, 64 << 10
_IMAGE_BEGINNING = 128 << 10  # bytes of a boot image down to its banner, which 16 bits point at
_PACKED = r"(?:\.(?:gz|xz|zst|bz2|lzma))?"
_MODULES = r"(?:/usr)?/lib/modules/(?P<kernel>[^/]+)"
_CONFIG = re.compile(rf"/boot/config-(?P<boot>[^/]+)|{_MODULES}/config")
_IMAGE = re.compile(rf"/boot/vmlinuz-(?P<boot>[^/]+)|{_MODULES}/vmlinuz")
# An image that is no compressed x86 one, or SUSE's copy beside it for debuggers: not read.
_PLAIN_IMAGE = re.compile(rf"/boot/vmlinux-(?P<boot>[^/]+?){_PACKED}")
_EXPORTS = re.compile(rf"/boot/symvers-(?P<boot>[^/]+?){_PACKED}|{_MODULES}/symvers{_PACKED}")
_MAP = re.compile(rf"/boot/System\.map-(?P<boot>[^/]+)|{_MODULES}/System\.map")
_MODULE = re.compile(rf"{_MODULES}/(?P<place>.+)\.ko{_PACKED}")
_LISTED = re.compile(rf"{_MODULES}/(?P<place>.+)\.ko(?:\.\w+)?")  # a module also with a compression that is not known
_KERNELS, _BOOT = ("/boot/", "/lib/modules/", "/usr/lib/modules/"), (_IMAGE, _PLAIN_IMAGE, _CONFIG, _EXPORTS, _MAP)
_DEEPEST = 5  # slashes in a path of a kernel's that is no module's; a package has thousands that are deeper
_TOA_NAME = re.compile(r"(?:.*_)?toa(?:_.*)?", re.IGNORECASE)
_TOOLS = re.compile(r"(?:/usr)?/s?bin/(?:ipvsadm|keepalived)")
_READER, _SETTINGS = re.compile(r"(?:/usr)?/s?bin/lvs-toa"), "/etc/lvs-toa.conf"
_EVIDENCE = (*_KERNELS, "/sbin/", "/usr/sbin/", "/bin/", "/usr/bin/", _SETTINGS)
_IN_MAP = re.compile(
    rb" [tTdDbBrR] ((?:ip_vs_synproxy|ip_vs_fnat|ip_vs_fullnat|tcp_fnat)\w*|get_toa_data|\w+_getname_toa)"
)
_BY_EXPORT = "ip_vs_synproxy_"  # what begins the names that the original patch exports from the image


class Depth(IntEnum):
    """How far a package is read: its header, /boot too, or modules and programs as well."""

    HEADER = 0
    BOOT = 1
    MODULES = 2


@dataclass
class Contents:
    """The files listed, and what those read say. Mappings are by path; `arch` is the package's, empty for a host."""

    listed: frozenset[str]
    arch: str = ""
    configs: dict[str, Mapping[str, str]] = field(default_factory=dict)
    config_texts: dict[str, bytes] = field(default_factory=dict)
    banners: dict[str, str] = field(default_factory=dict)
    exports: dict[str, Mapping[str, str]] = field(default_factory=dict)
    mapped: dict[str, tuple[str, ...]] = field(default_factory=dict)  # names of a System.map that only patches bring
    modules: dict[str, ModuleFacts] = field(default_factory=dict)
    tools: dict[str, ToolFacts] = field(default_factory=dict)
    readers: dict[str, ReaderFacts] = field(default_factory=dict)
    options: tuple[str, ...] | None = None  # of lvs-toa.conf

    def wanted(self, depth: Depth) -> dict[str, Wanted]:
        """Return the listed files to read, with their limits."""
        found = {}
        for path in self.listed:
            if not path.startswith(_EVIDENCE):
                continue
            want = _of_boot(path) if depth >= Depth.BOOT else None
            if want or (depth >= Depth.MODULES and (want := _of_modules(path))):
                found[path] = want
        return found

    def add(self, path: str, data: bytes) -> None:
        """Read one file. Raises `Refused` for one that is damaged, or unpacks to more than its kind can have."""
        if _IMAGE.fullmatch(path):
            self.banners[path] = kernel_files.banner(data)
        elif _CONFIG.fullmatch(path):
            self.configs[path], self.config_texts[path] = kconfig.values(data.decode(errors="replace")), data
        elif _EXPORTS.fullmatch(path):
            self.exports[path] = kernel_files.parse_symvers(_unpacked(data, path, _TEXT_MOST), path)
        elif _MAP.fullmatch(path):
            self.mapped[path] = tuple(match.decode() for match in dict.fromkeys(_IN_MAP.findall(data)))
        elif _MODULE.fullmatch(path):
            self.modules[path] = module_facts.read(_unpacked(data, path, _MODULE_MOST), path)
        elif _TOOLS.fullmatch(path) and (tool := tool_facts.read_tool(data, path)):
            self.tools[path] = tool
        elif _READER.fullmatch(path) and (reader := tool_facts.read_reader(data, path)):
            self.readers[path] = reader
        elif path == _SETTINGS:
            self.options = tuple(tool_facts.configured(data.decode(errors="replace")))

    @cached_property
    def _places(self) -> tuple[tuple[str, str, str], ...]:
        """Kernel, place and path of each listed file of a kernel; the place is empty for all but modules."""
        found = []
        for path in self.listed:
            if path.startswith(_KERNELS):
                if match := _LISTED.fullmatch(path):
                    found.append((match["kernel"], match["place"], path))
                elif match := next((match for pattern in _BOOT if (match := pattern.fullmatch(path))), None):
                    groups = match.groupdict()
                    found.append((groups.get("boot") or groups["kernel"], "", path))
        return tuple(found)

    @cached_property
    def _modules(self) -> Mapping[str, list[str]]:
        """The paths of listed modules by name."""
        found: dict[str, list[str]] = {}
        for _, place, path in self._places:
            if place:
                found.setdefault(place.rpartition("/")[2].replace("-", "_"), []).append(path)
        return found

    @property
    def kernels(self) -> tuple[str, ...]:
        """The releases of kernels that the paths name."""
        return tuple(sorted({kernel for kernel, _, _ in self._places}))

    @property
    def has_image(self) -> bool:
        """Whether a boot image is listed."""
        return any(_IMAGE.fullmatch(path) or _PLAIN_IMAGE.fullmatch(path) for path in self.listed)

    @property
    def has_tree(self) -> bool:
        """Whether modules are listed where only a kernel's own are."""
        return any(place.startswith("kernel/") for _, place, _ in self._places)

    @property
    def has_modules(self) -> bool:
        """Whether modules are listed."""
        return any(place for _, place, _ in self._places)

    @property
    def config(self) -> Mapping[str, str] | None:
        """The kernel's configuration, if one was read."""
        return next(iter(self.configs.values()), None)

    def listed_modules(self, name: str) -> list[str]:
        """Return the paths of modules of a name."""
        return sorted(self._modules.get(name, ()))

    @property
    def unread_toa(self) -> list[str]:
        """The paths of modules with TOA in their names that were not read, such as links."""
        called = (paths for name, paths in self._modules.items() if _TOA_NAME.fullmatch(name))
        return sorted(path for paths in called for path in paths if path not in self.modules)

    @property
    def exported(self) -> tuple[str, str]:
        """A symbol that only a director's image exports, and its file; empty without one."""
        rows = ((name, path) for path, table in self.exports.items() for name in table if name.startswith(_BY_EXPORT))
        return next(rows, ("", ""))


def _of_boot(path: str) -> Wanted | None:
    if path.count("/") > _DEEPEST:
        return None
    if _IMAGE.fullmatch(path):
        return Wanted(_IMAGE_BEGINNING, part=True)
    if _CONFIG.fullmatch(path) or _EXPORTS.fullmatch(path):
        return Wanted(_TEXT_MOST)
    return Wanted(_MAP_MOST) if _MAP.fullmatch(path) else None


def _of_modules(path: str) -> Wanted | None:
    name = module_facts.normalized(path) if "ip_vs" in path or "ip-vs" in path or "toa" in path.lower() else ""
    if (name == "ip_vs" or _TOA_NAME.fullmatch(name)) and _MODULE.fullmatch(path):
        return Wanted(_MODULE_MOST)
    if path.startswith(_KERNELS):
        return None
    if _TOOLS.fullmatch(path) or _READER.fullmatch(path):
        return Wanted(_PROGRAM_MOST)
    return Wanted(_SETTINGS_MOST) if path == _SETTINGS else None


def is_boot_file(path: str) -> bool:
    """Return whether a path is that of a file of /boot, or its copy, which is evidence and must be a regular one."""
    return _of_boot(path) is not None


def joined(parts: Iterable[Contents]) -> Contents:
    """Return the contents of several packages as of one."""
    parts = list(parts)
    whole = Contents(frozenset().union(*(part.listed for part in parts)), next((part.arch for part in parts), ""))
    for part in parts:
        for name in ("configs", "config_texts", "banners", "exports", "mapped", "modules", "tools", "readers"):
            getattr(whole, name).update(getattr(part, name))
        whole.options = part.options if part.options is not None else whole.options
    return whole


def _unpacked(data: bytes, path: str, most: int) -> bytes:
    return decompression.unpacked(data, path, decompression.soon(most))
