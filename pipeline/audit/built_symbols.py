"""Find which compiled sources a module was made of, and which built file of a package defines a symbol.

By the content of kernels and modules, and by Kbuild's rules where that does not say.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import manifest
from pipeline.core.fs import read_limited
from pipeline.formats import decompression, rpm_payload
from pipeline.formats.elf_object import FILE_SYMBOL, Object
from pipeline.formats.rpm_payload import Wanted

_MODULE = re.compile(r"(?:/usr)?/lib/modules/[^/]+/(?:kernel/)?(?P<place>.*?)/?(?P<name>[^/]+)\.ko(?:\.(?:gz|xz|zst))?")
_MAP = re.compile(r"/boot/System\.map-[^/]+")
_MODULE_MOST, _MAP_MOST, _TEXT_MOST = 64 << 20, 32 << 20, 8 << 20  # bytes
_UNITS = (".c", ".S")


@dataclass(frozen=True)
class Built:
    """A built file that defines a symbol; `data` is a module's content, None for the boot image's map."""

    path: str
    data: bytes | None


def is_module(path: str) -> bool:
    """Return whether a path is that of a kernel's module."""
    return _MODULE.fullmatch(path) is not None


def is_called(path: str, wanted: str) -> bool:
    """Return whether a packaged file is the wanted one: by its path, a module also by its name, compressed or not."""
    name = posixpath.basename(path)
    return path == wanted or (is_module(path) and wanted in (name, f"{name.partition('.ko')[0]}.ko"))


def near(modules: Collection[str], source: str) -> list[str]:
    """Return the modules of a source's directory, or all where none is of a kernel's directories."""
    places = {path: match["place"] for path in modules if (match := _MODULE.fullmatch(path))}
    here = [path for path, place in places.items() if place == posixpath.dirname(source)]
    return here if here or any("/kernel/" in path for path in modules) else list(modules)


def sources_of(
    path: str, data: bytes | None, compiled: Collection[str], packaged: Collection[str]
) -> tuple[list[str], str]:
    """Return the compiled sources of the module at `path`, and how that is known.

    `data` is its content, None where it was not read, `compiled` are the paths that its step compiled, `packaged` those
    of its package. A module is made of the file with
    its name, or of several of which none has it: Documentation/kbuild/makefiles.rst, 3.3.
    """
    match = _MODULE.fullmatch(path)
    place, name = (match["place"], match["name"]) if match else ("", "")
    all_units = [unit for unit in compiled if unit.endswith(_UNITS) and not unit.endswith(".mod.c")]
    units = [unit for unit in all_units if posixpath.dirname(unit) == place] or all_units
    symbols = Object(data, path).symbols if data is not None else ()
    stated = {symbol.name for symbol in symbols if symbol.kind == FILE_SYMBOL}
    if found := sorted(unit for unit in units if posixpath.basename(unit) in stated):
        return found, "by the names of files in its symbol table"
    if own := sorted(unit for unit in units if posixpath.basename(unit) == f"{name}.c"):
        return own, "by Kbuild's rule: it has the module's name"
    others = {f"{other['name']}.c" for row in packaged if (other := _MODULE.fullmatch(row)) and row != path}
    rest = sorted(unit for unit in units if posixpath.basename(unit) not in others)
    return rest, "compiled in its directory, and no other module has their names; the build records no more"


def read_module(package: Path, path: str) -> bytes:
    """Return the uncompressed content of a module in a package. Raises `Refused`."""
    with rpm_payload.opened(package) as opened:
        for _, data in opened.read_few({path: Wanted(_MODULE_MOST)}):
            return _unpacked(data, path)
    return b""


def defining(package: Path, symbol: str) -> list[Built]:
    """Return the files of a package that define a symbol: its System.map, else modules. Raises `Refused`."""
    found = []
    with rpm_payload.opened(package) as opened:
        maps = {path: Wanted(_MAP_MOST) for path in opened.files if _MAP.fullmatch(path)}
        for path, text in opened.read_few(maps):
            if _is_in_map(symbol, text):
                return [Built(path, None)]
        modules = {path: Wanted(_MODULE_MOST) for path in opened.files if is_module(path)}
        for path, packed in opened.read(modules, whole=False) if modules else ():
            data = _unpacked(packed, path)
            if symbol.encode() in data and any(
                row.name == symbol and row.section for row in Object(data, path).symbols
            ):
                found.append(Built(path, data))
    return found


def _is_in_map(symbol: str, data: bytes) -> bool:
    line = rb"^[0-9a-f]+ [A-Za-z] " + symbol.encode() + rb"$"
    return symbol.encode() in data and re.search(line, data, re.MULTILINE) is not None


def lines_of(trees: Path, sources: Collection[str], path: str, symbol: str) -> list[int]:
    """Return the lines of a pristine source that begin as a definition of the symbol does; none without the source.

    `trees` are those kept below artifacts; only one that came out of a source with a digest in `sources` counts.
    """
    word = re.compile(rf"(?:[A-Za-z_][\w \t*]*)?\b{symbol}\b(?!.*;\s*$)|#\s*define\s+{symbol}\b")
    for place in sorted(trees.glob("*/files")):
        with contextlib.suppress(OSError, ValueError):
            if manifest.about(place.parent).get("source") not in sources or not (place / path).is_file():
                continue
            text = read_limited(place / path, _TEXT_MOST).decode(errors="replace")
            return [number for number, line in enumerate(text.splitlines(), 1) if word.match(line)]
    return []


def _unpacked(data: bytes, path: str) -> bytes:
    return decompression.unpacked(data, path, decompression.soon(_MODULE_MOST))
