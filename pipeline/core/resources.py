"""Where the project's own data lives: beside the package in a checkout, inside it when installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def data_root() -> Path:
    """The directory that holds `lines/`, `patches/`, `specs/` and `containers/`."""
    checkout = PACKAGE.parent
    return checkout if (checkout / "inv").is_file() else PACKAGE / "_data"


def lines_dir() -> Path:
    """The line files that come with the project."""
    return data_root() / "lines"


def locks_dir() -> Path:
    """Where pins of the project's own lines are written: the checkout, or where an installed program is used."""
    return Path.cwd() if lines_dir().is_relative_to(PACKAGE) else lines_dir()


def patches_dir() -> Path:
    """The series files that come with the project, one directory per line."""
    return data_root() / "patches"


def specs_dir() -> Path:
    """RPM spec templates and kernel configurations, one directory per line."""
    return data_root() / "specs"


def containers_dir() -> Path:
    """What builder images are made of, one directory per image."""
    return data_root() / "containers"
