"""Builder images: what is in them, where they lie, and how one is made once and kept.

An image is a directory tree that nothing changes after it was made. Its key is the digest of the
packages in it, which are recorded with versions and digests; steps depend on that key.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import files, process, room, trace
from pipeline.console import Console
from pipeline.errors import HostLacks, PipelineError, Refused, Unreachable
from pipeline.locks import locked

MOUNT_POINTS = ("build", "input", "ccache")  # bubblewrap cannot make them in a read-only root
MAKING_LIMIT = 1800.0  # seconds for one image
MAKING_ROOM = 3 << 29  # bytes: the tree being made, its tar file and what is unpacked of it, 420 MiB each
_FORMAT = 2  # of what lies in an image's directory


@dataclass(frozen=True)
class Image:
    """A builder image: its name (`debian12`), its key, its root directory and its list of packages."""

    name: str
    key: str
    rootfs: Path
    packages: Path


@dataclass(frozen=True)
class DebianRecipe:
    """How a Debian image is made: its packages, the archive of each suite, and the keys to believe."""

    name: str
    packages: Sequence[str]
    archives: Mapping[str, str]
    keyring: bytes

    @property
    def request(self) -> str:
        """The digest of what was asked for; what it gives may change with the archive."""
        asked = [_FORMAT, self.name, sorted(self.packages), sorted(self.archives)]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def package_list(rendered: str) -> list[str]:
    """Package names out of a rendered template: one a line, `#` begins a comment."""
    return [line.strip() for line in rendered.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def kept(recipe: DebianRecipe, root: Path) -> Image | None:
    """The image of `recipe` if it has been made; needs neither its archives nor its keys."""
    return kept_as(recipe.name, recipe.request, root)


def kept_as(name: str, request: str, root: Path) -> Image | None:
    """The image `name` that was made for `request`, if there is one."""
    return _kept(name, root / name / request)


def debian_image(recipe: DebianRecipe, root: Path, console: Console, *, offline: bool, fresh: bool = False) -> Image:
    """The image of `recipe` below `root`, made when there is none yet, or anew with `fresh`.

    Raises `Unreachable`, `Refused` or `HostLacks` when it cannot be made.
    """

    def make(made: Path, scratch: Path) -> None:
        console.note(f"making the image {recipe.name} ({len(recipe.packages)} packages and what they need)")
        room.require(scratch, MAKING_ROOM, f"making the image {recipe.name}")
        _make(recipe, made, scratch)

    return once(root, recipe.name, recipe.request, make, offline=offline, fresh=fresh, say=console.note)


def once(
    root: Path,
    name: str,
    request: str,
    make: Callable[[Path, Path], None],
    *,
    offline: bool,
    fresh: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Image:
    """The image asked for by `request`; `make` fills a directory, with one for scratch, when there is none yet.

    Another run may be using an older one: so each lies under its own key, and a link says which is current.
    """
    place = root / name
    with locked(
        place / f"{request}.lock", waiting=lambda holder: say(f"another run is making the image {name}: {holder}")
    ):
        known = None if fresh else _kept(name, place / request)
        if known is not None:
            return known
        if offline:
            raise Unreachable(
                f"the image {name} has not been made yet and --offline forbids it",
                hint="./inv image, without --offline",
            )
        with files.scratch(place, ".new-") as scratch:
            made = scratch / "image"
            make(made, scratch)
            found = _kept(name, made)
            assert found is not None, "an image without packages.json"
            trace.point("image.before-rename")
            if _kept(name, place / found.key) is None:
                made.rename(place / found.key)
            (scratch / "link").symlink_to(found.key)
            (scratch / "link").replace(place / request)
        kept = _kept(name, place / request)
    assert kept is not None
    return kept


def unpack(tarball: Path, rootfs: Path) -> None:
    """Unpacks an image as ourselves: no owner, no device, no privilege."""
    rootfs.mkdir(parents=True)
    words = ["tar", "--extract", "--no-same-owner", "--exclude=./dev/*", "--exclude=dev/*", "--file", str(tarball)]
    process.run([*words, "--directory", str(rootfs)], timeout=MAKING_LIMIT)


def write_packages(made: Path, name: str, origin: Mapping[str, str], packages: Sequence[Mapping[str, str]]) -> None:
    """Records what is in the image. Raises `Refused` for a package without version or digest."""
    bare = [row["name"] for row in packages if not (row.get("version") and row.get("digest"))]
    if bare or not packages:
        why = "what is built in it could not be traced to what it was built with"
        raise Refused(f"the image {name} has packages without version or digest", where=", ".join(bare), why=why)
    document = {"image": name, "origin": dict(origin), "packages": sorted(packages, key=lambda row: row["name"])}
    (made / "packages.json").write_text(json.dumps(document, indent=1) + "\n")


def _kept(name: str, place: Path) -> Image | None:
    packages = place / "packages.json"
    if not packages.is_file():
        return None
    listed = [_FORMAT, json.loads(packages.read_bytes())["packages"]]  # whichever archive they came from
    key = hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]
    there = place.resolve()  # the link may be moved while the image is in use
    return Image(name, key, there / "rootfs", there / "packages.json")


def _make(recipe: DebianRecipe, made: Path, scratch: Path) -> None:
    """Has mmdebstrap make a tar file, which is then unpacked."""
    tarball, listed = scratch / "rootfs.tar", scratch / "packages.txt"
    try:
        process.run(_mmdebstrap(recipe, scratch, tarball, listed), timeout=MAKING_LIMIT, cwd=scratch)
        unpack(tarball, made / "rootfs")
    except process.ProgramFailed as error:
        raise _failure(recipe, error) from None
    write_packages(made, recipe.name, recipe.archives, _packages(listed.read_text()))


def _mmdebstrap(recipe: DebianRecipe, scratch: Path, tarball: Path, listed: Path) -> list[str]:
    """The command. As root in namespaces of its own, so that our death ends all of it, mounts too."""
    if shutil.which("mmdebstrap") is None:
        raise HostLacks("the program mmdebstrap is not installed", hint="./inv doctor --install")
    keyring = scratch / "keyring.gpg"
    keyring.write_bytes(recipe.keyring)
    rows = [f"deb [signed-by={keyring.resolve()}] {url} {suite} main" for suite, url in recipe.archives.items()]
    scratch.chmod(0o755)  # apt's own user reads the keyring
    points = " ".join(f'"$1/{point}"' for point in MOUNT_POINTS)
    # While apt's lists are still there: which package, which version, and the digest the index signs.
    show = 'chroot "$1" sh -c \'apt-cache show --no-all-versions $(dpkg-query -W -f "\\${Package}=\\${Version}\\n")\''
    is_root = os.geteuid() == 0
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "env", f"TMPDIR={scratch.resolve()}"]
    return [
        *(alone if is_root else ()),
        *("mmdebstrap", f"--mode={'root' if is_root else 'unshare'}", "--variant=minbase", "--format=tar"),
        f"--include={','.join(recipe.packages)}",
        "--dpkgopt=force-unsafe-io",  # nobody sees it before it is whole
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        f"--customize-hook=mkdir -p {points}",
        '--customize-hook=chmod 1777 "$1/run"',  # an engine's tmpfs takes its mode from here
        f"--customize-hook={show} > '{listed.resolve()}'",
        next(iter(recipe.archives)),
        str(tarball.resolve()),
        *rows,
    ]


def _packages(shown: str) -> list[dict[str, str]]:
    """Name, version and digest of each package out of `apt-cache show`."""
    found: dict[str, dict[str, str]] = {}
    for stanza in shown.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|SHA256): (.*)$", stanza, re.MULTILINE))
        if "Package" in fields:
            digest = f"sha256:{fields['SHA256']}" if "SHA256" in fields else ""
            row = {"name": fields["Package"], "version": fields["Version"], "digest": digest}
            found.setdefault(row["name"], row)
    return list(found.values())


def _failure(recipe: DebianRecipe, error: process.ProgramFailed) -> PipelineError:
    """Whose fault it is, out of what apt said."""
    text = error.what.partition("\n")[2]  # what it said itself
    where = ", ".join(f"{url} {suite}" for suite, url in recipe.archives.items())
    what = f"the image {recipe.name} could not be made"
    if re.search(r"NO_PUBKEY|BADSIG|EXPKEYSIG|is not signed|Hash Sum mismatch", text):
        return Refused(f"{what}: the archive's signature or a digest is wrong", where=where, why=text)
    if re.search(r"Could not resolve|Failed to fetch|Unable to connect|Could not connect|Temporary failure", text):
        return Unreachable(f"{what}: the archive was not reached", where=where, why=text)
    return HostLacks(what, where=where, why=text, hint="./inv doctor")
