"""Read what a builder image is made from: `containers/NAME/image.toml`, typed; its templates lie beside.

An image owns the suites and archive keys that it is made with, independent of lines. Must not know how an image is
made.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from pipeline.config.line_model import Debian, Key
from pipeline.config.line_values import Model, Name, Table, pattern
from pipeline.core import fs, resources
from pipeline.core.suggestion import unknown
from pipeline.errors import FileProblems, Problem, UsageError

FILE = "image.toml"
LARGEST = 1 << 20  # bytes of such a file
_PINNED = pattern("image pinned by digest", r"\S+@sha256:[0-9a-f]{64}", "NAME@sha256:DIGEST")
_ADDRESS = pattern("address", r"https?://[\w.-]+(:\d+)?(/[\w./-]*)?", "http://HOST/PATH or https://HOST/PATH")


class DebianImage(Model):
    """An image that is installed from Debian's archive; the packages are listed in `packages.j2`."""

    kind: Literal["debian"]
    title: str
    debian: Debian
    keys: Table[Name, Key]


class CentosImage(Model):
    """An image that a container engine builds from `Dockerfile.j2`, and whose packages are in a vault.

    `without_vsyscall` is the same system with a C library that does not call into the vsyscall page; given with its
    digest as the setting centos-base.
    """

    kind: Literal["centos"]
    title: str
    base: Annotated[str, _PINNED]
    without_vsyscall: str
    vault: Annotated[str, _ADDRESS]


ImageFile = Annotated[DebianImage | CentosImage, Field(discriminator="kind")]


def load(name: str) -> DebianImage | CentosImage:
    """Read the file of the image called `name`.

    Raises `UsageError` when there is none and `FileProblems` with every mistake.
    """
    path = resources.containers_dir() / name / FILE
    if name not in resources.image_names():
        raise unknown("builder image", name, resources.image_names(), hint="./inv image")
    from pipeline.formats import toml_lines

    try:
        text = fs.read_limited(path, LARGEST).decode()
        raw = tomllib.loads(text)
    except ValueError as error:
        raise FileProblems(f"{path} is not TOML", [Problem(str(path), 1, str(error))]) from None
    try:
        found: DebianImage | CentosImage = TypeAdapter(ImageFile).validate_python(raw)
    except ValidationError as error:
        wrong = [(item["loc"][1:], item["msg"], "") for item in error.errors(include_url=False)]
    else:
        wrong = list(_unknown_keys(found))
        if not wrong:
            return found
    problems = []
    for place, message, allowed in wrong:
        what = f"{'.'.join(map(str, place)) or 'the file'}: {message}"
        problems.append(Problem(str(path), toml_lines.line_of(text, place), what, allowed))
    raise FileProblems(f"{len(problems)} mistake(s) in the file of the builder image {name}", problems)


def _unknown_keys(image: DebianImage | CentosImage) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    if isinstance(image, DebianImage):
        for index, key in enumerate(image.debian.keyring):
            if key not in image.keys:
                yield ("debian", "keyring", index), f"no key {key!r}", ", ".join(image.keys)


def debian(name: str) -> DebianImage:
    """Read the file of an image of Debian. Raises `UsageError` where it is of another kind."""
    found = load(name)
    if not isinstance(found, DebianImage):
        raise UsageError(f"the builder image {name}: not of Debian; expected kind debian, got {found.kind}")
    return found
