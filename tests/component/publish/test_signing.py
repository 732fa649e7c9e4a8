"""Packages and files signed by real gpg and rpmsign, and what is refused when they were not."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.core import faults, process
from pipeline.core.fs import sha256_of
from pipeline.errors import ExitCode, HostLacks, Refused, UsageError
from pipeline.formats import rpm_header
from pipeline.publish import el6_compat, keys, signing
from pipeline.publish.signing import Signer
from pipeline.sources import openpgp
from tests.fixtures.commandline import Inv
from tests.fixtures.rpms import WHEN, Person, agents, person, rpm, shared_keys

OPEN = """\
import sys
from pathlib import Path
from pipeline.publish import signing
with signing.open_signer("", Path(sys.argv[1])) as signer:
    print(signer.key.fingerprint)
"""
StandIn = Callable[[str, str], None]


@pytest.fixture
def packager(inv: Inv, monkeypatch: pytest.MonkeyPatch) -> Iterator[Person]:
    """Somebody whose keyring is the one that gpg finds."""
    somebody = person("packager")
    monkeypatch.setenv("GNUPGHOME", str(somebody.home))
    yield somebody
    somebody.stop_agent()


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Puts a shell script in a program's place."""
    directory = tmp_path / "stand-ins"
    directory.mkdir()

    def put(name: str, body: str) -> None:
        (directory / name).write_text(f"#!/bin/sh\nREAL={shutil.which(name)}\n{body}\n")
        (directory / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    return put


def test_a_clock_that_was_set_back_before_the_key_was_made_is_of_the_host(
    packager: Person, stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = shared_keys()
    stand_in("gpg", 'exec "$REAL" --faked-system-time 20000101T000000 "$@"')
    monkeypatch.setattr(keys, "time", SimpleNamespace(**{**vars(time), "time": lambda: 946684800.0}))
    for setting, place in (("", directory), (packager.fingerprint, tmp_path)):
        with pytest.raises(HostLacks, match="the clock: ") as lacks, keys.open_key(setting, place):
            pass
        assert "in the future" in lacks.value.why
        assert lacks.value.hint == "./inv doctor"


def modes(directory: Path) -> dict[str, int]:
    return {str(p.relative_to(directory)): stat.S_IMODE(p.lstat().st_mode) for p in directory.rglob("*")}


def rpmkeys(path: Path, public: bytes, place: Path) -> str:
    """What rpmkeys says of a package when it knows one key only."""
    place.mkdir()
    (place / "key.asc").write_bytes(public)
    base = ["rpmkeys", "--dbpath", str(place / "rpmdb")]
    process.run([*base, "--import", place / "key.asc"])
    return process.run([*base, "--define", "_pkgverify_level all", "-Kv", path], accept=range(256)).text


# --- The development key -------------------------------------------------------------------------------


def test_a_development_key_is_made_on_first_use_and_says_what_it_is(inv: Inv, tmp_path: Path) -> None:
    directory = tmp_path / "artifacts" / "keys"
    with signing.open_signer("", directory) as signer:
        key = signer.key
    assert key.development
    assert key.identity == "LVS FULLNAT development key (NOT for production)"
    assert key.name == "lvs-fullnat-development"
    assert "NOT FOR PRODUCTION" in str(key)
    assert "NOT for production" in (directory / "development" / "README").read_text()
    shown = process.run(["gpg", "--homedir", inv.home, "--show-keys", "--with-colons"], stdin=key.armor).text
    assert re.search(r"^pub:.?:3072:1:", shown, re.MULTILINE) and "sub:" not in shown
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    left = modes(directory)
    assert left.pop("development") == 0o700
    assert left.pop("development/secret.asc") == 0o600
    assert set(left) == {".lock", "development/public.asc", "development/README"}


def test_the_development_key_is_the_same_the_second_time(inv: Inv, tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        with signing.open_signer("", tmp_path / "keys") as signer:
            found.append(signer.key)
    assert found[0] == found[1]


def test_two_that_need_a_development_key_at_once_get_one(inv: Inv, tmp_path: Path) -> None:
    argv = [sys.executable, "-c", OPEN, str(tmp_path / "keys")]
    with process.start(argv, env=inv.environment()) as one, process.start(argv, env=inv.environment()) as two:
        said = [child.communicate(timeout=60)[0] for child in (one, two)]
    assert said[0] == said[1] and re.fullmatch(rb"[0-9A-F]{40}\n", said[0])


@pytest.mark.parametrize("point", ["key.made", "key.before-rename"])
def test_a_kill_while_the_key_is_made_leaves_no_half_of_it_and_no_agent(inv: Inv, tmp_path: Path, point: str) -> None:
    directory = tmp_path / "keys"
    argv = [sys.executable, "-c", OPEN, str(directory)]
    with process.start(argv, env=inv.environment(FNAT_TRACE_KILL=point)) as child:
        assert child.wait(60) == -signal.SIGKILL
    assert not (directory / "development").exists()
    assert inv.living() == agents(inv) == []
    sockets = [Path(note.read_text()) for note in directory.glob(".home-*/fnat-sockets")]
    assert process.run(argv, env=inv.environment()).out
    assert not any(path.exists() for path in sockets)
    assert {path.name for path in directory.iterdir()} == {".lock", "development"}


def test_a_key_is_complete_before_it_is_moved_to_its_place(
    inv: Inv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def point(name: str) -> None:
        if name == "key.before-rename":
            [made] = (tmp_path / "keys").glob(".making-*/development")
            seen.append((made.stat().st_ino, {path.name: path.read_bytes() for path in made.iterdir()}))

    monkeypatch.setattr(faults, "point", point)
    with signing.open_signer("", tmp_path / "keys"):
        place = tmp_path / "keys" / "development"
        assert seen == [(place.stat().st_ino, {path.name: path.read_bytes() for path in place.iterdir()})]


def test_a_development_key_is_one_wherever_it_is_taken_from(inv: Inv) -> None:
    with signing.open_signer(str(shared_keys() / "development" / "secret.asc"), shared_keys()) as signer:
        assert signer.key.development


def test_what_lies_in_the_development_keys_place_is_not_touched(inv: Inv, tmp_path: Path) -> None:
    mine = tmp_path / "keys" / "development" / "notes"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(HostLacks, match="development: occupied") as lacks, signing.open_signer("", tmp_path / "keys"):
        pass
    assert lacks.value.hint.startswith("mv ")
    assert mine.read_text() == "mine"


def test_no_room_for_a_key_is_the_hosts_fault(inv: Inv, tmp_path: Path, stand_in: StandIn) -> None:
    full = "echo 'gpg: agent_genkey failed: No space left on device' >&2; exit 2"
    stand_in("gpg", f'case "$*" in *--quick-generate-key*) {full};; esac; exec "$REAL" "$@"')
    with pytest.raises(HostLacks, match="no disk space") as lacks, signing.open_signer("", tmp_path / "keys"):
        pass
    assert lacks.value.where == str(tmp_path / "keys")
    assert [path.name for path in (tmp_path / "keys").iterdir()] == [".lock"]


# --- A person's key ------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", [str, str.lower, lambda text: " ".join(re.findall("....", text))])
def test_a_fingerprint_names_a_key_in_the_persons_own_keyring(
    packager: Person, tmp_path: Path, spelling: Callable[[str], str]
) -> None:
    with signing.open_signer(spelling(packager.fingerprint), tmp_path / "keys") as signer:
        assert (signer.key.fingerprint, signer.key.development) == (packager.fingerprint, False)
        assert signer.key.identity == "packager <packager@example.org>"
        [signed] = signer.sign([rpm()], tmp_path / "out")
    assert "OK" in rpmkeys(signed.path, signer.key.armor, tmp_path / "check")
    assert not (tmp_path / "keys").exists()


def test_an_exported_key_signs_from_a_home_that_is_gone_afterwards(inv: Inv, tmp_path: Path) -> None:
    packager = person("packager")
    with signing.open_signer(str(packager.secret), tmp_path / "keys") as signer:
        assert (signer.key.fingerprint, signer.key.development) == (packager.fingerprint, False)
        assert signer.key.name == f"lvs-fullnat-{packager.fingerprint[-8:].lower()}"
        signer.sign([rpm()], tmp_path / "out")
    assert list((tmp_path / "keys").iterdir()) == []
    assert list(inv.home.iterdir()) == list(inv.tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("edwards", {"kind": "ed25519"}, "no RSA key"),
        ("old fashioned", {"kind": "dsa2048"}, "no RSA key"),
        ("weak", {"kind": "rsa1024"}, "no RSA key of 2048"),
        ("late", {"expires": "1y", "clock": "20200101T120000"}, "it has expired"),
        ("certifier", {"use": "cert"}, "its primary key cannot sign"),
    ],
)
def test_a_key_that_old_rpm_could_not_check_is_refused(
    inv: Inv, tmp_path: Path, name: str, options: dict[str, str], why: str
) -> None:
    somebody = person(name, **options)
    with pytest.raises(Refused) as refused, signing.open_signer(str(somebody.secret), tmp_path / "keys"):
        pass
    assert refused.value.where == somebody.fingerprint
    assert why in refused.value.why


def test_a_fingerprint_that_the_keyring_does_not_have_is_a_mistake(packager: Person, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as wrong, signing.open_signer("0" * 40, tmp_path):
        pass
    expected = f"expected the secret key {'0' * 40}, got {packager.fingerprint}"
    assert wrong.value.what == f"the signing key: not found; {expected}"


def test_without_a_keyring_a_fingerprint_is_a_mistake(inv: Inv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GNUPGHOME", raising=False)
    with pytest.raises(UsageError, match="GnuPG home: not found") as wrong, signing.open_signer("0" * 40, inv.cwd):
        pass
    assert wrong.value.where == str(inv.home / ".gnupg")


def test_files_that_hold_not_exactly_one_secret_key_are_refused(inv: Inv, tmp_path: Path) -> None:
    one, two = person("packager"), person("late", expires="1y", clock="20200101T120000")
    both, public, junk = tmp_path / "both", tmp_path / "public", tmp_path / "junk"
    both.write_bytes(one.secret.read_bytes() + two.secret.read_bytes())
    public.write_bytes(one.public.read_bytes())
    junk.write_text("no key")
    for file, error, said in (
        (both, UsageError, f"expected one secret key, got {one.fingerprint}, {two.fingerprint}"),
        (public, UsageError, "expected one secret key, got no secret key"),
        (junk, Refused, "the signing key: gpg does not import it"),
        (tmp_path / "absent", UsageError, "the signing key: No such file"),
    ):
        with pytest.raises(error) as caught, signing.open_signer(str(file), tmp_path / "keys"):
            pass
        assert said in str(caught.value)


def test_a_key_that_does_not_sign_is_told_before_any_work(packager: Person, tmp_path: Path, stand_in: StandIn) -> None:
    stand_in("gpg", 'case "$*" in *--detach-sign*) echo "no pinentry" >&2; exit 2;; esac; exec "$REAL" "$@"')
    with pytest.raises(Refused, match="does not sign") as refused, signing.open_signer(packager.fingerprint, tmp_path):
        pass
    assert "no pinentry" in refused.value.why


def test_an_agent_that_does_not_start_is_the_hosts_fault(inv: Inv, tmp_path: Path, stand_in: StandIn) -> None:
    stand_in("gpg-agent", "exit 2")
    with pytest.raises(HostLacks, match="gpg-agent: did not start"), signing.open_signer("", shared_keys()):
        pass


def test_an_agent_whose_socket_is_there_before_it_listens_is_waited_for(inv: Inv, stand_in: StandIn) -> None:
    bind = "import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])"
    place = '"$(gpgconf --homedir "$2" --list-dirs agent-socket)"'
    stand_in("gpg-agent", f'python3 -c "{bind}" {place}; sleep 0.5; exec "$REAL" "$@"')
    with signing.open_signer("", shared_keys()) as signer:
        assert signer.key.development


# --- Signing packages ----------------------------------------------------------------------------------


def test_packages_are_signed_twice_and_the_inputs_stay_as_they_are(signer: Signer, tmp_path: Path) -> None:
    rpms = [rpm(), rpm("keepalived"), rpm("kernel")]
    before = [sha256_of(path) for path in rpms]
    signed = signer.sign(rpms, tmp_path / "out")
    assert [sha256_of(path) for path in rpms] == before
    assert [item.package.name for item in signed] == ["ipvsadm", "keepalived", "kernel"]
    for item in signed:
        assert item.path == tmp_path / "out" / item.package.file_name
        el6_compat.check(item.path, key_id=signer.key.id)
        said = rpmkeys(item.path, signer.key.armor, tmp_path / item.package.name)
        assert re.search(r"Header V4 RSA/SHA256 Signature, key ID [0-9a-f]{8}: OK", said)
        assert re.search(r"^ +V4 RSA/SHA256 Signature, key ID [0-9a-f]{8}: OK", said, re.MULTILINE)
        assert stat.S_IMODE(item.path.stat().st_mode) == 0o444


def test_a_package_is_called_what_its_header_says(signer: Signer, tmp_path: Path) -> None:
    shutil.copy(rpm(), tmp_path / "kernel-9.rpm")
    [signed] = signer.sign([tmp_path / "kernel-9.rpm"], tmp_path / "out")
    assert signed.path.name == "ipvsadm-1.2.1-fnat.0.noarch.rpm"


def test_the_same_package_signed_again_is_the_same_bytes(signer: Signer, tmp_path: Path) -> None:
    digests = {sha256_of(signer.sign([rpm()], tmp_path / name)[0].path) for name in ("one", "two")}
    with signing.open_signer("", shared_keys()) as another:
        digests.add(sha256_of(another.sign([rpm()], tmp_path / "three")[0].path))
    assert len(digests) == 1


def test_a_signature_bears_the_build_time_or_the_keys_own_when_that_is_later(
    signer: Signer, inv: Inv, tmp_path: Path
) -> None:
    def when(by: Signer, name: str) -> str:
        [signed] = by.sign([rpm()], tmp_path / name)
        return openpgp.check_rpm(signed.path, [by.key.public]).made

    year = process.run(["date", "--utc", f"--date=@{signer.key.created}", "+%Y"]).text.strip()
    assert when(signer, "now").endswith(year)
    with signing.open_signer(str(person("old", clock="20110101T120000").secret), tmp_path / "keys") as old:
        assert when(old, "then").startswith("RSA/SHA256, Tue Jun 12 ") and old.key.created < WHEN
        assert when(old, "again").endswith("2012")


def test_a_package_that_somebody_else_signed_is_signed_anew(signer: Signer, inv: Inv, tmp_path: Path) -> None:
    with signing.open_signer(str(person("packager").secret), tmp_path / "keys") as other:
        [theirs] = other.sign([rpm()], tmp_path / "theirs")
    [ours] = signer.sign([theirs.path], tmp_path / "ours")
    assert openpgp.check_rpm(ours.path, [signer.key.public]).fingerprint == signer.key.fingerprint
    assert sha256_of(ours.path) == sha256_of(signer.sign([rpm()], tmp_path / "direct")[0].path)


def test_two_packages_of_one_name_are_refused(signer: Signer, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="two packages of this name"):
        signer.sign([rpm(), rpm(text="other")], tmp_path / "out")


def test_what_is_no_package_is_refused(signer: Signer, tmp_path: Path) -> None:
    (tmp_path / "f.rpm").write_text("no package")
    with pytest.raises(Refused, match="not an RPM package"):
        signer.sign([tmp_path / "f.rpm"], tmp_path / "out")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("exit 0", "Header RSA signature: NOTFOUND"),
        ('for last; do :; done; "$REAL" "$@" && exec "$REAL" --delsign "$last"', "NOTFOUND"),
        ('"$REAL" "$@"; for last; do :; done; printf X | dd of="$last" bs=1 seek=5600 conv=notrunc', "BAD"),
        # Without the v3 signature rpm 4.8 would know the payload by MD5 only.
        ('shift 2; exec "$REAL" --addsign "$@"', "no RSA signature over its header and payload"),
    ],
    ids=["does nothing", "takes it off again", "damages the payload", "signs the header only"],
)
def test_signing_that_does_not_sign_is_found_out(
    signer: Signer, tmp_path: Path, stand_in: StandIn, body: str, why: str
) -> None:
    stand_in("rpmsign", body)
    with pytest.raises(Refused) as refused:
        signer.sign([rpm()], tmp_path / "out")
    assert "not signed although rpmsign reported no error; expected signatures by" in refused.value.what
    assert refused.value.code is ExitCode.REFUSED
    assert why in refused.value.why


def test_a_signature_by_another_key_is_found_out(signer: Signer, inv: Inv, tmp_path: Path, stand_in: StandIn) -> None:
    with signing.open_signer(str(person("old", clock="20110101T120000").secret), tmp_path / "keys") as other:
        extra = f'--define "_gpg_name {other.key.fingerprint}!" --define "_gpg_path {other.gnupg.home}"'
        stand_in("rpmsign", f'first=$1; shift; exec "$REAL" "$first" "$@" {extra}')
        with pytest.raises(Refused) as refused:
            signer.sign([rpm()], tmp_path / "out")
    assert "NOKEY" in refused.value.why


def test_a_package_that_changes_under_the_hand_is_refused(signer: Signer, tmp_path: Path, stand_in: StandIn) -> None:
    """Another package, well signed, in the place of the one that was asked for."""
    [other] = signer.sign([rpm(text="other")], tmp_path / "other")
    stand_in("rpmsign", f'for last; do :; done; cat {other.path} > "$last"')
    with pytest.raises(Refused, match="changed by rpmsign"):
        signer.sign([rpm()], tmp_path / "out")


def test_the_persons_own_settings_change_nothing(signer: Signer, inv: Inv, tmp_path: Path) -> None:
    macros = "%__gpg /bin/true\n%__gpg_sign_cmd /bin/false\n%_gpg_name nobody\n%_pkgverify_level none\n"
    (inv.home / ".rpmmacros").write_text(macros)
    (inv.home / ".gnupg").mkdir(mode=0o700)
    (inv.home / ".gnupg" / "gpg.conf").write_text("no-such-option\n")
    signer.sign([rpm()], tmp_path / "out")
    assert {path.name for path in inv.home.rglob("*")} == {".rpmmacros", ".gnupg", "gpg.conf"}


# --- Signing files -------------------------------------------------------------------------------------


def test_a_file_is_signed_beside_itself_armored_and_reproducibly(signer: Signer, tmp_path: Path) -> None:
    file = tmp_path / "repomd.xml"
    file.write_text("<repomd/>")
    first = signer.sign_detached(file, WHEN).read_bytes()
    assert first.startswith(b"-----BEGIN PGP SIGNATURE-----")
    assert signer.sign_detached(file, WHEN).read_bytes() == first
    assert signer.sign_detached(file, signer.key.created + 1).read_bytes() != first
    signing.check_detached(file, tmp_path / "repomd.xml.asc", signer.key.public)


def test_a_changed_file_another_key_and_no_signature_are_refused(signer: Signer, inv: Inv, tmp_path: Path) -> None:
    file = tmp_path / "repomd.xml"
    file.write_text("<repomd/>")
    made = signer.sign_detached(file, WHEN)
    somebody = person("packager")
    other = keys.public_key("packager", somebody.fingerprint, somebody.public.read_bytes())
    with pytest.raises(Refused, match="signature is not good"):
        signing.check_detached(file, made, other)
    with pytest.raises(Refused, match=r"the signature of repomd\.xml: cannot be checked; expected absent\.asc"):
        signing.check_detached(file, tmp_path / "absent.asc", signer.key.public)
    file.write_text("<repomd />")
    with pytest.raises(Refused, match="signature is not good") as refused:
        signing.check_detached(file, made, signer.key.public)
    assert refused.value.why == "it is not over this content"


def test_gpg_that_signs_nothing_is_found_out(signer: Signer, tmp_path: Path, stand_in: StandIn) -> None:
    (tmp_path / "f").write_text("x")
    stand_in("gpg", 'case "$*" in *--detach-sign*) exit 0;; esac; exec "$REAL" "$@"')
    with pytest.raises(Refused, match="signature is not good"):
        signer.sign_detached(tmp_path / "f", WHEN)


# --- What is left --------------------------------------------------------------------------------------


def test_nothing_is_left_running_and_no_temporary_file(inv: Inv, tmp_path: Path) -> None:
    with signing.open_signer("", tmp_path / "keys") as signer:
        signer.sign([rpm()], tmp_path / "out")
        assert agents(inv, 0), "the test could not see an agent"
    assert inv.living(0) == agents(inv, 0) == []
    assert list(inv.tmp.iterdir()) == []
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {".lock", "development"}


def test_a_failure_leaves_no_agent_either(inv: Inv, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), signing.open_signer("", shared_keys()):
        raise RuntimeError
    assert inv.living(0) == agents(inv, 0) == []


def test_a_deep_directory_and_a_deep_place_for_temporary_files_do_not_matter(
    inv: Inv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("deep-" * 20)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    secret = shared_keys() / "development" / "secret.asc"
    with signing.open_signer(str(secret), deep / "keys") as signer:
        assert signer.key.development


def test_signing_in_a_process_of_its_own_can_be_killed_at_any_time(inv: Inv, tmp_path: Path) -> None:
    waiting = OPEN + "    print('ready', flush=True); import time; time.sleep(60)\n"
    argv = [sys.executable, "-c", waiting, str(shared_keys())]
    with process.start(argv, env=inv.environment()) as child:
        assert child.stdout is not None
        while child.stdout.readline() != b"ready\n":
            assert child.poll() is None
        assert agents(inv, 0)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert agents(inv) == [], "it goes by itself"


def test_rpmheader_and_rpm_agree_on_what_a_package_is(tmp_path: Path) -> None:
    path = rpm("epochal", "Epoch: 3", "Requires: other >= 2")
    read = rpm_header.read(path)
    query = "%{NAME}-%{EPOCH}:%{VERSION}-%{RELEASE}.%{ARCH} %{BUILDTIME} %{PAYLOADCOMPRESSOR}\n[%{REQUIRENAME}\n]"
    argv = ["rpm", "--dbpath", str(tmp_path / "rpmdb"), "-qp", "--qf", query, str(path)]
    said = process.run(argv).text.splitlines()
    assert said[0] == f"{read.nevra} {read.build_time} {read.header.text(rpm_header.Tag.PAYLOAD_COMPRESSOR)}"
    assert tuple(said[1:]) == read.header.texts(rpm_header.Tag.REQUIRE_NAME)
