"""Run `inv image`: make a missing builder image, and describe it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.config.context import RunContext
from pipeline.core.console import human_bytes
from pipeline.core.trees import usage
from pipeline.packaging import inventory
from pipeline.sandbox.images import Image


def have(make: Callable[[], Image], context: RunContext, *, fresh: bool) -> dict[str, Any]:
    """Return the image that `make` returns, after printing it; as `--json` prints it.

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
    return {
        "image": image.name,
        "key": image.key,
        "directory": str(place),
        "packages": packages,
        "package_list": str(image.packages),
        "bytes": size,
        "made": made,
        "superseded": [{"key": other.key, "directory": str(other.path)} for other in others],
    }
