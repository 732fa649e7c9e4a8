"""Keys are known by full fingerprint alone, and an RPM is good only by a signature of one of them."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.line_loader import load
from pipeline.config.line_model import Key
from pipeline.core import process
from pipeline.errors import Refused
from pipeline.sources import openpgp
from pipeline.sources.openpgp import PublicKey
from tests.fixtures import debianarchive
from tests.fixtures.toy import SRPM, Toy, make_toy

STRANGER = "0123456789ABCDEF0123456789ABCDEF01234567"
RPM_DATABASES = (Path("/var/lib/rpm"), Path("/usr/lib/sysimage/rpm"))


def pinned(fingerprint: str) -> Key:
    return Key(title="a key of these tests", fingerprint=fingerprint)


def keys_of(toy: Toy) -> list[PublicKey]:
    """The keys that the toy's line trusts."""
    known = load(line_file=toy.line_file).data.keys["toy"]
    return [openpgp.public_key("toy", known, (toy.line_file.parent / "toy-key.asc").read_bytes())]


def refusal(toy: Toy) -> Refused:
    with pytest.raises(Refused) as refused:
        openpgp.check_rpm(toy.mirror / SRPM, keys_of(toy))
    return refused.value


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of the person who runs the check; empty."""
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.setenv("HOME", str(directory))
    return directory


@pytest.fixture
def several() -> bytes:
    """Keys of three people, one armored block behind the other."""
    return b"\n".join(debianarchive.key(name).public for name in ("one", "two", "three"))


@pytest.mark.parametrize("name", ["one", "two", "three"])
def test_a_key_is_picked_out_of_a_keyring_with_several_by_its_full_fingerprint(several: bytes, name: str) -> None:
    wanted = debianarchive.key(name).fingerprint
    found = openpgp.public_key("theirs", pinned(wanted), several)
    assert (found.name, found.fingerprint, found.block.parts[0].expires) == ("theirs", wanted, None)
    assert fingerprints(openpgp.keyring([found])) == [wanted], "the others come no further"


def test_a_binary_keyring_is_read_like_an_armored_one(several: bytes) -> None:
    both = [openpgp.public_key(name, pinned(debianarchive.key(name).fingerprint), several) for name in ("one", "two")]
    binary = openpgp.keyring(both)
    assert not binary.startswith(b"-----BEGIN")
    assert openpgp.public_key("two", pinned(both[1].fingerprint), binary).fingerprint == both[1].fingerprint


def fingerprints(keyring: bytes) -> list[str]:
    """Those of the keys in a keyring, as gpg says."""
    with tempfile.TemporaryDirectory() as home:
        argv = ["gpg", "--homedir", home, "--no-autostart", "--batch", "--with-colons", "--show-keys"]
        shown = process.run(argv, stdin=keyring).text
    return re.findall(r"^fpr:+([0-9A-F]{40}):$", shown, re.MULTILINE)


def test_another_fingerprint_is_refused_and_those_that_were_had_are_named(several: bytes) -> None:
    with pytest.raises(Refused) as refused:
        openpgp.public_key("theirs", pinned(STRANGER), several)
    assert refused.value.what == "the key theirs was not found"
    had = ", ".join(debianarchive.key(name).fingerprint for name in ("one", "two", "three"))
    assert refused.value.why == f"wanted {STRANGER}, had {had}"


def test_a_fingerprint_that_only_ends_alike_is_refused(several: bytes) -> None:
    """Short and long key ids can be made to collide."""
    right = debianarchive.key("one").fingerprint
    alike = ("0" if right[0] != "0" else "1") + right[1:]
    with pytest.raises(Refused):
        openpgp.public_key("one", pinned(alike), several)


@pytest.mark.parametrize("material", [b"", b"no key", b"<html>404</html>", bytes(range(256))])
def test_what_holds_no_key_is_refused(material: bytes) -> None:
    with pytest.raises(Refused) as refused:
        openpgp.public_key("theirs", pinned(STRANGER), material)
    assert refused.value.why == f"wanted {STRANGER}, had no key at all"


def test_a_good_rpm_is_accepted_and_its_signer_named(tmp_path: Path) -> None:
    toy = make_toy(tmp_path)
    found = openpgp.check_rpm(toy.mirror / SRPM, keys_of(toy))
    assert (found.signer, found.fingerprint) == ("toy", toy.key_fingerprint)
    assert found.sentence == f"good signature by toy ({toy.key_fingerprint})"
    assert re.fullmatch(r"RSA/SHA\d+, \w{3} \w{3} .* 20\d\d", found.made)


def test_the_signer_is_found_among_several_keys(tmp_path: Path, several: bytes) -> None:
    toy = make_toy(tmp_path)
    others = [openpgp.public_key(n, pinned(debianarchive.key(n).fingerprint), several) for n in ("one", "two")]
    assert openpgp.check_rpm(toy.mirror / SRPM, [*others, *keys_of(toy)]).signer == "toy"


def test_a_good_signature_by_an_expired_key_is_accepted_and_said(tmp_path: Path) -> None:
    toy = make_toy(tmp_path, expired=True)
    [key] = keys_of(toy)
    expires = key.block.parts[0].expires
    assert expires is not None
    found = openpgp.check_rpm(toy.mirror / SRPM, [key])
    assert found.sentence == (
        f"good signature by toy ({toy.key_fingerprint}) of 2020-01-01, and the key expired on {expires:%Y-%m-%d}"
    )
    assert f"{expires:%Y}" == "2020"


@pytest.mark.parametrize(
    ("variant", "reason"),
    [
        ({"unsigned": True}, "Header RSA signature: NOTFOUND"),
        ({"signer": "other"}, "NOKEY"),
        ({"flip_payload": True}, "Payload SHA256 digest: BAD"),
        ({"truncated": True}, "Payload SHA256 digest: BAD"),
    ],
    ids=["unsigned", "foreign signer", "flipped payload", "truncated"],
)
def test_a_bad_rpm_is_refused_with_its_reason(tmp_path: Path, variant: dict[str, object], reason: str) -> None:
    toy = make_toy(tmp_path, **variant)
    refused = refusal(toy)
    assert refused.what == "the package's signature or digests are not good"
    assert refused.where == str(toy.mirror / SRPM)
    assert reason in refused.why
    assert refused.hint


@pytest.mark.parametrize(
    "content", [b"", b"no rpm at all", b"\xed\xab\xee\xdb" + bytes(500)], ids=["empty", "text", "lead"]
)
def test_what_is_no_rpm_is_refused(tmp_path: Path, content: bytes) -> None:
    toy = make_toy(tmp_path)
    (toy.mirror / SRPM).write_bytes(content)
    assert refusal(toy).why


def test_without_any_key_nothing_is_good(tmp_path: Path) -> None:
    with pytest.raises(Refused):
        openpgp.check_rpm(make_toy(tmp_path).mirror / SRPM, [])


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything below."""
    return {
        str(p): (p.lstat().st_size, p.lstat().st_mtime_ns) for p in [directory, *directory.rglob("*")] if p.exists()
    }


def test_the_persons_own_gnupg_and_rpm_are_not_touched(tmp_path: Path, home: Path) -> None:
    before = [snapshot(directory) for directory in RPM_DATABASES]
    toy = make_toy(tmp_path / "toy")
    openpgp.check_rpm(toy.mirror / SRPM, keys_of(toy))
    openpgp.keyring(keys_of(toy))
    assert list(home.iterdir()) == []
    assert [snapshot(directory) for directory in RPM_DATABASES] == before


def test_the_persons_own_settings_do_not_soften_the_check(tmp_path: Path, home: Path) -> None:
    """These macros, in force, would have rpmkeys check nothing, and gpg fail."""
    (home / ".rpmmacros").write_text("%_pkgverify_level none\n%_pkgverify_flags 0xfffff\n%_vsflags 0xfffff\n")
    (home / ".gnupg").mkdir(mode=0o700)
    (home / ".gnupg" / "gpg.conf").write_text("no-such-option\n")
    assert "NOKEY" in refusal(make_toy(tmp_path / "foreign", signer="other")).why
    assert "Payload SHA256 digest: BAD" in refusal(make_toy(tmp_path / "flipped", flip_payload=True)).why
    good = make_toy(tmp_path / "good")
    assert openpgp.check_rpm(good.mirror / SRPM, keys_of(good)).signer == "toy"


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory for temporary files; with a short name, so that an agent's socket would fit."""
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setattr("tempfile.tempdir", name)
        yield Path(name)


def test_no_temporary_file_is_left_and_no_agent(tmp_path: Path, several: bytes, temporary: Path) -> None:
    toy = make_toy(tmp_path)
    openpgp.check_rpm(toy.mirror / SRPM, keys_of(toy))
    openpgp.keyring([openpgp.public_key("one", pinned(debianarchive.key("one").fingerprint), several)])
    assert list(temporary.iterdir()) == []
    assert [words for words in command_lines() if str(temporary) in words] == []


def command_lines() -> Iterator[str]:
    """Of everything that runs."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")


def test_a_temporary_directory_with_a_long_name_does_not_matter(
    tmp_path: Path, several: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket's name must be shorter than 108 bytes, unix(7)."""
    long = tmp_path / ("long-" * 20)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    wanted = debianarchive.key("one").fingerprint
    assert fingerprints(openpgp.keyring([openpgp.public_key("one", pinned(wanted), several)])) == [wanted]
