"""Replace patches and the series file of a line of the project, all at once or not at all.

The directory of the line is copied, changed, and exchanged with its copy by one system call. Must not know why a file
changes, nor what is in a patch.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.config.line_model import Line, Patch, ToolSeries
from pipeline.core import faults, fs, resources
from pipeline.errors import HostLacks, Refused, UsageError

SERIES = "series.toml"
Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Edit:
    """New files of a series directory, by their names in it, beside the bytes each has now."""

    old: Mapping[str, bytes]
    new: Mapping[str, bytes]


def directory(line: Line) -> Path:
    """Return the directory of the line's series. Raises `UsageError` for a line that has none in the project."""
    place = resources.patches_dir() / line.name
    if line.override is not None:
        raise UsageError(
            f"line {line.label}: its patches are those of {line.override.base}; expected a line of the project",
            why="they would be changed for the sources of the override",
            hint=f"./inv patches {line.override.base} --refresh",
        )
    if place / SERIES not in line.files:
        raise UsageError(
            f"line {line.name}: it has no {SERIES} in the project; expected {place / SERIES}",
            why="only patches of the project are made anew",
            hint="./inv lines",
        )
    return place


def edit(place: Path, files: Mapping[str, tuple[bytes, bytes]], values: Mapping[Key, str]) -> Edit:
    """Return the change of patches, (old, new) by name, and of texts in the series file, by key.

    Raises `Refused` for a series file that is not written in lines of its own.
    """
    from pipeline.formats import toml_lines

    text = (place / SERIES).read_bytes()
    try:
        edited = toml_lines.replace_texts(text.decode(), values)
    except ValueError as error:
        what = f"the series file cannot be edited: {error}"
        hint = 'write each digest as one line, KEY = "DIGEST"'
        raise Refused(what, where=str(place / SERIES), why="nothing else in it may change", hint=hint) from None
    old = {SERIES: text, **{name: pair[0] for name, pair in files.items()}}
    return Edit(old, {SERIES: edited.encode(), **{name: pair[1] for name, pair in files.items()}})


def edited_line(line: Line, place: Path) -> Line:
    """Return the line with the patches and the tools' series that the directory `place` has."""
    series = tomllib.loads((place / SERIES).read_text())
    patches = {name: Patch.model_validate(table) for name, table in series.get("patches", {}).items()}
    tools = {name: ToolSeries.model_validate(table) for name, table in series.get("tools", {}).items()}
    data = line.data.model_copy(update={"patches": patches, "tools": tools})
    return replace(line, data=data, files=(place / SERIES, *line.files))


def copy_changed(place: Path, edit: Edit, target: Path) -> Path:
    """Copy the directory to `target` with the change made. Raises `Refused` where a file is not as it was read."""
    shutil.copytree(place, target, symlinks=True)
    for name, data in edit.new.items():
        file = target / name
        if file.read_bytes() != edit.old[name]:
            what = f"{place / name}: it changed while the series was made anew"
            raise Refused(what, why="that change would be lost", hint="repeat the command")
        with fs.atomic(file, stat.S_IMODE(file.stat().st_mode)) as stream:
            stream.write(data)
    return target


def publish(place: Path, edit: Edit) -> None:
    """Put the changed directory in the place of the old one. Raises `Refused` as `copy_changed`, and `HostLacks`."""
    place = place.resolve()
    try:
        with fs.fresh(place.parent, ".refresh-") as beside:
            changed = copy_changed(place, edit, beside / place.name)
            faults.point("refresh.before-exchange")
            exchange(changed, place)
            faults.point("refresh.after-exchange")
    except OSError as error:
        what = f"the patches cannot be replaced: {error.strerror}"
        hint = "use a checkout that you can write, on a file system that can exchange two directories"
        raise HostLacks(what, where=str(place), why="all files are replaced at once, or none", hint=hint) from None


def exchange(one: Path, other: Path) -> None:
    """Exchange two paths of one file system by one renameat2(2): at no time is either missing.

    Raises `OSError`, EINVAL from a file system that cannot do it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(one))


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # fcntl.h and linux/fs.h
