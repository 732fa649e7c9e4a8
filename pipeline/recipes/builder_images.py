"""Choose the builder image of a line's builds, and make a missing one. Knows no recipe."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.config import image_file
from pipeline.config.context import RunContext
from pipeline.config.image_file import CentosImage, DebianImage
from pipeline.core.suggestion import unknown
from pipeline.errors import HostLacks
from pipeline.sandbox import images
from pipeline.sandbox.runtime import Image

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.sandbox.centos6_image import CentosRecipe

AUTO = "auto"


def builder(context: RunContext, usable: Sequence[str], *, fresh: bool = False) -> Image:
    """Return the image requested by the settings, which must be in `usable`; for `auto` the first that can run here.

    A dry run makes none: a missing image is returned without a key.
    Raises `UsageError` for an image that the line is not built in, and what making it raises.
    """
    requested = context.settings.image
    check_image(requested, usable)
    if requested == AUTO:
        return _automatic(context, usable, fresh)
    try:
        return _image(context, requested, fresh)
    except HostLacks as lacking:
        others = [name for name in usable if name != requested and isinstance(image_file.load(name), DebianImage)]
        if others:
            lacking.hint = f"{lacking.hint}; or --image {others[0]}, which needs no engine"
        raise


def check_image(requested: str, usable: Sequence[str]) -> None:
    """Raise `UsageError` for an image that the line is not built in."""
    if requested not in (AUTO, *usable):
        hint = f"--image {usable[-1]}, or without the option: the first that runs here"
        raise unknown("image of this line", requested, (*usable, AUTO), hint=hint)


def _automatic(context: RunContext, usable: Sequence[str], fresh: bool) -> Image:
    for name, following in itertools.pairwise(usable):
        try:
            return _image(context, name, fresh)
        except HostLacks as lacking:
            context.console.note(f"builds run in {following}: {name} cannot run: {lacking.what}")
    return _image(context, usable[-1], fresh)


def _image(context: RunContext, name: str, fresh: bool) -> Image:
    found = image_file.load(name)
    if isinstance(found, DebianImage):
        return _debian(context, name, found, fresh)
    return _centos(context, name, found, fresh)


def debian_request(name: str, image: DebianImage) -> images.DebianRecipe:
    """Return the identity of a Debian image: its packages and suites, independent of archive and keys."""
    from pipeline.core import templates

    packages = images.package_list(templates.render(f"containers/{name}/packages.j2"))
    return images.DebianRecipe(name, packages, dict.fromkeys(image.debian.suites, ""), b"")


def _debian(context: RunContext, name: str, image: DebianImage, fresh: bool) -> Image:
    settings, console = context.settings, context.console
    requested = debian_request(name, image)
    known = None if fresh else images.cached_image(requested, settings.artifacts / "images")
    if known is not None:
        return known
    if settings.dry_run:
        return _planned(name, settings.artifacts / "images")
    from pipeline.host import programs
    from pipeline.sources import apt, openpgp, public_keys
    from pipeline.sources.store import Store

    programs.ensure({"build"}, console)
    archives = apt.archive_addresses(image.debian.suites, settings.debian_mirror, ())
    ring = openpgp.keyring(public_keys.of_image(image, Store(settings.store, console.warn), settings, console))
    recipe = replace(requested, archives=archives, keyring=ring)
    return images.debian_image(recipe, settings.artifacts / "images", console, offline=settings.offline, fresh=fresh)


def _centos(context: RunContext, name: str, image: CentosImage, fresh: bool) -> Image:
    from pipeline.sandbox import centos6_image
    from pipeline.sandbox.choice import first_engine

    settings = context.settings
    recipe = centos_recipe(name, image, settings.centos_base or image.base)
    centos6_image.check_vsyscall(recipe)  # of an image that is there too: the host may have been started otherwise
    root = settings.artifacts / "images"
    known = None if fresh else images.cached_image_for(name, recipe.request, root)
    if known is not None:
        return known
    engine = first_engine()
    if settings.dry_run:
        return _planned(name, root)
    return centos6_image.centos6_image(recipe, engine, root, context.console, offline=settings.offline, fresh=fresh)


def _planned(name: str, root: Path) -> Image:
    """Return the image that a dry run would make; its key is known only when it is made."""
    return Image(name, "", root / name, root / name)


def centos_recipe(name: str, image: CentosImage, base: str) -> CentosRecipe:
    """Return the CentOS 6 builder's rendered files."""
    from pipeline.core import templates
    from pipeline.sandbox import centos6_image

    directory = f"containers/{name}"
    requires = images.package_list(templates.render(f"{directory}/requires.j2"))
    given = centos6_image.variables(requires, base, image.vault)
    files = {file: templates.render(f"{directory}/{file}.j2", **given) for file in ("Dockerfile", "vault.repo")}
    return centos6_image.CentosRecipe(name, base, image.without_vsyscall, files, requires)
