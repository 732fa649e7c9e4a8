"""Create the metadata of one repository directory with createrepo_c, and read repodata back.

gzip and SHA-256 throughout, which yum 3.2 reads as well as dnf; for it the sqlite databases too, which it
takes instead of parsing XML for minutes. The same packages give the same bytes: one worker, and every time
in it is the revision's or a package's.
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
    return HostLacks("createrepo_c is not installed in this Python environment", hint="rm -r .venv && ./inv doctor")


def _program() -> Path:
    """Return the path of createrepo_c in its Python wheel: the same one on all hosts, without an import."""
    spec = importlib.util.find_spec("createrepo_c")
    program = Path(spec.origin).parent / "data" / "bin" / "createrepo_c" if spec and spec.origin else None
    if program is None or not program.is_file():
        raise _missing()
    return program


def check(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of all packages by file name, as the metadata lists them.

    Raises `Refused` when a file of the metadata is missing or is not what repomd.xml says. The caller has
    checked repomd.xml's signature.
    """
    listed: dict[str, str] = {}
    try:
        for data in ET.parse(directory / REPOMD).getroot().iter(f"{_REPO}data"):
            path = _metadata_file(directory, data)
            if data.get("type") == "primary":
                with gzip.open(path) as stream:
                    listed = _packages(stream.read(_MAX_LIST))
    except (ET.ParseError, zlib.error, EOFError, OSError, KeyError) as error:
        raise Refused(f"the metadata is damaged: {error}", where=str(directory / REPOMD)) from None
    return listed


def _metadata_file(directory: Path, data: ET.Element) -> Path:
    """Return the checked path of the file that an entry of repomd.xml names."""
    digest = _child(data, f"{_REPO}checksum")
    href = _child(data, f"{_REPO}location").attrib["href"]
    path = directory / href
    if path.parent != directory / "repodata" or not path.is_file():
        raise Refused(f"the metadata names {href}, which is not there", where=str(directory / REPOMD))
    if digest.get("type") != "sha256" or sha256_of(path) != digest.text:
        raise Refused("a file of the metadata is not what repomd.xml says", where=str(path))
    return path


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
