"""Tell which settings name a place of this host, by what the table of settings says of each, and which place.

Must not guess from a text: an image, an address for clients and the options of a program have slashes too.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.config.settings import ROWS, PathRule, Setting, Settings
from pipeline.core import rsync
from pipeline.sources.transport import local_path

FINGERPRINT = re.compile(r"(0x)?[0-9A-Fa-f ]{8,}!?")
_DEVELOPMENT = "development"  # a key that has a name in place of a file


def named(settings: Settings) -> Iterator[tuple[Setting, Path]]:
    """Yield the paths that settings name, each with its row of the table; the artifacts apart."""
    for row in ROWS:
        if row.name != "artifacts":
            for text in _texts(getattr(settings, row.attribute)):
                if (path := path_of(row, text)) is not None:
                    yield row, path


def path_of(row: Setting, text: str) -> Path | None:
    """Return the path that a value of the row names; None for one that is no path, or on another host."""
    return _RULES[row.path](text) if row.path else Path(text) if row.kind == "path" else None


def absolute(settings: Settings) -> Settings:
    """Return the settings with whole paths, for who has another working directory, or another home.

    A command stays as it is: its options are nobody's to write anew.
    """
    changes: dict[str, Any] = {}
    for row in ROWS:
        value = getattr(settings, row.attribute)
        if isinstance(value, Path):
            changes[row.attribute] = value.absolute()
        elif row.path:
            whole = tuple(_whole(row, text) for text in _texts(value))
            changes[row.attribute] = whole if row.kind == "list" else "".join(whole)
    return replace(settings, **changes)


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, tuple) else (value,)
    return [str(each) for each in values if isinstance(each, str | Path) and str(each)]


def _whole(row: Setting, text: str) -> str:
    path = path_of(row, text)
    return text if path is None or "://" in text or row.path == "program" else str(path.absolute())


def _of_url(text: str) -> Path | None:
    return local_path(text) if "://" in text else None


def _of_mirror(text: str) -> Path | None:
    return _of_url(text) if "://" in text else Path(text)


def _of_store(text: str) -> Path | None:
    return None if "://" in text or rsync.is_remote(text) else _at_home(text)


def _of_key(text: str) -> Path | None:
    return None if text == _DEVELOPMENT or FINGERPRINT.fullmatch(text) else _at_home(text)


def _at_home(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # nobody has that home
        return Path(text)


def _of_program(text: str) -> Path | None:
    """Return the program's path; None for one that is looked for in PATH."""
    try:
        program = shlex.split(text)[0]
    except (ValueError, IndexError):  # no words of a shell: the run says so
        return None
    return Path(program) if "/" in program else None


_RULES: Mapping[PathRule, Callable[[str], Path | None]] = {
    "url": _of_url,
    "mirror": _of_mirror,
    "store": _of_store,
    "key": _of_key,
    "program": _of_program,
}
