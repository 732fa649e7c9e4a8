"""Find the project's own data: beside the package in a checkout, inside it when installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def data_root() -> Path:
    """Return the directory of `lines/`, `patches/`, `specs/`, `containers/` and `ci/`."""
    checkout = PACKAGE.parent
    return checkout if (checkout / "inv").is_file() else PACKAGE / "_data"


def lines_dir() -> Path:
    """Return the directory of the project's line files."""
    return data_root() / "lines"


def line_names() -> list[str]:
    """Return the names of the project's lines."""
    return sorted(p.stem for p in lines_dir().glob("*.toml") if not p.name.endswith(".lock.toml"))


def default_line() -> str:
    """Return the name of the line that is meant where none is named, as shipped."""
    return (lines_dir() / "default").read_text().strip()


def locks_dir() -> Path:
    """Return the directory for lock files of the project's lines: the checkout, or the current one when installed."""
    return Path.cwd() if lines_dir().is_relative_to(PACKAGE) else lines_dir()


def patches_dir() -> Path:
    """Return the directory of the project's series files, one directory per line."""
    return data_root() / "patches"


def specs_dir() -> Path:
    """Return the directory of RPM spec templates and kernel configurations, one directory per line."""
    return data_root() / "specs"


def containers_dir() -> Path:
    """Return the directory of builder images, one directory per image."""
    return data_root() / "containers"


def ci_dir() -> Path:
    """Return the directory of templates for timers and CI services, one directory per kind."""
    return data_root() / "ci"


def image_names() -> list[str]:
    """Return the names of the builder images."""
    return sorted(path.parent.name for path in containers_dir().glob("*/image.toml"))
