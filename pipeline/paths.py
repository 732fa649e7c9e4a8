"""Where the project's own data lives: beside the package in a checkout, inside it when installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def data_root() -> Path:
    """The directory that holds `lines/`, `patches/`, `specs/` and `containers/`."""
    checkout = PACKAGE.parent
    return checkout if (checkout / "lines" / "el6.toml").is_file() else PACKAGE / "_data"


def lines_dir() -> Path:
    """The line files that come with the project."""
    return data_root() / "lines"


def patches_dir() -> Path:
    """The series files that come with the project, one directory per line."""
    return data_root() / "patches"
