"""Builder images: what is in them, where they lie, and how one is made once and kept.

An image is a directory tree that nothing changes after it was made. Its key is the digest of the
packages in it, which are recorded with versions and digests; steps depend on that key. Its record (`manifest`)
ties the tree to the key: what is in it is held against the record before anything runs in it or is taken out of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import decoder, disk_space, documents, faults, fs, manifest, process
from pipeline.core.console import Console
from pipeline.core.locks import locked
from pipeline.errors import HostLacks, PipelineError, Refused, Unreachable

HOSTNAME = "builder"  # inside, so that no output tells where it was made
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
class Package:
    """A package in an image; `digest` begins with its algorithm: `sha256:`."""

    name: str
    version: str
    digest: str


@dataclass(frozen=True)
class PackageList:
    """The document of what is in an image: its packages by name, and what they came from."""

    image: str
    origin: Mapping[str, str]
    packages: tuple[Package, ...]


@dataclass(frozen=True)
class Identity:
    """The record of an image. `requests`: what it was made for, or turned out to be the answer to."""

    image: str
    key: str
    requests: tuple[str, ...]


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
    """The image `name` that was made for `request`, if there is one. Its tree is not looked at: see `check`."""
    return _kept(name, root / name / request, request)


def check(image: Image) -> None:
    """Raise `Refused` unless the image is what was made; to be called before it is used, not to plan with it."""
    if problems := differences(image):
        raise Refused(
            f"builder image {image.name}: {len(problems)} differences from what was made; first: {problems[0]}",
            where=str(image.rootfs.parent),
            why="everything built in it, or taken out of it, would depend on what nobody has recorded",
            hint=f"./inv image --image {image.name} --fresh",
        )


def differences(image: Image, *, content: bool = False) -> tuple[manifest.Difference, ...]:
    """Find what of an image is not as recorded; with `content` every file is read."""
    return manifest.check(image.rootfs.parent, {"image": image.name, "key": image.key}, content=content)


def verified(root: Path) -> Iterator[tuple[Path, str]]:
    """Read every image below `root` whole, and yield each problem: its path and a text."""
    for place in sorted(root.glob("*/[!.]*")):
        if place.is_dir() and not place.is_symlink():
            image = Image(place.parent.name, place.name, place / "rootfs", place / "packages.json")
            yield from ((place / problem.path, problem.problem) for problem in differences(image, content=True))


def debian_image(recipe: DebianRecipe, root: Path, console: Console, *, offline: bool, fresh: bool = False) -> Image:
    """The image of `recipe` below `root`, made when there is none yet, or anew with `fresh`.

    Raises `Unreachable`, `Refused` or `HostLacks` when it cannot be made.
    """

    def make(made: Path, scratch: Path) -> None:
        console.note(f"making the image {recipe.name} ({len(recipe.packages)} packages and what they need)")
        disk_space.require(scratch, MAKING_ROOM, f"making the image {recipe.name}")
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
        known = None if fresh else _kept(name, place / request, request)
        if known is not None:
            return known
        damaged = not fresh and os.path.lexists(place / request)
        if offline:
            what = "is damaged" if damaged else "has not been made yet"
            raise Unreachable(
                f"the image {name} {what} and --offline forbids to make it",
                where=str(place / request),
                hint=f"./inv image --image {name}, without --offline",
            )
        if damaged:
            say(f"the image {name} in {place / request} is not what was made, and is made anew")
        with fs.scratch(place, ".new-") as scratch:
            made = scratch / "image"
            make(made, scratch)
            return _published(name, request, made, place)


def _published(name: str, request: str, made: Path, place: Path) -> Image:
    """Give an image that was just made its record and its place; one with the same packages stays, if it is whole."""
    key = _key(made / "packages.json")
    if key is None:
        raise ValueError(f"{made} was filled without a list of packages")
    _open_to_us(made / "rootfs")
    target = place / key
    if target.is_symlink() or differences(Image(name, key, target / "rootfs", target / "packages.json")):
        manifest.record(made, decoder.encode(Identity(name, key, (request,))))
        faults.point("image.before-rename")
        if os.path.lexists(target):
            fs.remove(target)
        made.rename(target)
    elif request not in (served := _recorded(target).requests):
        manifest.record(target, decoder.encode(Identity(name, key, tuple(sorted({*served, request})))))
    link = made.with_name("link")
    link.symlink_to(key)
    if (place / request).is_dir() and not (place / request).is_symlink():
        fs.remove(place / request)
    link.replace(place / request)
    kept = _kept(name, place / request, request)
    if kept is None:
        raise Refused(f"builder image {name}: changed while it was being made", where=str(target))
    return kept


def _open_to_us(rootfs: Path) -> None:
    """Let its owner read every file, and nobody but its owner write one: a package may want neither.

    No program keeps its set-user-id or set-group-id bit: in a job that means nothing, and any user of the host could
    run it, long after its distribution has mended it. Directories with the sticky bit stay as they are: jobs get their
    own in their place.
    """
    for place, _, names in os.walk(rootfs):
        for path in (Path(place), *(Path(place, name) for name in names)):
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                wanted = (mode | stat.S_IRUSR) & ~(stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID)
            elif stat.S_ISDIR(mode) and not mode & stat.S_ISVTX:
                wanted = mode & ~stat.S_IWOTH
            else:
                continue
            if wanted != mode:
                path.chmod(stat.S_IMODE(wanted))


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
    found = [Package(row["name"], row["version"], row["digest"]) for row in packages]
    listed = PackageList(name, origin, tuple(sorted(found, key=lambda package: package.name)))
    (made / "packages.json").write_text(documents.text(listed))


def _kept(name: str, link: Path, request: str) -> Image | None:
    """The image that `link` leads to, if its list, its record and the request are of one another."""
    there = link.resolve()  # the link may be moved while the image is in use
    key = _key(there / "packages.json")
    rootfs = there / "rootfs"
    if key is None or there != link.parent.resolve() / key or rootfs.is_symlink() or not rootfs.is_dir():
        return None
    try:
        known = _recorded(there)
    except (OSError, ValueError):
        return None
    if (known.image, known.key) != (name, key) or request not in known.requests:
        return None
    return Image(name, key, rootfs, there / "packages.json")


def _recorded(place: Path) -> Identity:
    """The record of the image in the directory `place`. Raises `ValueError` and `OSError`."""
    return decoder.decode(Identity, manifest.about(place))


def _key(listed: Path) -> str | None:
    """The key of an image with this list of packages; None for what is no such list."""
    try:
        packages = documents.parse(PackageList, manifest.text_at(listed)).packages
    except (OSError, ValueError):
        return None
    if not packages:
        return None
    text = json.dumps([_FORMAT, decoder.encode(packages)])  # whichever archive they came from
    return hashlib.sha256(text.encode()).hexdigest()[:16]


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
        raise HostLacks("the program mmdebstrap is not installed", hint="./inv doctor")
    keyring = scratch / "keyring.gpg"
    keyring.write_bytes(recipe.keyring)
    rows = [f"deb [signed-by={keyring.resolve()}] {url} {suite} main" for suite, url in recipe.archives.items()]
    scratch.chmod(0o711)  # apt's own user reads the keyring; who could read the directory could lock it
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
        # mmdebstrap copies the host's own, which is nothing for a build to know.
        f'--customize-hook=rm -f "$1/etc/resolv.conf"; echo {HOSTNAME} > "$1/etc/hostname"',
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
