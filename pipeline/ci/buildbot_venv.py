"""Make Buildbot's own environment out of its own locked requirements, apart from the one that runs this program."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from pipeline.core import fs, process, resources
from pipeline.core.locks import locked
from pipeline.errors import HostLacks, UsageError

_TIMEOUT = 900.0  # seconds; 130 MiB over a slow network


def checkout() -> Path:
    """Return the checkout. Raises `UsageError` for an installed package, which has no launcher that builds can call."""
    root = resources.data_root()
    if not (root / "inv").is_file():
        what = "a cluster: not from an installed package; expected a checkout, whose launcher the workers call"
        raise UsageError(what, hint="git clone the project, and type the command there")
    return root


def path() -> Path:
    """Return the environment's directory."""
    return checkout() / ".venv-buildbot"


def install() -> bool:
    """Make the environment where it is not there as locked; return whether it was made.

    Raises `HostLacks` where the packages cannot be had.
    """
    place, lock = path(), checkout() / "requirements" / "buildbot.txt"
    made = place / "inv-buildbot.txt"
    with locked(place.with_name(f"{place.name}.lock")):
        if made.is_file() and made.read_bytes() == lock.read_bytes() and (place / "bin/python").exists():
            return False
        if place.exists():
            fs.remove(place)
        process.run([sys.executable, "-I", "-m", "venv", place], timeout=_TIMEOUT)
        pip: list[str | Path] = [
            place / "bin/python",
            "-I",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ]
        try:
            process.run([*pip, "--require-hashes", "-r", lock], timeout=_TIMEOUT)
        except process.ProgramFailed as error:
            what = "Buildbot's locked requirements could not be installed"
            raise HostLacks(what, where=str(lock), why=error.what, hint="./inv cluster install") from None
        shutil.copyfile(lock, made)
        return True
