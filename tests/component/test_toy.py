"""The toy is honest: what tests of the pipeline rest on is as the real rpm, patch, gpg and rpmbuild see it.

The material under test is `tests.fixtures.toy`; nothing of the pipeline but the line model is used.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
from pathlib import Path

import pytest

from pipeline.config.line_loader import load
from pipeline.config.line_model import SrpmSource
from pipeline.core.process import Result, clean_environment, run
from tests.fixtures.toy import NVR, SRPM, Toy, make_toy
from tests.fixtures.toy.patches import without_config
from tests.fixtures.toy.workplace import rpm_options

CONN = "net/netfilter/ipvs/ip_vs_conn.c"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("good"))


def verify(toy: Toy, private: Path) -> Result:
    """rpmkeys' answer when it knows the one key that the line names."""
    options = rpm_options(private)
    run(["rpmkeys", *options, "--import", toy.line_file.parent / "toy-key.asc"])
    strict = ["--define", "_pkgverify_level all", "-K", "-v"]  # without it unsigned packages pass
    return run(["rpmkeys", *options, *strict, toy.mirror / SRPM], accept=range(256))


def apply(toy: Toy, name: str, *options: str) -> Result:
    """GNU patch on the toy's tree, with the section of `.config` left out."""
    kept = without_config(toy.patches[name].read_bytes())
    return run(["patch", "-p1", *options], cwd=toy.tree, stdin=kept, accept=(0, 1))


def query(package: Path, *words: str) -> str:
    return run(["rpm", *rpm_options(package.parent / "private"), "--nosignature", "-qp", *words, package]).text


def build(toy: Toy, private: Path, *words: str, patch: bytes = b"", config: tuple[str, str] = ("", "")) -> Result:
    """rpmbuild of the toy; `patch` goes through the spec's hook, `config` replaces text of config-generic."""
    options = rpm_options(private)
    env = clean_environment(HOME=str(private))
    run(["rpm", *options, "--nosignature", "-i", toy.mirror / SRPM], env=env)
    sources = private / "rpmbuild" / "SOURCES"
    (sources / "linux-kernel-test.patch").write_bytes(patch)
    generic = sources / "config-generic"
    generic.write_text(generic.read_text().replace(*config) if config[0] else generic.read_text() + config[1])
    defined = ["--define", "_buildshell /bin/bash", "--define", "debug_package %{nil}"]
    known_good = ["--nodeps", "--with", "baseonly", "--with", "firmware", "--target=x86_64"]
    known_good += [word for name in ("debuginfo", "perf", "fips") for word in ("--without", name)]
    spec = private / "rpmbuild" / "SPECS" / "kernel.spec"
    return run(["rpmbuild", "-bb", *options, *defined, *known_good, *words, spec], env=env, accept=(0, 1))


def packages(private: Path) -> dict[str, Path]:
    """The packages built, by name."""
    built = sorted((private / "rpmbuild" / "RPMS" / "x86_64").iterdir())
    return {query(package, "--qf", "%{NAME}"): package for package in built}


def content(package: Path, member: str) -> bytes:
    """One file of a package; `member` is its path without the leading slash."""
    archive = run(["rpm2cpio", package]).out
    return run(["cpio", "-i", "--quiet", "--to-stdout", f"./{member}"], stdin=archive).out


def test_line_file_loads_and_differs_from_el6_only_in_what_a_toy_needs(good: Toy) -> None:
    line = load(line_file=good.line_file)
    assert (line.name, line.data.kernel) == ("toy", "2.6.32-220.23.1.el6")
    assert line.data.rules == load("el6").data.rules
    assert line.data.keys["toy"].fingerprint == good.key_fingerprint
    assert line.override is not None
    assert all(change.startswith(("keys.toy", "sources.", "patches")) for change in line.override.changes)


def test_no_pin_of_upstream_is_left_in_the_line(good: Toy) -> None:
    toy, upstream = load(line_file=good.line_file).data, load("el6").data
    for name, patch in toy.patches.items():
        theirs = upstream.patches[name].effect
        assert patch.effect and not {path for path, blob in patch.effect.items() if theirs.get(path) == blob}
    assert not set(re.findall(r"[0-9a-f]{64}", toy.sources["lvs-tarball"].model_dump_json())) & set(
        re.findall(r"[0-9a-f]{64}", upstream.sources["lvs-tarball"].model_dump_json())
    )


def test_spec_holds_every_anchor_of_the_line(good: Toy, tmp_path: Path) -> None:
    source = load(line_file=good.line_file).data.sources["kernel-srpm"]
    assert isinstance(source, SrpmSource)
    run(["rpm", *rpm_options(tmp_path), "--nosignature", "-i", good.mirror / SRPM])
    spec = (tmp_path / "rpmbuild" / "SPECS" / "kernel.spec").read_bytes()
    assert set(source.spec.contains) <= set(spec.decode().splitlines())
    assert source.spec.known["toy"] == hashlib.sha256(spec).hexdigest()


def test_srpm_is_named_and_digested_as_upstreams(good: Toy) -> None:
    assert query(good.mirror / SRPM, "--qf", "%{NAME}-%{VERSION}-%{RELEASE} %{SOURCERPM} %{FILEDIGESTALGO}") == (
        f"{NVR} (none) 8"
    )


def git(toy: Toy, place: Path, *words: str, stdin: bytes = b"") -> str:
    """git in the toy's tree, with its repository and no settings but these at `place`."""
    env = clean_environment(HOME=str(place), GIT_DIR=str(place / "git"), GIT_WORK_TREE=str(toy.tree))
    return run(["git", "-c", "core.autocrlf=false", *words], cwd=toy.tree, env=env, stdin=stdin).text


def test_tree_holds_what_makes_trees_difficult(good: Toy, tmp_path: Path) -> None:
    files = [path.relative_to(good.tree) for path in good.tree.rglob("*") if path.is_symlink() or path.is_file()]
    assert [path for path in files if (good.tree / path).is_symlink()]
    assert [path for path in files if os.access(good.tree / path, os.X_OK)]
    assert len({str(path).lower() for path in files}) == len(files) - 1
    git(good, tmp_path, "init", "-q")
    listed = "".join(f"{path}\n" for path in files).encode()
    hidden = git(good, tmp_path, "check-ignore", "--stdin", stdin=listed).split()
    assert {".mailmap", "arch/x86/lib/toy.s", "firmware/toy/toy.bin"} <= set(hidden)


def test_tree_pin_is_what_git_says_when_nothing_is_left_out(good: Toy, tmp_path: Path) -> None:
    source = load(line_file=good.line_file).data.sources["kernel-srpm"]
    assert isinstance(source, SrpmSource)
    git(good, tmp_path, "init", "-q")
    git(good, tmp_path, "add", "-A")
    assert git(good, tmp_path, "write-tree").strip() != source.tree.git_tree  # .gitignore hides files
    git(good, tmp_path, "add", "-f", "-A")
    assert git(good, tmp_path, "write-tree").strip() == source.tree.git_tree
    manifest = lzma.decompress((good.line_file.parent / str(source.tree.manifest)).read_bytes()).decode()
    staged = [re.fullmatch(r"(\d+) (\w+) 0\t(.*)", row) for row in git(good, tmp_path, "ls-files", "-s").splitlines()]
    assert manifest.splitlines() == [" ".join(row.groups()) for row in staged if row]
    assert len(staged) == source.tree.entries


def test_archive_unpacks_to_the_tree(good: Toy, tmp_path: Path) -> None:
    run(["rpm", *rpm_options(tmp_path), "--nosignature", "-i", good.mirror / SRPM])
    archive = tmp_path / "rpmbuild" / "SOURCES" / f"{good.tree.name}.tar.bz2"
    run(["tar", "-xf", archive], cwd=tmp_path)
    same = run(["diff", "-r", "--no-dereference", tmp_path / good.tree.name, good.tree], accept=(0, 1))
    assert (same.status, same.text) == (0, "")


def test_rpmkeys_accepts_the_good_srpm(good: Toy, tmp_path: Path) -> None:
    result = verify(good, tmp_path)
    assert result.status == 0, result.text
    assert re.search(r"Header V4 RSA/SHA\d+ Signature, key ID [0-9a-f]+: OK", result.text)
    assert good.key_fingerprint.lower().endswith(re.findall(r"key ID ([0-9a-f]+): OK", result.text)[0])


@pytest.mark.parametrize(
    ("variant", "complaint"),
    [
        ({"flip_payload": True}, "Payload SHA256 digest: BAD"),
        ({"truncated": True}, "Payload SHA256 digest: BAD"),
        ({"unsigned": True}, "Header RSA signature: NOTFOUND"),
        ({"signer": "other"}, "NOKEY"),
    ],
    ids=["flipped", "truncated", "unsigned", "other signer"],
)
def test_rpmkeys_refuses_a_bad_srpm(variant: dict[str, object], complaint: str, tmp_path: Path) -> None:
    result = verify(make_toy(tmp_path, **variant), tmp_path)
    assert result.status != 0
    assert complaint in result.text


def test_expired_key_has_expired_and_its_signature_is_good(tmp_path: Path) -> None:
    toy = make_toy(tmp_path, expired=True)
    assert verify(toy, tmp_path).status == 0
    shown = run(["gpg", "--homedir", tmp_path, "--with-colons", "--show-keys", tmp_path / "line" / "toy-key.asc"]).text
    assert shown.startswith("pub:e:")
    assert toy.key_fingerprint in shown


@pytest.mark.parametrize("name", ["lvs", "toa"])
def test_patch_applies_without_fuzz_or_offset(name: str, tmp_path: Path) -> None:
    toy = make_toy(tmp_path)
    result = apply(toy, name, "-F0")
    assert result.status == 0, result.text
    assert "Hunk" not in result.text
    effect = load(line_file=toy.line_file).data.patches[name].effect
    assert {path: _blob(toy.tree / path) for path in effect} == dict(effect)


def _blob(path: Path) -> str:
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def test_lvs_patch_begins_with_a_section_that_cannot_apply(good: Toy) -> None:
    patch = good.patches["lvs"].read_bytes()
    assert re.match(rb"diff -uprN \S+/\.config \S+/\.config\n--- \S+\t\d{4}-\d\d-\d\d ", patch)
    result = run(["patch", "-p1", "--dry-run"], cwd=good.tree, stdin=patch, accept=(1,))
    assert "can't find file to patch at input line 4" in result.text
    left_out = load(line_file=good.line_file).data.patches["lvs"].leave_out[0]
    assert left_out.sha256_before == hashlib.sha256(patch).hexdigest()
    assert left_out.sha256_after == hashlib.sha256(without_config(patch)).hexdigest()


@pytest.mark.parametrize(
    ("variant", "said"),
    [({"fuzz": True}, "with fuzz 1"), ({"offset": True}, "(offset 6 lines)")],
    ids=["fuzz", "offset"],
)
def test_hunk_needs_fuzz_or_offset(variant: dict[str, object], said: str, tmp_path: Path) -> None:
    toy = make_toy(tmp_path, **variant)
    result = apply(toy, "lvs", "-F1")
    assert result.status == 0, result.text
    hunks = [line for line in result.text.splitlines() if line.startswith("Hunk #1")]
    assert len(hunks) == 1 and said in hunks[0]
    assert _blob(toy.tree / CONN) == load(line_file=toy.line_file).data.patches["lvs"].effect[CONN]


def test_variants_change_what_they_say_and_leave_the_pins(good: Toy, tmp_path: Path) -> None:
    variants: dict[str, dict[str, object]] = {
        "missing": {"tree_missing": [CONN]},
        "extra": {"tree_extra": {"net/extra.c": "/* extra */\n"}},
        "changed": {"tree_changed": {CONN: "/* changed */\n"}},
        "config": {"config_changed": True},
        "release": {"release": "220.24.1"},
    }
    pins = load(line_file=good.line_file).data.sources["kernel-srpm"].model_dump(exclude={"urls"})
    original = (good.mirror / SRPM).read_bytes()
    for name, variant in variants.items():
        toy = make_toy(tmp_path / name, **variant)
        assert load(line_file=toy.line_file).data.sources["kernel-srpm"].model_dump(exclude={"urls"}) == pins, name
        assert (toy.mirror / SRPM).read_bytes() != original, name
    assert query(tmp_path / "release" / "mirror" / SRPM) == "kernel-2.6.32-220.24.1.el6.src\n"


def test_swapped_patches_and_another_option_number_show_only_in_content(tmp_path: Path) -> None:
    swapped = load(line_file=make_toy(tmp_path / "swapped", swap_patches=True).line_file).data
    assert [swapped.roles[name].series for name in swapped.roles if name != "stock"] == [("toa",), ("lvs",)]
    assert (swapped.patches["lvs"].role, swapped.patches["toa"].role) == ("realserver", "director")
    other = make_toy(tmp_path / "other", option_number=254)
    patch = other.patches["toa"].read_bytes()
    assert b"+#define TCPOPT_TOA  254\n" in patch
    assert load(line_file=other.line_file).data.patches["toa"].sha256 == hashlib.sha256(patch).hexdigest()


def test_wrong_patch_digest_and_dropped_anchor_are_there(tmp_path: Path) -> None:
    wrong = make_toy(tmp_path / "digest", patch_digest_wrong=True)
    right = hashlib.sha256(wrong.patches["lvs"].read_bytes()).hexdigest()
    assert load(line_file=wrong.line_file).data.patches["lvs"].sha256 != right
    dropped = make_toy(tmp_path / "anchor", spec_drops_anchor=True)
    run(["rpm", *rpm_options(tmp_path), "--nosignature", "-i", dropped.mirror / SRPM])
    spec = (tmp_path / "rpmbuild" / "SPECS" / "kernel.spec").read_text()
    assert "ApplyOptionalPatch linux-kernel-test.patch" not in spec


def test_rpmbuild_makes_the_stock_packages(good: Toy, tmp_path: Path) -> None:
    result = build(good, tmp_path)
    assert result.status == 0, result.error_text
    built = packages(tmp_path)
    assert sorted(built) == ["kernel", "kernel-devel", "kernel-firmware", "kernel-headers"]
    assert built["kernel"].name == f"{NVR}.x86_64.rpm"
    assert b"CONFIG_IP_VS_TAB_BITS=12\n" in content(built["kernel"], "boot/config-2.6.32-220.23.1.el6.x86_64")
    assert "/net/toa/toa.ko" not in query(built["kernel"], "-l")


def test_rpmbuild_makes_a_director(good: Toy, tmp_path: Path) -> None:
    patch = without_config(good.patches["lvs"].read_bytes())
    config = ("TAB_BITS=12", "TAB_BITS=22")
    wrong = build(good, tmp_path, "--define", "buildid .fnat", patch=patch, config=config)
    assert wrong.status == 1 and "kABI of register_ip_vs_scheduler has changed" in wrong.text
    result = build(good, tmp_path, "--define", "buildid .fnat", "--without", "kabichk", patch=patch, config=config)
    assert result.status == 0, result.error_text
    built = packages(tmp_path)
    release = "2.6.32-220.23.1.el6.fnat.x86_64"
    assert b"CONFIG_IP_VS_TAB_BITS=22\n" in content(built["kernel"], f"boot/config-{release}")
    assert b"IP_VS_CONN_F_FULLNAT" in content(built["kernel-headers"], "usr/include/linux/ip_vs.h")
    symbols = content(built["kernel-devel"], f"usr/src/kernels/{release}/Module.symvers").decode()
    assert "ip_vs_synproxy_cookie_v4_init_sequence\tvmlinux" in symbols
    assert "0x5180a05d\tregister_ip_vs_scheduler\tnet/netfilter/ipvs/ip_vs\tEXPORT_SYMBOL" in symbols


def test_rpmbuild_makes_a_real_server(good: Toy, tmp_path: Path) -> None:
    patch = good.patches["toa"].read_bytes()
    wrong = build(good, tmp_path, "--define", "buildid .toa", patch=patch)
    assert wrong.status == 1 and "CONFIG_TOA\n" in wrong.error_text  # a new option without a value
    result = build(good, tmp_path, "--define", "buildid .toa", patch=patch, config=("", "CONFIG_TOA=m\n"))
    assert result.status == 0, result.error_text
    kernel = packages(tmp_path)["kernel"]
    release = "2.6.32-220.23.1.el6.toa.x86_64"
    module = content(kernel, f"lib/modules/{release}/kernel/net/toa/toa.ko")
    assert module.startswith(b"\x7fELF") and b"license=GPL\0" in module and release.encode() in module
    assert b"CONFIG_TOA=m\n" in content(kernel, f"boot/config-{release}")


@pytest.mark.parametrize("config", [("", "CONFIG_TOA=m\n"), ("TAB_BITS=12", "TAB_BITS=22")], ids=["TOA", "TAB_BITS"])
def test_options_of_an_absent_patch_behave_as_upstreams(good: Toy, tmp_path: Path, config: tuple[str, str]) -> None:
    """Without its patch CONFIG_TOA is dropped without a word; 22 bits are out of range."""
    result = build(good, tmp_path, config=config)
    assert result.status == (1 if config[0] else 0), result.error_text
