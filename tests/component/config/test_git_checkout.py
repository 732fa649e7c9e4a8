"""What git says of a checkout, without running anything that the checkout's configuration names."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.audit.materials import LineText
from pipeline.config.git_checkout import Checkout, history, last_change, state_of
from pipeline.core import process, resources

AUTHOR = {"GIT_AUTHOR_NAME": "Ada Example", "GIT_AUTHOR_EMAIL": "ada@example.org"}
COMMITTER = {"GIT_COMMITTER_NAME": "Ada Example", "GIT_COMMITTER_EMAIL": "ada@example.org"}
DATES = {"GIT_AUTHOR_DATE": "2012-06-12T08:00:00+0200", "GIT_COMMITTER_DATE": "2012-06-12T08:00:00+0200"}


def git(root: Path, *words: str) -> str:
    env = process.clean_environment(GIT_CONFIG_GLOBAL="/dev/null", **AUTHOR, **COMMITTER, **DATES)
    return process.run(["git", "-C", str(root), *words], env=env).text.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of two commits: the second one changes `other` only."""
    root = tmp_path / "checkout"
    (root / "lines").mkdir(parents=True)
    git(root, "init", "-q")
    for name in ("lines/el6.lock.toml", "other"):
        (root / name).write_text(f"{name}\n")
    (root / "link").symlink_to("other")
    git(root, "add", "--all")
    git(root, "commit", "-q", "-m", "one")
    (root / "other").write_text("another\n")
    git(root, "commit", "-q", "-a", "-m", "two")
    return root


def test_a_clean_checkout_is_its_commit(checkout: Path) -> None:
    found = state_of(checkout)
    assert found is not None
    assert found == Checkout(git(checkout, "rev-parse", "HEAD"), dirty=False)


def _pipe(root: Path) -> None:
    (root / "other").unlink()
    os.mkfifo(root / "other")


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "other").write_text("changed\n"),
        lambda root: (root / "other").chmod(0o755),
        lambda root: (root / "other").unlink(),
        lambda root: ((root / "link").unlink(), (root / "link").symlink_to("elsewhere")),
        _pipe,
    ],
    ids=["content", "mode", "deleted", "link", "pipe"],
)
def test_a_changed_file_makes_it_dirty(checkout: Path, change: Callable[[Path], object]) -> None:
    change(checkout)
    found = state_of(checkout)
    assert found is not None and found.dirty


def test_a_change_that_is_staged_is_a_change_too_and_an_unknown_file_is_none(checkout: Path) -> None:
    (checkout / "unknown").write_text("git does not know it\n")
    assert (found := state_of(checkout)) is not None and not found.dirty
    (checkout / "other").write_text("changed\n")
    git(checkout, "add", "other")
    assert (found := state_of(checkout)) is not None and found.dirty


def test_a_files_last_change_is_the_commit_that_changed_it(checkout: Path) -> None:
    file = checkout / "lines/el6.lock.toml"
    found = last_change(file)
    assert found is not None
    assert (found.commit, found.author) == (git(checkout, "rev-parse", "HEAD~"), "Ada Example <ada@example.org>")
    assert (found.date, found.modified) == ("2012-06-12T08:00:00+02:00", False)
    file.write_text("pinned once more\n")
    assert (found := last_change(file)) is not None and found.modified


def test_what_no_commit_has_was_never_changed(checkout: Path, tmp_path: Path) -> None:
    (checkout / "new.lock.toml").write_text("\n")
    assert last_change(checkout / "new.lock.toml") is None
    (tmp_path / "outside").write_text("\n")
    assert last_change(tmp_path / "outside") is None
    git(tmp_path, "init", "-q")
    assert last_change(tmp_path / "outside") is None and state_of(tmp_path) is None


def test_a_directory_inside_a_checkout_of_something_else_is_none(checkout: Path) -> None:
    """As the project is where it is installed into a virtual environment within somebody's checkout."""
    assert state_of(checkout / "lines") is None
    assert state_of(checkout, holds="pipeline/errors.py") is None
    assert state_of(checkout, holds="other") is not None


def test_nothing_that_the_configuration_names_is_run(checkout: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho $0 >> {ran}\ncat\n")
    program.chmod(0o755)
    (checkout / ".gitattributes").write_text("* filter=evil diff=evil\n")
    git(checkout, "add", ".gitattributes")
    git(checkout, "commit", "-q", "-m", "attributes")
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for hook in ("post-index-change", "fsmonitor-watchman", "reference-transaction"):
        (hooks / hook).symlink_to(program)
    for key in ("core.fsmonitor", "filter.evil.clean", "diff.evil.textconv", "diff.external", "core.pager"):
        git(checkout, "config", key, str(program))
    for key in ("gpg.program", "core.sshCommand", "core.editor", "core.alternateRefsCommand"):
        git(checkout, "config", key, str(program))
    for key, value in (("core.hooksPath", str(hooks)), ("log.showSignature", "true"), ("protocol.ext.allow", "always")):
        git(checkout, "config", key, value)
    (checkout / "other").write_text("changed, so that a comparison reads it\n")
    assert (found := state_of(checkout)) is not None and found.dirty
    assert last_change(checkout / "other") is not None
    assert not ran.exists()
    subprocess.run(["git", "-C", str(checkout), "status"], check=False, capture_output=True)
    assert ran.exists(), "git status would have run it"


def test_a_missing_object_is_fetched_by_no_command(checkout: Path, tmp_path: Path) -> None:
    """As in a partial clone, whose remote may be a command."""
    ran = tmp_path / "ran"
    for key, value in (
        ("core.repositoryFormatVersion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", f"ext::touch {ran}"),
        ("protocol.ext.allow", "always"),
    ):
        git(checkout, "config", key, value)
    tree = git(checkout, "rev-parse", "HEAD^{tree}")
    (checkout / ".git/objects" / tree[:2] / tree[2:]).unlink()
    assert state_of(checkout) is None
    assert last_change(checkout / "other") is None
    assert not ran.exists()
    subprocess.run(["git", "-C", str(checkout), "ls-tree", "HEAD"], check=False, capture_output=True)
    assert ran.exists(), "git alone would have run it"


def test_another_users_checkout_is_not_read(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: checkout.stat().st_uid + 1)
    assert state_of(checkout) is None and last_change(checkout / "other") is None


def test_variables_of_a_hook_name_no_other_repository(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = state_of(checkout)
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert expected is not None and state_of(checkout) == expected


def test_without_git_it_is_the_host_that_lacks_something(checkout: Path, tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path; from pipeline.config import git_checkout as g; g.state_of(Path({str(checkout)!r}))"
    )
    argv = [sys.executable, "-c", code]
    env = {"PATH": str(tmp_path), "PYTHONPATH": str(resources.PACKAGE.parent)}
    ended = subprocess.run(argv, env=env, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert "HostLacks: the program git is not installed" in ended.stderr


def test_the_history_of_a_file_has_its_bytes_in_each_commit_the_newest_first(checkout: Path) -> None:
    found = history(checkout / "other")
    assert [version.data for version in found] == [b"another\n", b"other\n"]
    assert found[0].commit == git(checkout, "rev-parse", "HEAD") and found[0].author == "Ada Example <ada@example.org>"
    assert len(history(checkout / "lines/el6.lock.toml")) == 1


def test_what_was_never_committed_has_no_history(checkout: Path, tmp_path: Path) -> None:
    (checkout / "new").touch()
    (tmp_path / "alone").touch()
    assert history(checkout / "new") == history(tmp_path / "alone") == ()


def test_a_digest_was_pinned_by_the_oldest_commit_since_which_it_is_there(checkout: Path) -> None:
    """A digest that was taken out and put back counts from then on."""
    commits = []
    for text in ("a = 1", "a = 1\nb = 2", "b = 2", "a = 1\nb = 2", "a = 1\nb = 2\nc = 3"):
        (checkout / "line.toml").write_text(f"{text}\n")
        git(checkout, "add", "--all")
        git(checkout, "commit", "-q", "-m", text)
        commits.append(git(checkout, "rev-parse", "HEAD"))
    line = LineText("line.toml", checkout / "line.toml", (checkout / "line.toml").read_bytes())
    since = {text: line.since(text) for text in ("a = 1", "b = 2", "c = 3")}
    assert [found and found.commit for found in since.values()] == [commits[3], commits[1], commits[4]]
    assert line.since("d = 4") is None
