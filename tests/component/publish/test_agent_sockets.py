"""Signing while the directory comes and goes below which gpg looks for the sockets of agents, /run/user/<uid>."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from pipeline.core import process, temporary
from pipeline.publish import signing
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import WHEN, agents, rpm, shared_keys

# As on a host to which nobody has logged in. `steps`: m makes the directory, r removes it, s signs with gpg and rpm.
SIGN = f"""\
import os, shutil, sys
from pathlib import Path
from pipeline.publish import signing
steps, keys, package, out = sys.argv[1], *map(Path, sys.argv[2:])
runtime = Path("/run/user", str(os.geteuid()))
out.mkdir()
(out / "file").write_text("x")
def step(letter, number):
    if letter == "m":
        runtime.mkdir(mode=0o700, parents=True)
    elif letter == "r":
        shutil.rmtree(runtime)
    else:
        signer.sign_detached(out / "file", {WHEN})
        signer.sign([package], out / str(number))
before, _, during = steps.partition("|")
for letter in before:
    step(letter, 0)
with signing.open_signer("", keys) as signer:
    for number, letter in enumerate(during):
        step(letter, number)
print(*runtime.glob("gnupg/*"))
"""


@pytest.mark.parametrize("steps", ["|sms", "m|srs", "m|srsms", "|smsrs"])
def test_a_login_and_the_last_logout_do_not_part_gpg_from_its_agent(inv: Inv, tmp_path: Path, steps: str) -> None:
    alone = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none /run && exec "$@"', "sh"]
    argv = [*alone, sys.executable, "-c", SIGN, steps, str(shared_keys()), str(rpm()), str(tmp_path / "out")]
    left = process.run(argv, env=inv.environment()).text
    assert left == "\n", "nothing is left below /run/user"
    assert inv.living() == agents(inv) == []


@pytest.mark.parametrize("kind", ["file", "directory", "nothing"])
def test_what_a_killed_run_noted_is_removed_and_never_in_the_way(inv: Inv, tmp_path: Path, kind: str) -> None:
    noted, home = tmp_path / "noted", tmp_path / "keys/.home-killed"
    home.mkdir(parents=True)
    (home / "fnat-sockets").write_text(str(noted))
    if kind == "file":
        noted.touch()
    elif kind == "directory":  # of code that let gpg have its sockets there
        noted.mkdir()
    with signing.open_signer("", tmp_path / "keys"):
        assert not home.exists() and not noted.is_file()


def test_the_sockets_have_room_below_a_place_for_temporary_files_of_any_length(
    inv: Inv, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = f"lvs-fullnat-{os.geteuid()}/run-12345678/home-12345678/h/S.gpg-agent.browser"
    longest = 107 - len(f"{inv.tmp}//{below}")  # unix(7)
    for length in range(longest - 3, longest + 3):
        place = inv.tmp / ("x" * length)
        place.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(place))
        with temporary.use_run_directory(), signing.open_signer("", shared_keys()) as signer:
            assert signer.key.development
