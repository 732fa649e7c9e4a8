"""Define builder images: their content, their place, and their creation.

An image is a directory tree that never changes. Its key is the digest of the packages in it, which are recorded with
versions and digests; steps depend on that key. Its record (`manifest`) ties the tree to the key: the content is
compared with the record before each use.
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
from pipeline.formats import apt_sources
from pipeline.sandbox.runtime import Image

HOSTNAME = "builder"  # inside, so that no output depends on the host
MOUNT_POINTS = ("build", "input", "ccache")  # bubblewrap cannot make them in a read-only root
BUILD_TIMEOUT = 1800.0  # seconds for one image
BUILD_DISK_SPACE = 3 << 29  # bytes: the tree being made, its tar file and what is unpacked of it, 420 MiB each
# Without root: apt as the one user who may search our directories, and no file system that only the host's root mounts.
_OF_A_USER = ('--aptopt=APT::Sandbox::User "root"', "--skip=chroot/mount/sys")
_FORMAT = 2  # of what lies in an image's directory


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
    """The inputs of a Debian image: its packages, the archive of each suite, and the trusted keys."""

    name: str
    packages: Sequence[str]
    archives: Mapping[str, str]
    keyring: bytes

    @property
    def request(self) -> str:
        """The digest of the inputs; the resulting packages may change with the archive."""
        request = [_FORMAT, self.name, sorted(self.packages), sorted(self.archives)]
        return hashlib.sha256(json.dumps(request).encode()).hexdigest()[:16]


def package_list(rendered: str) -> list[str]:
    """Return the package names of a rendered template: one a line, `#` begins a comment."""
    return [line.strip() for line in rendered.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def cached_image(recipe: DebianRecipe, root: Path) -> Image | None:
    """Return the image of `recipe`, or None where it was not made yet; needs neither archives nor keys."""
    return cached_image_for(recipe.name, recipe.request, root)


def cached_image_for(name: str, request: str, root: Path) -> Image | None:
    """Return the image `name` made for `request`, or None. The tree is not checked: see `check`."""
    return _cached(name, root / name / request, request)


def kept_image(name: str, key: str, root: Path) -> Image | None:
    """Return the image `name` with this key, for whatever request it was made; None where it is not kept."""
    place = root / name / key
    whole = (place / "rootfs").is_dir() and not place.is_symlink() and _key(place / "packages.json") == key
    return Image(name, key, place / "rootfs", place / "packages.json") if whole else None


def check(image: Image) -> None:
    """Raise `Refused` unless the image is as it was made; call this before use, not for planning."""
    if problems := differences(image):
        raise Refused(
            f"builder image {image.name}: {len(problems)} differences from its record; first: {problems[0]}",
            where=str(image.rootfs.parent),
            why="packages built in the image would depend on unrecorded files",
            hint=f"./inv image --image {image.name} --fresh",
        )


def differences(image: Image, *, content: bool = False) -> tuple[manifest.Difference, ...]:
    """Return the differences of an image from its record; with `content` all files are read."""
    return manifest.check(image.rootfs.parent, {"image": image.name, "key": image.key}, content=content)


def problems(root: Path) -> Iterator[tuple[Path, str]]:
    """Verify all images below `root`, reading all files, and yield each problem: its path and a text."""
    for place in sorted(root.glob("*/[!.]*")):
        if place.is_dir() and not place.is_symlink():
            image = Image(place.parent.name, place.name, place / "rootfs", place / "packages.json")
            yield from ((place / problem.path, problem.problem) for problem in differences(image, content=True))


def debian_image(recipe: DebianRecipe, root: Path, console: Console, *, offline: bool, fresh: bool = False) -> Image:
    """Return the image of `recipe` below `root`, made where there is none yet, or anew with `fresh`.

    Raises `Unreachable`, `Refused` or `HostLacks` when it cannot be made.
    """

    def make(made: Path, scratch: Path) -> None:
        console.note(f"making the image {recipe.name} ({len(recipe.packages)} packages and what they need)")
        disk_space.require(scratch, BUILD_DISK_SPACE, f"making the image {recipe.name}")
        _make(recipe, made, scratch)

    return make_once(root, recipe.name, recipe.request, make, offline=offline, fresh=fresh, say=console.note)


def make_once(
    root: Path,
    name: str,
    request: str,
    make: Callable[[Path, Path], None],
    *,
    offline: bool,
    fresh: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Image:
    """Return the image for `request`; where there is none yet, `make` fills a directory, with a second one for scratch.

    Another run may be using an older one: so each has a directory named by its key, and a link names the current one.
    """
    place = root / name
    with locked(
        place / f"{request}.lock",
        waiting=lambda holder: say(f"waiting for another run that makes the image {name}: {holder}"),
    ):
        known = None if fresh else _cached(name, place / request, request)
        if known is not None:
            return known
        damaged = not fresh and os.path.lexists(place / request)
        if offline:
            what = "damaged" if damaged else "not made yet"
            raise Unreachable(
                f"builder image {name}: {what}, and --offline forbids making it",
                where=str(place / request),
                hint=f"./inv image --image {name}, without --offline",
            )
        if damaged:
            say(f"builder image {name}: {place / request} differs from its record; rebuilding")
        with fs.scratch(place, ".new-") as scratch:
            made = scratch / "image"
            make(made, scratch)
            return _publish(name, request, made, place)


def _publish(name: str, request: str, made: Path, place: Path) -> Image:
    """Record a new image and rename it into place; an intact image with the same packages is kept."""
    key = _key(made / "packages.json")
    if key is None:
        raise ValueError(f"{made} was filled without a list of packages")
    _fix_permissions(made / "rootfs")
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
    kept = _cached(name, place / request, request)
    if kept is None:
        raise Refused(f"builder image {name}: changed while it was being made", where=str(target))
    return kept


def _fix_permissions(rootfs: Path) -> None:
    """Make all files readable for their owner, and writable for no other user.

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
    """Unpack an image as the current user: no owners, no devices, no privileges."""
    rootfs.mkdir(parents=True)
    words = ["tar", "--extract", "--no-same-owner", "--exclude=./dev/*", "--exclude=dev/*", "--file", str(tarball)]
    process.run([*words, "--directory", str(rootfs)], timeout=BUILD_TIMEOUT)


def write_packages(made: Path, name: str, origin: Mapping[str, str], packages: Sequence[Mapping[str, str]]) -> None:
    """Write the list of packages. Raises `Refused` for a package without version or digest."""
    bare = [row["name"] for row in packages if not (row.get("version") and row.get("digest"))]
    if bare or not packages:
        why = "what is built in it could not be traced to what it was built with"
        raise Refused(f"the image {name} has packages without version or digest", where=", ".join(bare), why=why)
    found = [Package(row["name"], row["version"], row["digest"]) for row in packages]
    listed = PackageList(name, origin, tuple(sorted(found, key=lambda package: package.name)))
    (made / "packages.json").write_text(documents.to_json(listed))


def _cached(name: str, link: Path, request: str) -> Image | None:
    """Return the image behind `link` where its package list, its record and `request` agree, else None."""
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
    """Return the record of the image in the directory `place`. Raises `ValueError` and `OSError`."""
    return decoder.decode(Identity, manifest.about(place))


def _key(listed: Path) -> str | None:
    """Return the key of an image with this list of packages; None for a damaged or empty list."""
    try:
        packages = documents.parse(PackageList, manifest.text_at(listed)).packages
    except (OSError, ValueError):
        return None
    if not packages:
        return None
    text = json.dumps([_FORMAT, decoder.encode(packages)])  # whichever archive they came from
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _make(recipe: DebianRecipe, made: Path, scratch: Path) -> None:
    """Make a tar file with mmdebstrap, and unpack it."""
    tarball, listed = scratch / "rootfs.tar", scratch / "packages.txt"
    try:
        process.run(_mmdebstrap(recipe, scratch, tarball, listed), timeout=BUILD_TIMEOUT, cwd=scratch)
        unpack(tarball, made / "rootfs")
    except process.ProgramFailed as error:
        raise _failure(recipe, error) from None
    write_packages(made, recipe.name, recipe.archives, _packages(listed.read_text()))


def _mmdebstrap(recipe: DebianRecipe, scratch: Path, tarball: Path, listed: Path) -> list[str]:
    """Return the command, run in namespaces of its own, so that killing it ends all processes and mounts."""
    from pipeline.host import namespaces  # with engines and checks, which a run with an image does not need

    if shutil.which("mmdebstrap") is None:
        raise HostLacks("mmdebstrap: not installed; expected the program in PATH", hint="./inv doctor")
    sources = scratch / "apt.sources"
    sources.write_text(apt_sources.text("deb", recipe.archives, recipe.keyring))
    points = " ".join(f'"$1/{point}"' for point in MOUNT_POINTS)
    # While apt's lists are still there: which package, which version, and the digest the index signs.
    show = 'chroot "$1" sh -c \'apt-cache show --no-all-versions $(dpkg-query -W -f "\\${Package}=\\${Version}\\n")\''
    # The paths as variables: a hook is a shell's text, and they may hold anything.
    return [
        *(*namespaces.command(), "env", f"TMPDIR={scratch.resolve()}", f"LISTED={listed.resolve()}"),
        *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar"),
        *(() if os.geteuid() == 0 else _OF_A_USER),
        f"--include={','.join(recipe.packages)}",
        "--dpkgopt=force-unsafe-io",  # nobody sees it before it is whole
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        f"--customize-hook=mkdir -p {points}",
        '--customize-hook=chmod 1777 "$1/run"',  # an engine's tmpfs takes its mode from here
        f'--customize-hook={show} > "$LISTED"',
        # mmdebstrap copies the host's own, which is nothing for a build to know.
        f'--customize-hook=rm -f "$1/etc/resolv.conf"; echo {HOSTNAME} > "$1/etc/hostname"',
        next(iter(recipe.archives)),
        str(tarball.resolve()),
        str(sources.resolve()),
    ]


def _packages(shown: str) -> list[dict[str, str]]:
    """Parse name, version and digest of each package out of `apt-cache show`."""
    found: dict[str, dict[str, str]] = {}
    for stanza in shown.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|SHA256): (.*)$", stanza, re.MULTILINE))
        if "Package" in fields:
            digest = f"sha256:{fields['SHA256']}" if "SHA256" in fields else ""
            row = {"name": fields["Package"], "version": fields["Version"], "digest": digest}
            found.setdefault(row["name"], row)
    return list(found.values())


def _failure(recipe: DebianRecipe, error: process.ProgramFailed) -> PipelineError:
    """Classify a failed build by apt's output."""
    text = error.what.partition("\n")[2]  # what it said itself
    where = ", ".join(f"{url} {suite}" for suite, url in recipe.archives.items())
    what = f"builder image {recipe.name}: mmdebstrap failed"
    if re.search(r"NO_PUBKEY|BADSIG|EXPKEYSIG|is not signed|Hash Sum mismatch", text):
        return Refused(f"{what}; expected a valid signature and valid digests of the archive", where=where, why=text)
    if re.search(r"Could not resolve|Failed to fetch|Unable to connect|Could not connect|Temporary failure", text):
        return Unreachable(f"{what}; the archive is unreachable", where=where, why=text)
    return HostLacks(what, where=where, why=text, hint="./inv doctor")
