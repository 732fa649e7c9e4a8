"""Resolve the shared libraries of programs, transitively, out of a root file system such as a builder image's.

Runs neither the programs nor their loader. Must not know what the programs are for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from posixpath import normpath

from pipeline.errors import Refused
from pipeline.formats import elf

# Where Debian's loader looks without a cache, in its order. `ld.so --help` prints them.
LIBRARY_DIRECTORIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib", "usr/lib")
_MAX_LINKS = 40  # symbolic links followed to one file, as the kernel's MAXSYMLINKS


def required_libraries(given: Mapping[str, bytes], rootfs: Path | None) -> dict[str, bytes]:
    """Return the loaders and libraries that the programs among the `given` files (path: content) need, by path.

    Paths are relative to the root; a loader without a cache finds the returned files there. The result leaves out
    `given` files. Raises `Refused` for a missing library, and for dynamic programs without a `rootfs`.
    """
    found: dict[str, bytes] = {}
    own = {PurePosixPath(path).name for path in given}  # a loader that is there already serves as library too
    todo = [(path, data) for path, data in sorted(given.items()) if elf.is_elf(data)]
    while todo:
        path, data = todo.pop(0)
        dynamic = elf.program(data, path)
        wanted = [dynamic.loader.lstrip("/")] if dynamic.loader else []
        own |= {PurePosixPath(path).name for path in wanted}
        wanted += [_library(name, path, dynamic.paths, rootfs) for name in dynamic.needed if name not in own]
        for file in wanted:
            if file not in found:
                found[file] = _content(file, path, rootfs)
                todo.append((file, found[file]))
    return found


def resolve_in_root(rootfs: Path, path: str) -> Path:
    """Resolve `path` inside a root file system, with its own links: `/lib` is not the host's.

    Raises `Refused` for a cycle of links.
    """
    here, parts, links = rootfs, [part for part in path.split("/") if part], 0
    while parts:
        part = parts.pop(0)
        if part == "..":
            here = here if here == rootfs else here.parent
        elif part != "." and (here / part).is_symlink():
            links += 1
            if links > _MAX_LINKS:
                raise Refused(f"{path} leads nowhere: too many links", where=str(rootfs))
            target = str((here / part).readlink())
            here = rootfs if target.startswith("/") else here
            parts = [*(word for word in target.split("/") if word), *parts]
        elif part != ".":
            here = here / part
    return here


def _library(name: str, program: str, paths: Iterable[str], rootfs: Path | None) -> str:
    """Return a library's path: the first directory of the program's own and the loader's that has the file."""
    if "/" in name:
        return name.lstrip("/")
    origin = f"/{PurePosixPath(program).parent}"
    own = [normpath(path.replace("${ORIGIN}", origin).replace("$ORIGIN", origin)).lstrip("/") for path in paths]
    for place in (*own, *LIBRARY_DIRECTORIES):
        if rootfs is not None and resolve_in_root(rootfs, f"{place}/{name}").is_file():
            return f"{place}/{name}"
    return f"{LIBRARY_DIRECTORIES[0]}/{name}"


def _content(file: str, program: str, rootfs: Path | None) -> bytes:
    if rootfs is None or not resolve_in_root(rootfs, file).is_file():
        where = "no root file system was given to take it from" if rootfs is None else "it has none"
        what = f"/{program} needs /{file}"
        raise Refused(what, where=str(rootfs or ""), why=where, hint="install its package in the builder image")
    return resolve_in_root(rootfs, file).read_bytes()
