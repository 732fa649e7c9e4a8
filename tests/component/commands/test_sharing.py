"""The shared store that a run opens: of the kind that its address has, or an error before anything is built."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.commands import sharing
from pipeline.config.context import RunContext
from pipeline.config.settings import Settings
from pipeline.core.console import Console
from pipeline.errors import ExitCode, Unreachable, UsageError
from pipeline.packaging.http_store import HttpStore
from pipeline.packaging.rsync_store import RsyncStore
from pipeline.packaging.shared_store import DirectoryStore
from tests.fixtures.badserver import BadServer
from tests.fixtures.commandline import Inv
from tests.fixtures.rsyncd import daemon


def context(store: str, *, offline: bool = False) -> RunContext:
    return RunContext(Settings(shared_store=store, offline=offline, retries=1, connect=1), Console())


def test_a_store_is_of_the_kind_of_its_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sharing.opened(context("")) is None
    (tmp_path / "store").mkdir()
    assert isinstance(sharing.opened(context(f"{tmp_path}/store")), DirectoryStore)
    with daemon(tmp_path, tmp_path / "module") as url:
        assert isinstance(sharing.opened(context(url)), RsyncStore)
    assert capsys.readouterr().err == ""
    with BadServer() as web:
        assert isinstance(sharing.opened(context(web.url("/store"))), HttpStore)
    assert f"{web.url('/store')} is only read: results are taken from it, and none is stored" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["ftp://host/store", "s3://bucket", "file:///srv/store"])
def test_another_kind_of_address_is_a_mistake(address: str) -> None:
    with pytest.raises(UsageError, match=r"expected a directory, HOST:DIRECTORY, rsync://HOST/MODULE, or http://"):
        sharing.opened(context(address))


def test_a_store_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a directory that exists"):
        sharing.opened(context(f"{tmp_path}/nothing"))
    for address in ("rsync://127.0.0.1:1/store", "http://127.0.0.1:1/store"):
        with pytest.raises(Unreachable, match="the shared store: "):
            sharing.opened(context(address))


def test_offline_no_other_host_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert isinstance(sharing.opened(context(str(tmp_path), offline=True)), DirectoryStore)
    for address in ("rsync://127.0.0.1:1/store", "http://127.0.0.1:1/store"):
        assert sharing.opened(context(address, offline=True)) is None
        assert f"the shared store {address} is not used: offline" in capsys.readouterr().err


@pytest.mark.parametrize("options", [("--ccache-remote", "/nowhere"), ("--ccache-writer",)])
def test_caches_of_another_host_that_are_not_there_are_said_before_any_source_is_asked_for(
    inv: Inv, options: tuple[str, ...]
) -> None:
    said = inv("build-all", "el6", *options, expect=ExitCode.USAGE).err
    assert "ccache-remote" in said and "reading" not in said
