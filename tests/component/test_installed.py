"""The installed package, away from any checkout: it has all the data it needs and writes only where it is used."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from pipeline.core import process
from tests.fixtures.commandline import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The content of the wheel as pip would unpack it."""
    place = tmp_path_factory.mktemp("wheel")
    listed = process.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT).text.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (place / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / "src" / name)
    pip = [sys.executable, "-P", "-m", "pip", "--quiet", "--quiet", "wheel", "--no-deps", "--wheel-dir", str(place)]
    process.run([*pip, str(place / "src")], timeout=300)
    [wheel] = place.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(place / "site")
    return place / "site"


def said(installed: Path, cwd: Path, *words: str, status: int = 0) -> process.Result:
    environment = process.clean_environment(PYTHONPATH=str(installed))
    return process.run([sys.executable, "-P", "-m", "pipeline", *words], env=environment, cwd=cwd, accept=(status,))


def test_the_lines_and_their_patches_are_in_the_package(installed: Path, tmp_path: Path) -> None:
    whole = json.loads(said(installed, tmp_path, "lines", "--json", "--show", "el6").text)
    assert whole["roles"]["director"]["series"] == ["lvs"]
    assert whole["rules"]["realserver"]["must-add"] == ["net/toa/toa.c"]
    assert all(path.startswith(str(installed)) for path in whole["files"])
    assert (installed / "pipeline/_data/lines/el6.tree.xz").is_file()


def test_pins_are_looked_for_where_it_is_used(installed: Path, tmp_path: Path) -> None:
    ended = said(installed, tmp_path, "fetch", "el6", "--offline", "--json", "--quiet", status=3)
    assert json.loads(ended.text)["error"] == "Unreachable"
    (tmp_path / "el6.lock.toml").write_text("nonsense = 1\n")
    refused = said(installed, tmp_path, "fetch", "el6", "--offline", "--json", status=2)
    assert "el6.lock.toml" in json.loads(refused.text)["what"]
