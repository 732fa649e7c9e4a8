"""Create the metadata of one repository directory with createrepo_c, and read repodata back.

gzip and SHA-256 throughout, readable by yum 3.2 and dnf; for yum 3.2 sqlite databases too, since it parses XML for
minutes. The same packages give the same bytes: one worker, and all times are the revision's or a package's.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import importlib.util
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

from pipeline.core import process
from pipeline.core.fs import sha256_of
from pipeline.errors import HostLacks, Refused

REPOMD = "repodata/repomd.xml"
_MAX_LIST = 256 << 20  # bytes of a list of packages, unpacked: a line's has some 100 KiB
_REPO = "{http://linux.duke.edu/metadata/repo}"
_COMMON = "{http://linux.duke.edu/metadata/common}"


def create(directory: Path, revision: int, *, databases: bool) -> Path:
    """Create `directory`/repodata for the packages there and return its repomd.xml; `revision` in seconds."""
    argv = [
        str(_program()),
        *("--quiet", "--no-pretty", "--workers", "1"),
        *("--checksum", "sha256", "--repomd-checksum", "sha256"),
        *("--general-compress-type", "gz", "--compress-type", "gz"),
        *("--revision", str(revision), "--set-timestamp-to-revision"),
        "--database" if databases else "--no-database",
        str(directory),
    ]
    process.run(argv)
    return directory / REPOMD


def version() -> str:
    """Return the version of createrepo_c: another one may write other bytes."""
    try:
        return importlib.metadata.version("createrepo_c")
    except importlib.metadata.PackageNotFoundError:
        raise _missing() from None


def _missing() -> HostLacks:
    return HostLacks(
        "createrepo_c: not installed; expected the wheel in this Python environment",
        why="repositories are made with this program",
        hint="rm -r .venv && ./inv doctor",
    )


def _program() -> Path:
    """Return the path of createrepo_c in its Python wheel: the same one on all hosts, without an import."""
    spec = importlib.util.find_spec("createrepo_c")
    program = Path(spec.origin).parent / "data" / "bin" / "createrepo_c" if spec and spec.origin else None
    if program is None or not program.is_file():
        raise _missing()
    return program


def check(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of all packages by file name, as the metadata lists them.

    Raises `Refused` for a metadata file that is missing or differs from repomd.xml, whose signature the caller has
    checked.
    """
    listed: dict[str, str] = {}
    try:
        for data in ET.parse(directory / REPOMD).getroot().iter(f"{_REPO}data"):
            path = _metadata_file(directory, data)
            if data.get("type") == "primary":
                with gzip.open(path) as stream:
                    listed = _packages(stream.read(_MAX_LIST))
    except (ET.ParseError, zlib.error, EOFError, OSError, KeyError) as error:
        raise _refused(f"the metadata of {directory.name}: damaged: {error}", directory / REPOMD) from None
    return listed


def _metadata_file(directory: Path, data: ET.Element) -> Path:
    """Return the checked path of the file that an entry of repomd.xml names."""
    digest = _child(data, f"{_REPO}checksum")
    href = _child(data, f"{_REPO}location").attrib["href"]
    path = directory / href
    if path.parent != directory / "repodata" or not path.is_file():
        raise _refused(f"{href}: missing; expected the file that {REPOMD} lists", directory / REPOMD)
    actual = sha256_of(path)
    if digest.get("type") != "sha256" or actual != digest.text:
        what = f"{href}: not as {REPOMD} lists it; expected {digest.get('type')} {digest.text}, got sha256 {actual}"
        raise _refused(what, path)
    return path


def _refused(what: str, where: Path) -> Refused:
    why = "yum and dnf would refuse it too, or install other packages"
    return Refused(what, where=str(where), why=why, hint="`./inv build-all` publishes a whole snapshot")


def _packages(primary: bytes) -> dict[str, str]:
    packages = ET.fromstring(primary).iter(f"{_COMMON}package")
    return {
        _child(package, f"{_COMMON}location").attrib["href"]: _child(package, f"{_COMMON}checksum").text or ""
        for package in packages
    }


def _child(element: ET.Element, tag: str) -> ET.Element:
    found = element.find(tag)
    if found is None:
        raise KeyError(tag)
    return found
