"""The CentOS 6 builder's files: everything in it is pinned or signed, and everything needed is in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import image_file
from pipeline.config.image_file import CentosImage
from pipeline.errors import FileProblems, HostLacks
from pipeline.recipes.builder_images import centos_recipe
from pipeline.sandbox import centos6_image
from pipeline.sandbox.centos6_image import CentosRecipe
from pipeline.sandbox.images import MOUNT_POINTS

# domain facts, section 2: what kernel.spec asks for, what perf asks for, what was met in practice.
SPEC = """module-init-tools patch bash sh-utils tar bzip2 findutils gzip m4 perl make diffutils gawk gcc binutils
redhat-rpm-config net-tools patchutils rpm-build xmlto asciidoc gnupg python hmaccalc elfutils-libelf-devel zlib-devel
binutils-devel newt-devel python-devel perl(ExtUtils::Embed) bison rng-tools"""
TOOLS = "popt-devel openssl-devel"


def image(vault: str = "") -> CentosImage:
    """The image as its file has it, with packages from elsewhere where that is given."""
    found = image_file.load("centos6")
    assert isinstance(found, CentosImage)
    return found.model_copy(update={"vault": vault} if vault else {})


BASE, FALLBACK = image().base, image().without_vsyscall


def rendered(base: str = BASE, vault: str = "") -> CentosRecipe:
    """The recipe as a build renders it."""
    return centos_recipe("centos6", image(vault), base)


def test_the_files_we_ship_are_fine() -> None:
    centos6_image.check(rendered())


def test_everything_the_spec_files_require_is_in_the_image() -> None:
    recipe = rendered()
    assert set(SPEC.split() + TOOLS.split()) <= set(recipe.requires)
    for name in SPEC.split() + TOOLS.split():
        assert recipe.files["Dockerfile"].count(f"'{name}'") == 2  # installed, and asked after


def test_what_breaks_ipvsadm_stays_out() -> None:
    assert "libnl-devel" not in rendered().requires


def test_the_base_is_the_image_whose_digest_is_known() -> None:
    assert "FROM docker.io/library/centos:6@sha256:a93df2e9" in rendered().files["Dockerfile"]


def test_another_base_is_taken_by_digest_only() -> None:
    base = f"{FALLBACK}@sha256:{'0' * 64}"
    centos6_image.check(rendered(base=base))
    assert f"FROM {base}\n" in rendered(base=base).files["Dockerfile"]
    with pytest.raises(FileProblems, match="not pinned by digest"):
        centos6_image.check(rendered(base=f"{FALLBACK}:latest"))


def test_another_vault_is_used_for_every_repository() -> None:
    text = rendered(vault="http://mirror.example/vault").files["vault.repo"]
    assert text.count("baseurl=http://mirror.example/vault/6.10/") == text.count("baseurl=") == 2


def test_the_image_has_every_mount_point_and_an_unprivileged_user() -> None:
    text = rendered().files["Dockerfile"]
    assert all(f"/{point} " in text for point in MOUNT_POINTS)
    assert text.rstrip().endswith("USER 64000:64000")


@pytest.mark.parametrize(
    ("name", "before", "after", "said"),
    [
        ("Dockerfile", "@sha256:", ":", "Dockerfile:2: FROM"),
        ("Dockerfile", "FROM ", "# ", "no FROM"),
        ("Dockerfile", "USER root", "FROM other\nUSER root", "Dockerfile:3: FROM other"),
        ("Dockerfile", "USER root", "ADD http://x/y /y", "Dockerfile:3: ADD"),
        ("Dockerfile", "USER root", "RUN curl x", "Dockerfile:3: curl"),
        ("Dockerfile", "--assumeyes", "--nogpgcheck", "nogpgcheck"),
        ("Dockerfile", "'hmaccalc' ", "", "hmaccalc is not among the words of yum"),
        ("Dockerfile", "RUN rpm --query --whatprovides", "RUN true", "hmaccalc is not among the words of rpm"),
        ("vault.repo", "gpgcheck=1", "gpgcheck=0", "vault.repo:1: [vault-os] does not check signatures"),
        ("vault.repo", "gpgcheck=1\n", "", "[vault-updates] does not check signatures"),
        ("vault.repo", "gpgkey=file:///", "gpgkey=http://x/", "takes its key from elsewhere"),
        ("vault.repo", "baseurl=", "mirrorlist=", "the mirror list is dead"),
        ("vault.repo", "[vault-os]", "vault-os", "vault.repo"),
        ("vault.repo", None, "", "no repository"),
    ],
)
def test_what_would_let_unproven_things_in_is_refused(name: str, before: str | None, after: str, said: str) -> None:
    recipe = rendered()
    text = after if before is None else recipe.files[name].replace(before, after)
    assert text != recipe.files[name]
    with pytest.raises(FileProblems) as caught:
        centos6_image.check(replace(recipe, files={**recipe.files, name: text}))
    assert said in str(caught.value)


def test_every_mistake_is_told_at_once() -> None:
    recipe = rendered(base="centos:6")
    files = {**recipe.files, "vault.repo": recipe.files["vault.repo"].replace("gpgcheck=1", "gpgcheck=0")}
    with pytest.raises(FileProblems) as caught:
        centos6_image.check(replace(recipe, files=files))
    assert len(caught.value.problems) == 3


def test_a_host_without_vsyscall_is_refused_with_both_remedies(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text("7ffd000-7ffe000 r-xp 00000000 00:00 0   [vdso]\n")
    with pytest.raises(HostLacks) as caught:
        centos6_image.check_vsyscall(rendered(), maps)
    assert "139" in caught.value.why
    assert all(word in caught.value.hint for word in ("vsyscall=xonly", "emulate", "manylinux2010"))
    centos6_image.check_vsyscall(rendered(f"{FALLBACK}@sha256:{'0' * 64}"), maps)
    maps.write_text("ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0   [vsyscall]\n")
    centos6_image.check_vsyscall(rendered(), maps)


def test_the_request_changes_with_every_file() -> None:
    recipe = rendered()
    other = {**recipe.files, "vault.repo": recipe.files["vault.repo"] + "\n"}
    assert replace(recipe, files=other).request != recipe.request
