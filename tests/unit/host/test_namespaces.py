"""Subordinate ids, and the remedy for each cause that keeps a user from making an image."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from pipeline.host import namespaces
from pipeline.host.facts import Host

ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(environ={}, etc=tmp_path, proc=tmp_path)


@pytest.mark.parametrize(
    ("text", "enough"),
    [
        (f"{ME}:100000:65536\n", True),
        (f"# ids\nother:100000:65536\n{os.geteuid()}:165536:65536", True),
        (f"{ME}:100000:100\n", False),
        (f"{ME}:100000\n{ME}:x:65536\n", False),
        (f"{ME}2:100000:65536\n", False),
        ("", False),
    ],
)
def test_a_range_is_the_users_own_and_holds_a_distributions_ids(host: Host, text: str, enough: bool) -> None:
    (host.etc / "subuid").write_text(text)
    assert namespaces.has_range(host, "subuid") is enough
    assert not namespaces.has_range(host, "subgid"), "there is no such file"


def test_the_range_that_is_proposed_is_free(host: Host) -> None:
    assert namespaces.free_range(host) == 100000
    (host.etc / "subuid").write_text("one:100000:65536\n")
    (host.etc / "subgid").write_text("one:300000:10\n")
    assert namespaces.free_range(host) == 300010


@pytest.mark.parametrize("user", [0, 1000])
def test_only_a_user_without_root_takes_ids_from_a_range(user: int) -> None:
    assert ("--map-auto" in namespaces.command(user)) is bool(user)


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("unshare: unrecognized option '--map-auto'", "install util-linux 2.38 or newer"),
        ('unshare: no line matching user "a" in /etc/subuid: Success', "--add-subuids 100000-165535 --add-subgids"),
        ("unshare failed with exit status 1", "--add-subuids 100000-165535 --add-subgids"),
    ],
)
def test_each_cause_has_its_remedy(host: Host, output: str, remedy: str) -> None:
    assert remedy in namespaces.remedy(host, output, user=1000)


def test_with_ids_it_is_the_kernel_that_forbids(host: Host) -> None:
    for name in ("subuid", "subgid"):
        (host.etc / name).write_text(f"{ME}:100000:65536\n")
    (host.proc / "sys/user").mkdir(parents=True)
    (host.proc / "sys/user/max_user_namespaces").write_text("0\n")
    assert "sudo sysctl -w user.max_user_namespaces" in namespaces.remedy(host, "unshare failed", user=1000)
