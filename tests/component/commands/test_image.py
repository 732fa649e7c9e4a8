"""`inv image`: the image is made or was there, and what is in it; those that it took the place of are named."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands import image as imaging
from pipeline.config.context import RunContext
from pipeline.config.settings import load
from pipeline.core.console import Console
from pipeline.core.decoder import encode
from pipeline.sandbox.runtime import Image
from tests.fixtures.built import Built

OLD, NEW = "a" * 16, "b" * 16


@pytest.fixture
def built(tmp_path: Path) -> Built:
    return Built(tmp_path / "artifacts")


def having(built: Built, make: Callable[[], Path], *, fresh: bool = False) -> tuple[dict[str, Any], str]:
    """What `inv image` returns and says when `make` is what makes an image, or finds it."""
    out = io.StringIO()

    def image() -> Image:
        place = make().resolve()
        return Image("debian12", place.name, place / "rootfs", place / "packages.json")

    settings = load({"artifacts": str(built.artifacts)}, {})
    found = imaging.have(image, RunContext(settings, Console(out=out)), fresh=fresh)
    return encode(found), out.getvalue()


def test_an_image_that_is_made_is_told_with_key_place_packages_and_size(built: Built) -> None:
    data, text = having(built, lambda: built.image("debian12", NEW, link="asked", size=1 << 20))
    place = built.artifacts / "images" / "debian12" / NEW
    assert data.keys() == {"image", "key", "directory", "packages", "package_list", "bytes", "made", "superseded"}
    assert (data["image"], data["key"], data["made"], data["packages"]) == ("debian12", NEW, True, 2)
    assert (data["directory"], data["package_list"]) == (str(place), str(place / "packages.json"))
    assert data["bytes"] > 1 << 20 and data["superseded"] == []
    assert text.startswith("made now\n")
    for told in (NEW, str(place), f"2, listed in {place}/packages.json", "1.0 MiB"):
        assert told in text


def test_an_image_that_is_there_is_said_to_be_there(built: Built) -> None:
    place = built.image("debian12", NEW, link="asked")
    data, text = having(built, lambda: place)
    assert data["made"] is False and text.startswith("it is there\n")


def test_an_image_made_anew_of_the_same_packages_is_the_one_that_was_there(built: Built) -> None:
    place = built.image("debian12", NEW, link="asked")
    data, text = having(built, lambda: place, fresh=True)
    assert data["made"] is False and text.startswith("made anew, with the same packages as before\n")


def test_images_that_were_superseded_are_named_with_what_removes_them(built: Built) -> None:
    old = built.image("debian12", OLD, link="asked")
    built.image("centos6", "c" * 16, link="asked")
    data, text = having(built, lambda: built.image("debian12", NEW, link="asked"), fresh=True)
    assert data["superseded"] == [{"key": OLD, "directory": str(old)}]
    assert f"superseded: {OLD} (" in text and "`./inv clean old` removes it" in text and "c" * 16 not in text
