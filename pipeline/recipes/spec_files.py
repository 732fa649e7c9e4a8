"""Find a line's spec templates and files: its own before its recipe's, and those before the common ones.

A line file outside the project may bring its own. A template of it is rendered in a sandbox, since templates are
programs and a line file is data. Must not know any line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from pipeline.config.line_model import BuildSpec, Line, required
from pipeline.core import fs, resources, templates
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.config.line_checks import Found

LARGEST = 4 << 20  # bytes of one file
COMMON = "common"


@dataclass(frozen=True)
class SpecFiles:
    """Directories below `specs/` by name, the first that has a file wins. `own` holds the first of them, if any."""

    names: tuple[str, ...]
    own: Path | None = None

    def text(self, name: str) -> str:
        """Return the text of a file, unrendered. Raises `UsageError` when no directory has it."""
        return fs.read_limited(self._place(name), LARGEST).decode()

    def has(self, name: str) -> bool:
        """Return whether a directory has the file."""
        return any((place / name).is_file() for place in self.places())

    def path(self, name: str) -> Path:
        """Return the file called `name`, such as `config/base.config`. Raises `UsageError` without one."""
        return self._place(name)

    def below(self, directory: str) -> dict[str, str]:
        """Return the texts of all files below a directory by path; the first directory wins."""
        found: dict[str, str] = {}
        for place in self.places():
            top = place / directory
            for path in sorted(path for path in top.rglob("*") if path.is_file()):
                found.setdefault(str(path.relative_to(top)), fs.read_limited(path, LARGEST).decode())
        return dict(sorted(found.items()))

    def render(self, name: str, /, **variables: Any) -> str:
        """Render the template `name`, such as `kernel.spec`, with `variables`. Raises as `templates.render` does."""
        place = self._place(f"{name}.j2")
        directory = next(part for part, root in self._roots() if place == root / f"{name}.j2")
        own = None if self.own is None else templates.OwnSpecs(self.own, self.names[0])
        return templates.render(f"specs/{directory}/{name}.j2", own, **variables)

    def _roots(self) -> Iterator[tuple[str, Path]]:
        if self.own is not None:
            yield self.names[0], self.own / self.names[0]
        yield from ((name, resources.specs_dir() / name) for name in self.names)

    def places(self) -> Iterator[Path]:
        """Return the directories in search order."""
        return (root for _, root in self._roots())

    def _place(self, name: str) -> Path:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UsageError(f"{name}: not a file of the line's specs; expected a path below specs/")
        places = [root / name for root in self.places()]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise UsageError(
                f"specs: no file {name}; expected one in {', '.join(str(place.parent) for place in places)}",
                hint="docs/lines.md says which files a recipe reads",
            )
        return found


@dataclass(frozen=True)
class BuildTarget:
    """The target of a line's packages: its name in them, its `[build]` table and its spec files."""

    line: str
    build: BuildSpec
    files: SpecFiles


def target(line: Line) -> BuildTarget:
    """Return the target of a line. Raises `UsageError` for one without `[build]`."""
    build = required(line.data.build, "[build]")
    own = line.own_specs if line.own_specs and (line.own_specs / build.specs).is_dir() else None
    return BuildTarget(line.base, build, SpecFiles((build.specs, build.recipe, COMMON), own))


def lacking(line: Line, names: Iterable[str]) -> Iterator[Found]:
    """Return the files of a recipe that a line lacks."""
    there = target(line)
    places = ", ".join(str(place) for place in there.files.places())
    for name in names:
        if not there.files.has(name):
            yield ("build", "specs"), f"the specs {there.build.specs} lack {name}", f"a file in {places}"
