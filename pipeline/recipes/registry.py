"""Find the recipe that a line file names. A recipe is imported when a line of it is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.config import line_loader
from pipeline.config.line_checks import Found
from pipeline.config.line_model import BuildSpec, Line
from pipeline.recipes.base import Recipe


def _redhat_srpm(build: BuildSpec) -> Recipe:
    from pipeline.recipes.el6.recipe import RedhatSrpm

    return RedhatSrpm(build)


def _debian_tarball(build: BuildSpec) -> Recipe:
    from pipeline.recipes.debian.recipe import DebianTarball

    return DebianTarball(build)


# The name in a line file, and what makes the recipe out of the line's [build] table.
RECIPES: Mapping[str, Callable[[BuildSpec], Recipe]] = {
    "debian-tarball": _debian_tarball,
    "redhat-srpm": _redhat_srpm,
}


def recipe(line: Line) -> Recipe:
    """Return the recipe of a line, validated.

    Raises `FileProblems` with every mistake of the line file.
    """
    build = line.data.build
    known = ", ".join(RECIPES)
    if build is None:
        missing: Found = (("build",), "the line says nothing of its build", f"a [build] table; recipes: {known}")
        raise line_loader.refusal(line, [missing])
    if build.recipe not in RECIPES:
        raise line_loader.refusal(line, [(("build", "recipe"), f"no recipe {build.recipe!r}", known)])
    found = RECIPES[build.recipe](build)
    found.validate(line)
    return found
