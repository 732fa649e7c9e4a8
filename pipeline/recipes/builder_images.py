"""Which builder image a line's builds run in, made when it is not there. Knows no recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.config.context import RunContext
from pipeline.config.line_checks import required
from pipeline.errors import HostLacks, UsageError
from pipeline.sandbox import images

if TYPE_CHECKING:
    from pipeline.config.line_model import Line
    from pipeline.sandbox.centos6_image import CentosRecipe

DEBIAN, CENTOS = "debian12", "centos6"
AUTO = "auto"


def builder(context: RunContext, usable: Sequence[str], *, fresh: bool = False) -> images.Image:
    """The image asked for by the settings, which must be among `usable`; for `auto` the first that can run here.

    Raises `UsageError` for an image that the line is not built in, and what making it raises.
    """
    asked = context.settings.image
    check_image(asked, usable)
    if asked == AUTO:
        return _automatic(context, usable, fresh)
    try:
        return _MAKERS[asked](context, fresh)
    except HostLacks as lacking:
        if asked == CENTOS and DEBIAN in usable:
            lacking.hint = f"{lacking.hint}; or --image {DEBIAN}, which needs no engine"
        raise


def check_image(asked: str, usable: Sequence[str]) -> None:
    """Raises `UsageError` for an image that the line is not built in."""
    if asked not in (AUTO, *usable):
        hint = f"--image {usable[-1]}, or without the option: the first that runs here"
        raise UsageError(f"this line is not built in {asked}", why=f"its images: {', '.join(usable)}", hint=hint)


def _automatic(context: RunContext, usable: Sequence[str], fresh: bool) -> images.Image:
    if CENTOS in usable:
        try:
            return _centos(context, fresh)
        except HostLacks as lacking:
            context.console.note(
                f"builds run in {DEBIAN}, with our toolchain wrapper: {CENTOS} cannot run: {lacking.what}"
            )
    return _debian(context, fresh)


def _debian(context: RunContext, fresh: bool) -> images.Image:
    from pipeline.config import line_loader
    from pipeline.core import templates
    from pipeline.host import programs
    from pipeline.sources import apt, openpgp
    from pipeline.sources.resolver import Sources

    settings, console = context.settings, context.console
    packages = images.package_list(templates.render(f"containers/{DEBIAN}/packages.j2"))
    # Whichever line is built: one image serves all of them, and a line's own suites are where its sources come from.
    line: Line = line_loader.load("lts61")
    debian = required(line.data.debian, "[debian]")
    asked = images.DebianRecipe(DEBIAN, packages, dict.fromkeys(debian.suites, ""), b"")
    known = None if fresh else images.kept(asked, settings.artifacts / "images")
    if known is not None:
        return known
    programs.ensure({"build"}, console)
    archives = apt.archive_addresses(debian.suites, settings.debian_mirror, ())
    ring = openpgp.keyring(Sources(line, settings, console).public_keys(debian.keyring))
    recipe = images.DebianRecipe(DEBIAN, packages, archives, ring)
    return images.debian_image(recipe, settings.artifacts / "images", console, offline=settings.offline, fresh=fresh)


def _centos(context: RunContext, fresh: bool) -> images.Image:
    from pipeline.sandbox import centos6_image
    from pipeline.sandbox.choice import engine

    settings = context.settings
    recipe = centos_recipe(settings.centos_base or centos6_image.BASE)
    centos6_image.check_vsyscall(recipe.base)  # of an image that is there too: the host may have been started otherwise
    root = settings.artifacts / "images"
    known = None if fresh else images.kept_as(CENTOS, recipe.request, root)
    if known is not None:
        return known
    return centos6_image.centos6_image(recipe, engine(), root, context.console, offline=settings.offline, fresh=fresh)


def centos_recipe(base: str) -> CentosRecipe:
    """The CentOS 6 builder's rendered files."""
    from pipeline.core import templates
    from pipeline.sandbox import centos6_image

    directory = f"containers/{CENTOS}"
    requires = images.package_list(templates.render(f"{directory}/requires.j2"))
    given = centos6_image.variables(requires, base)
    files = {name: templates.render(f"{directory}/{name}.j2", **given) for name in ("Dockerfile", "vault.repo")}
    return centos6_image.CentosRecipe(base, files, requires)


_MAKERS = {DEBIAN: _debian, CENTOS: _centos}
