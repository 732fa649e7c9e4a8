"""Render a service and a timer of systemd that run the lines every night, hardened as far as builds allow."""

from __future__ import annotations

import os
import pwd
import re
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.ci import nights, places
from pipeline.ci.kinds import Request
from pipeline.config.settings import TABLE, default_artifacts
from pipeline.core import neutral, resources, templates
from pipeline.errors import UsageError

UNIT = "lvs-fullnat-nightly"
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))  # what ProtectHome= hides
_PRIVATE = (Path("/tmp"), Path("/var/tmp"))  # what PrivateTmp= replaces
_ARTIFACTS, _CHECKOUT = Path("/var/lib/lvs-fullnat/artifacts"), "/opt/lvs-fullnat"  # where docs/operating.md has them
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")  # useradd(8)
_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)


@dataclass(frozen=True)
class Systemd:
    """The kind `systemd`: files of /etc/systemd/system."""

    takes: frozenset[str] = frozenset({"user", "checkout"})

    def files(self, request: Request) -> Mapping[str, str]:
        """Return service and timer. Raises `UsageError` for what they could not use."""
        host = _Host(request)
        given = {"made_by": request.made_by("systemd"), "names": ", ".join(request.names)}
        service = templates.render("ci/systemd/nightly.service.j2", **given, **host.variables())
        timer = templates.render("ci/systemd/nightly.timer.j2", **given, calendar=request.at.calendar)
        return {f"{UNIT}.service": service, f"{UNIT}.timer": timer}

    def commands(self, request: Request, output: Path) -> Sequence[str]:
        """Return the commands that make what the service only reads, and install service and timer."""
        host = _Host(request)
        files = [output / f"{UNIT}.service", output / f"{UNIT}.timer"]
        settings = replace(request, settings=host.settings)
        images = [[str(host.checkout / "inv"), *settings.words("image", name)] for name in request.names]
        found = [host.directory(host.settings.artifacts), *map(host.as_user, images)]
        found += [
            ["systemd-analyze", "verify", *files],
            host.as_root(["install", "-m", "644", *files, "/etc/systemd/system/"]),
            host.as_root(["systemctl", "daemon-reload"]),
            host.as_root(["systemctl", "enable", "--now", f"{UNIT}.timer"]),
            ["systemctl", "list-timers", f"{UNIT}.timer"],
        ]
        return [neutral.command(words) for words in found]


class _Host:
    """The machine that runs the service, by default this one: user, checkout, and the settings with absolute paths."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.checkout = Path(request.options.get("checkout") or resources.data_root()).absolute()
        self.settings = places.absolute(request.settings)
        if request.settings.artifacts == default_artifacts(os.environ):
            self.settings = replace(self.settings, artifacts=self.checkout / TABLE["artifacts"].default)
        self.user = request.options.get("user") or pwd.getpwuid(os.geteuid()).pw_name
        self._check_user()
        self._check_key()
        self._check_places()

    def variables(self) -> Mapping[str, Any]:
        """Return the variables of the service's template."""
        written = [self.settings.artifacts, *self._store(), *self._filled_cache()]
        hidden = [path for path in self._read_places() if _is_below(path, _HOMES) and path not in written]
        request = replace(self.request, settings=self.settings)
        return {
            "user": self.user,
            "checkout": str(self.checkout).replace("%", "%%"),
            "commands": [command_line([self.checkout / "inv", *words]) for words in nights.commands(request)],
            "written": [word(path) for path in written],
            "written_hidden": [word(path) for path in written if _is_below(path, _HOMES)],
            "hidden": [word(path) for path in hidden],
        }

    def _store(self) -> list[Path]:
        """Return the directory of the shared store; nothing where that is on another host."""
        return [path for row, path in places.named(self.settings) if row.name == "shared-store"]

    def _filled_cache(self) -> list[Path]:
        """Return the compiler caches that this host fills for others; nothing where it only reads them."""
        remote = self.settings.ccache_remote
        return [remote] if remote and self.settings.ccache_writer else []

    def as_user(self, words: Sequence[str | os.PathLike[str]]) -> Sequence[str | os.PathLike[str]]:
        """Return a command that the service's user types, or that is run as that user."""
        if self.user == pwd.getpwuid(os.geteuid()).pw_name:
            return words
        return ["runuser", "-u", self.user, "--", *words] if os.geteuid() == 0 else ["sudo", "-u", self.user, *words]

    def directory(self, path: Path) -> Sequence[str | os.PathLike[str]]:
        """Return the command that makes a directory of the service's user, which may not write to the one above."""
        above = next((each for each in (path, *path.parents) if each.exists()), path)
        if self.user == pwd.getpwuid(os.geteuid()).pw_name and os.access(above, os.W_OK):
            return ["mkdir", "-p", path]
        return self.as_root(["install", "-d", "-o", self.user, path])

    def as_root(self, words: Sequence[str | os.PathLike[str]]) -> Sequence[str | os.PathLike[str]]:
        """Return a command that only root may type."""
        return words if os.geteuid() == 0 else ["sudo", *words]

    def _check_user(self) -> None:
        if not _USER.fullmatch(self.user):
            raise UsageError(f"--user: {self.user!r}; expected the name of a user", hint="./inv --help ci")
        if self.user == "root":
            why = "nothing of a night needs root, and a service of root would have more to give away"
            raise UsageError(
                "--user: root; expected another user", why=why, hint="useradd --system --create-home lvs-fullnat"
            )

    def _check_key(self) -> None:
        key = self.settings.gpg_key
        if places.FINGERPRINT.fullmatch(key):
            why = "the service sees no home directory, and so no keyring of a person"
            what = f"--gpg-key: {key}; expected the file of an exported key"
            raise UsageError(what, why=why, hint=f"gpg --export-secret-keys --armor {neutral.word(key)} > FILE")

    def _check_places(self) -> None:
        """Raise `UsageError` for a place that the service's user cannot enter, or that the service does not see."""
        for row, path in places.named(self.settings):
            if not path.is_absolute():  # of a command, which is not written anew
                given = getattr(self.settings, row.attribute)
                what = f"{row.option}: {given}; expected the program's whole path, or the name of one of PATH"
                why = "the service has another working directory"
                raise UsageError(what, why=why, hint=neutral.command(["realpath", path.absolute()]))
        for path in (*self._read_places(), self.settings.artifacts):
            if _is_below(path, _PRIVATE):
                why = "the service has directories of its own there, which are empty"
                what = f"{path}: expected a place outside of /tmp and /var/tmp"
                raise UsageError(what, why=why, hint=self._elsewhere(path))
        there = [each for each in self.checkout.parents if each.is_dir()]
        closed = next((each for each in there if not _may_enter(each, self.user)), None)
        if closed is not None:
            what = f"{self.checkout}: expected a checkout that {self.user} can read, got one below {closed}"
            raise UsageError(what, hint=f"cp -a {neutral.word(self.checkout)} /opt")

    def _elsewhere(self, path: Path) -> str:
        """Return the next command for a place that the service does not see; what is to be made is not there yet."""
        if path == self.settings.artifacts:
            settings = replace(self.request.settings, artifacts=_ARTIFACTS)
            return replace(self.request, settings=settings).made_by("systemd")
        if path == self.checkout and not path.exists():
            options = {**self.request.options, "checkout": _CHECKOUT}
            return replace(self.request, options=options).made_by("systemd")
        return f"cp -a {neutral.word(path)} /opt"

    def _read_places(self) -> list[Path]:
        """Return what the service reads: the checkout, its Python, and files that settings name."""
        named = [path for _, path in places.named(self.settings)]
        python = [Path(sys.base_prefix)] if self.checkout == resources.data_root() else []
        return list(dict.fromkeys([self.checkout, *python, *named]))


def _is_below(path: Path, tops: Sequence[Path]) -> bool:
    return any(path == top or top in path.parents for top in tops)


def _may_enter(directory: Path, user: str) -> bool:
    """Return whether a user may search a directory: its owner, as far as the user is known here, or everybody."""
    status = directory.stat()
    try:
        own = pwd.getpwnam(user).pw_uid
    except KeyError:
        own = None
    return status.st_uid == own or bool(status.st_mode & stat.S_IXOTH)


def word(raw: str | os.PathLike[str]) -> str:
    """Return one word of a unit file, as systemd.syntax(7) quotes it."""
    text = os.fspath(raw).replace("%", "%%")
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def command_line(words: Sequence[str | os.PathLike[str]]) -> str:
    """Return a command line of a unit file: systemd.service(5) replaces variables in it."""
    return " ".join(word(os.fspath(each).replace("$", "$$")) for each in words)
