"""Open the signing key: of the user's keyring, of a file, or a development key created here.

Secret keys need a gpg-agent. The user's own keyring has the user's agent; every other key gets a private agent in a
private home. It is killed with the run's process group, and ends within seconds after this process was killed,
since the program that it was started for is then gone.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

from pipeline.core import faults, fs, neutral, process, temporary
from pipeline.core.disk_space import writing
from pipeline.core.fs import atomic, read_limited, scratch, write_atomic
from pipeline.core.locks import locked
from pipeline.errors import HostLacks, Refused, UsageError
from pipeline.sources import openpgp

DEVELOPMENT = "LVS FULLNAT development key (NOT for production)"
WARNING = "DEVELOPMENT KEY, NOT FOR PRODUCTION"
RSA, BITS = "1", range(2048, 4097)  # rpm 4.8 knows RSA; below is too weak, above it was never tried
AGENT_START_TIMEOUT = 10.0  # seconds
_SOCKET_LENGTH = len("h/S.gpg-agent.browser") + 1  # the longest; gpg takes one byte less than unix(7)
_HOME_PREFIX = ".home-"
_ELSEWHERE = "fnat-sockets"  # in a home: where gpg would look for its sockets
_README = f"""{DEVELOPMENT}

Made by this tool on first use, without a passphrase. Whoever can read this directory can sign with it:
never trust it outside a test machine. For anything else set `gpg-key` to a key of your own: the fingerprint
of one in your keyring, or the path of an exported secret key.
"""


@dataclass(frozen=True)
class SigningKey:
    """The signing key. `created` in seconds since 1970; `armor` is its public part alone."""

    identity: str
    fingerprint: str
    created: int
    development: bool
    armor: bytes

    @property
    def name(self) -> str:
        """The key's name in files and repositories."""
        return "lvs-fullnat-development" if self.development else f"lvs-fullnat-{self.fingerprint[-8:].lower()}"

    @property
    def id(self) -> str:
        """The long key id."""
        return self.fingerprint[-16:]

    @functools.cached_property
    def public(self) -> openpgp.PublicKey:
        """The public key for signature checks."""
        return public_key(self.name, self.fingerprint, self.armor)

    def __str__(self) -> str:
        return f"{self.identity}, {self.fingerprint}" + (f": {WARNING}" if self.development else "")


def public_key(name: str, fingerprint: str, armor: bytes) -> openpgp.PublicKey:
    """Return the key of `fingerprint` out of `armor`. Raises `Refused` when it is not in there."""
    from pipeline.config.line_model import Key

    return openpgp.public_key(name, Key(title=name, fingerprint=fingerprint), armor)


_FUTURE = "in the future (time warp or clock problem)"  # gpg of something that was made or signed


@dataclass(frozen=True)
class GnuPG:
    """A gpg command with one home. `options` come first; `prepare` is called before each use."""

    home: Path
    options: tuple[str, ...]
    prepare: Callable[[], None] = lambda: None

    @property
    def program(self) -> str:
        """The full path of gpg, as rpm's `__gpg` requires."""
        return shutil.which("gpg") or "gpg"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of gpg, and of an agent that gpg starts."""
        return process.clean_environment(GNUPGHOME=str(self.home), **_terminal())

    def __call__(self, *words: str, stdin: bytes | None = None) -> process.Result:
        """Run gpg to its end. Raises `HostLacks` where the clock is before the key was made, else as `process.run`."""
        self.prepare()
        try:
            return process.run([self.program, *self.options, *words], env=self.environment, stdin=stdin)
        except process.ProgramFailed as error:
            if line := next((line for line in error.what.splitlines() if _FUTURE in line), ""):
                raise _set_back(line) from None
            raise


def _set_back(why: str) -> HostLacks:
    what = "the clock: before the signing key was made; expected the time of today"
    return HostLacks(what, why=why, hint="./inv doctor")


def _terminal() -> dict[str, str]:
    """Return the variable that tells an agent its terminal for passphrases."""
    return {"GPG_TTY": os.ttyname(0)} if os.isatty(0) else {}


@contextlib.contextmanager
def open_key(gpg_key: str, directory: Path) -> Iterator[tuple[SigningKey, GnuPG]]:
    """Open the key of the setting `gpg-key`, ready to sign, and its gpg.

    A full fingerprint is a key in the user's own keyring, anything else the path of an exported secret key;
    empty means the development key below `directory`, which is created on first use.
    """
    if fingerprint := _fingerprint(gpg_key):
        gnupg = _own_keyring()
        yield _checked_key(gnupg, fingerprint), gnupg
        return
    file = Path(gpg_key).expanduser() if gpg_key else _development(directory)
    with _private_keyring(directory) as gnupg:
        _import(gnupg, file)
        yield _checked_key(gnupg, ""), gnupg


def named(gpg_key: str) -> str:
    """Return the fingerprint of the setting `gpg-key`, whether or not the key can sign here.

    Raises `UsageError` for a file that cannot be read or holds not exactly one key.
    """
    if fingerprint := _fingerprint(gpg_key):
        return fingerprint
    file = Path(gpg_key).expanduser()
    fingerprints = openpgp.fingerprints(_read(file))
    if len(fingerprints) != 1:
        raise UsageError(
            f"the file of gpg-key: not one key; expected one OpenPGP key, got {', '.join(fingerprints) or 'none'}",
            where=str(file),
            why="one key signs all packages of a snapshot",
            hint=f"gpg --show-keys {neutral.word(file)}",
        )
    return fingerprints[0]


def _fingerprint(gpg_key: str) -> str:
    """Return the full fingerprint as gpg prints it, empty when `gpg_key` is none."""
    given = gpg_key.replace(" ", "").removeprefix("0x").upper()
    return given if re.fullmatch("[0-9A-F]{40}", given) else ""


def _own_keyring() -> GnuPG:
    """Return gpg with the user's own home and agent, which may ask for a passphrase."""
    home = Path(os.environ.get("GNUPGHOME") or "~/.gnupg")
    with contextlib.suppress(RuntimeError):  # the user has no home directory
        home = home.expanduser()
    if not home.is_dir():
        raise UsageError(
            "GnuPG home: not found; expected a directory with the signing key",
            where=str(home),
            why="gpg-key is the fingerprint of a key in it",
            hint="gpg --list-secret-keys",
        )
    return GnuPG(home, ("--batch", "--no-tty", "--quiet"))


class _Sockets:
    """The sockets of an agent, kept in its home.

    Where there is a /run/user/<uid>, gpg looks for them in a directory below it. A login makes that in the midst of a
    run, or dnf, and the last logout takes it away with all in it. A file in the directory's place sends gpg home.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._block: Path | None = None

    def keep(self) -> None:
        """See that gpg looks in the home; called before each of its uses."""
        if not Path("/run/user", str(os.geteuid())).is_dir() or (self._block and self._block.exists()):
            return
        listed = process.run(["gpgconf", "--homedir", str(self.home), "--list-dirs", "socketdir"]).text
        place = Path(unquote(listed.strip()))
        if place == self.home:
            return
        (self.home / _ELSEWHERE).write_text(str(place))  # for the next run, should this one be killed
        with contextlib.suppress(OSError):  # gpgconf has just made it, unless a file is there
            place.rmdir()
        with contextlib.suppress(FileNotFoundError):  # the last logout is just now: gpg goes home by itself
            place.touch(mode=0o600)
        self._block = place

    def close(self) -> None:
        """Remove the file."""
        if self._block:
            self._block.unlink(missing_ok=True)


@contextlib.contextmanager
def _private_keyring(directory: Path) -> Iterator[GnuPG]:
    """Provide gpg in an empty home below `directory`, with an agent of its own."""
    with contextlib.ExitStack() as held:
        with writing(directory):  # not around the yield: a caller's errors are no errors of this directory
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            remove_leftovers(directory)
            home = held.enter_context(scratch(directory, _HOME_PREFIX))
            # The path of an agent's socket must be short, also with a long path of the artifacts.
            link = held.enter_context(temporary.socket_directory("home-", _SOCKET_LENGTH)) / "h"
            link.symlink_to(home.resolve())
            sockets = held.enter_context(contextlib.closing(_Sockets(link)))
            sockets.keep()
            held.enter_context(_agent(link))
        yield GnuPG(link, ("--batch", "--no-tty", "--quiet", "--no-autostart"), sockets.keep)


@contextlib.contextmanager
def _agent(home: Path) -> Iterator[None]:
    """Run an agent for the block, not detached, and tied to a `sleep`, gpg-agent(1)."""
    # An agent that checks its own socket ends when a busy host answers slowly.
    words = ("--daemon", "--no-detach", "--disable-check-own-socket")
    argv = ["gpg-agent", "--homedir", str(home), *words, "--", "sleep", "infinity"]
    quiet = subprocess.DEVNULL
    with process.start(argv, env=process.clean_environment(**_terminal()), stdout=quiet, stderr=quiet) as child:
        until = time.monotonic() + AGENT_START_TIMEOUT
        while not _is_listening(home / "S.gpg-agent"):
            if child.poll() is not None or time.monotonic() > until:
                raise HostLacks(
                    f"gpg-agent: did not start; expected an answer within {AGENT_START_TIMEOUT:g} s",
                    why="gpg needs an agent for every secret key",
                    hint=neutral.command(argv),
                )
            time.sleep(0.005)
        yield


def _is_listening(place: Path) -> bool:
    """Return whether the agent accepts connections: its socket exists a moment earlier."""
    with socket.socket(socket.AF_UNIX) as ours, contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
        ours.connect(str(place))
        return True
    return False


def remove_leftovers(directory: Path) -> None:
    """Remove the homes that killed runs left in `directory`, and what they left elsewhere."""
    noted = {}
    for note in directory.glob(f"{_HOME_PREFIX}*/{_ELSEWHERE}"):
        with contextlib.suppress(OSError):  # the run that uses it has just ended
            noted[note.parent] = note.read_text()
    fs.remove_leftovers(directory, _HOME_PREFIX)
    for home, place in noted.items():
        if not home.exists():  # else it is in use
            with contextlib.suppress(OSError):  # gone, or a directory of earlier code
                Path(place).unlink()


def _read(file: Path) -> bytes:
    try:
        return read_limited(file, openpgp.MOST)
    except OSError as error:
        raise UsageError(
            f"the signing key: {error.strerror}; expected the file of a key",
            where=str(file),
            why="gpg-key is the full fingerprint of a key in your keyring, or the path of an exported secret key",
            hint="gpg --list-secret-keys",
        ) from None


def _import(gnupg: GnuPG, file: Path) -> None:
    exported = _read(file)
    try:
        with writing(gnupg.home.resolve().parent):
            gnupg("--import", stdin=exported)
    except process.ProgramFailed as error:
        raise Refused(
            "the signing key: gpg does not import it; expected an exported secret key",
            where=str(file),
            why=error.what,
            hint=neutral.command(["gpg", "--show-keys", file]),
        ) from None


def _checked_key(gnupg: GnuPG, fingerprint: str) -> SigningKey:
    """Return the secret key of `fingerprint`, or the only one, after a test signature."""
    rows = [row.split(":") for row in gnupg("--with-colons", "--list-secret-keys").text.splitlines()]
    secret = {after[9]: row for row, after in itertools.pairwise(rows) if (row[0], after[0]) == ("sec", "fpr")}
    wanted = fingerprint or next(iter(secret), "")
    if wanted not in secret or (not fingerprint and len(secret) > 1):
        expected = f"the secret key {fingerprint}" if fingerprint else "one secret key"
        raise UsageError(
            f"the signing key: not found; expected {expected}, got {', '.join(secret) or 'no secret key'}",
            where=str(gnupg.home) if fingerprint else "",
            why="packages and metadata are signed with it",
            hint="gpg --list-secret-keys",
        )
    if (created := int(secret[wanted][5])) > time.time():
        raise _set_back(f"it was made {datetime.fromtimestamp(created, UTC):%Y-%m-%d %H:%M:%S} UTC, in the future")
    _check_kind(wanted, secret[wanted])
    escaped = next((row[9] for row in rows[rows.index(secret[wanted]) :] if row[0] == "uid"), "")
    identity = re.sub(r"\\x([0-9a-f]{2})", lambda byte: chr(int(byte[1], 16)), escaped)
    armor = gnupg("--armor", "--export-options", "export-minimal", "--export", wanted).out
    key = SigningKey(identity, wanted, created, identity == DEVELOPMENT, armor)
    _test_signature(gnupg, key)
    return key


def _check_kind(fingerprint: str, row: list[str]) -> None:
    """Refuse keys that `gpg --with-colons` marks as unusable (GnuPG's doc/DETAILS, fields 2, 3, 4, 7 and 12)."""
    wrong = []
    if row[3] != RSA or int(row[2]) not in BITS:
        wrong.append(f"it is no RSA key of {BITS[0]} to {BITS[-1]} bits, which is what rpm 4.8 can check")
    if row[1] in ("e", "r", "d", "i"):
        wrong.append({"e": "it has expired", "r": "it is revoked"}.get(row[1], "it is disabled or not valid"))
    if "s" not in row[11]:  # a subkey's capability would be an "S" only
        wrong.append("its primary key cannot sign, and rpm 4.8 knows no subkeys")
    if row[6] and datetime.fromtimestamp(int(row[6]), UTC) < datetime.now(UTC) and not wrong:
        wrong.append("it has expired")
    if wrong:
        raise Refused(
            "the signing key: not usable; expected a valid RSA key whose primary key signs",
            where=fingerprint,
            why="; ".join(wrong),
            hint="docs/trust.md says how a key is judged",
        )


def _test_signature(gnupg: GnuPG, key: SigningKey) -> None:
    """Make one signature now, so that a passphrase is requested and an agent started in the user's environment."""
    try:
        gnupg("--local-user", f"{key.fingerprint}!", "--armor", "--detach-sign", stdin=b"")
    except process.ProgramFailed as error:
        raise Refused(
            "the signing key: does not sign; expected a test signature",
            where=str(key),
            why=error.what,
            hint="gpg --list-secret-keys shows a key without its secret part as sec#",
        ) from None


def _development(directory: Path) -> Path:
    """Return the file of the development key's secret part, created on first use."""
    place = directory / "development"
    file = place / "secret.asc"
    if not file.exists():
        with writing(directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(directory / ".lock"):
                if not file.exists():
                    _make_development(directory, place)
    return file


def _make_development(directory: Path, place: Path) -> None:
    """Create the development key in a scratch directory and rename it into place."""
    with scratch(directory, ".making-") as scratched, _private_keyring(directory) as gnupg, writing(directory):
        staging = scratched / "development"
        staging.mkdir(mode=0o700)
        empty = ("--pinentry-mode", "loopback", "--passphrase", "")
        gnupg(*empty, "--quick-generate-key", DEVELOPMENT, "rsa3072", "sign", "never")
        faults.point("key.made")
        with atomic(staging / "secret.asc", 0o600) as stream:
            stream.write(gnupg(*empty, "--armor", "--export-secret-keys").out)
        write_atomic(staging / "public.asc", gnupg("--armor", "--export-options", "export-minimal", "--export").out)
        write_atomic(staging / "README", _README)
        faults.point("key.before-rename")
        try:
            staging.rename(place)
        except OSError as error:
            hint = neutral.command(["mv", place, f"{place}.old"])
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise HostLacks(
                f"{place.name}: occupied; expected nothing there but the development key",
                where=str(place),
                why="the development key is created in this directory",
                hint=hint,
            ) from None
