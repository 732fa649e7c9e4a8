"""Run `inv image`: make a missing builder image, and describe it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.context import RunContext
from pipeline.core.trees import usage
from pipeline.core.units import human_bytes
from pipeline.packaging import inventory
from pipeline.sandbox.runtime import Image


@dataclass(frozen=True)
class Superseded:
    """An older image of the same name."""

    key: str
    directory: Path


@dataclass(frozen=True)
class MadeImage:
    """A builder image; `package_list` is the file that lists its `packages`, `made`: this run made it."""

    image: str
    key: str
    directory: Path
    packages: int
    package_list: Path
    bytes: int
    made: bool
    superseded: tuple[Superseded, ...]


def have(make: Callable[[], Image], context: RunContext, *, fresh: bool) -> MadeImage:
    """Print and describe the image that `make` returns.

    `fresh`: it was made in any case, and may have turned out to be the one that was there.
    """
    artifacts, console = context.settings.artifacts, context.console
    before = {(image.name, image.key) for image in inventory.images(artifacts)}
    image = make()
    place = image.rootfs.parent
    made = (image.name, place.name) not in before
    packages, size = inventory.package_count(image.packages), usage(place)
    others = [
        other for other in inventory.images(artifacts) if other.name == image.name and other.path.resolve() != place
    ]
    rows = (
        ("image", image.name),
        ("key", image.key),
        ("directory", str(place)),
        ("packages", f"{packages}, listed in {image.packages}"),
        ("size", human_bytes(size)),
    )
    unchanged = "made anew, with the same packages as before" if fresh else "it is there"
    console.table(("what", "value"), rows, "made now" if made else unchanged)
    for other in others:
        console.say(f"superseded: {other.key} ({human_bytes(usage(other.path))}); `./inv clean old` removes it")
    superseded = tuple(Superseded(other.key, other.path) for other in others)
    return MadeImage(image.name, image.key, place, packages, image.packages, size, made, superseded)
