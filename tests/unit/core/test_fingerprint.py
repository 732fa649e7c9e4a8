"""Fingerprints of code: what is executed counts, however it is imported; what only people read does not."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.core.process import clean_environment
from tests.fixtures.commandline import ROOT

FILES = {
    "house/__init__.py": "",
    "house/kernel.py": '"""Build kernels."""\n\nfrom house import archive\n\n\ndef build():\n    """Build."""\n'
    "    from house.tools import WORDS\n    return archive.unpack, WORDS  # both\n",
    "house/archive.py": "def unpack(data):\n    return data\n",
    "house/tools/__init__.py": "WORDS = ('a', 'b')\n",
    "house/types.py": "class Image: pass\n",
    "house/other.py": "from house import kernel\n",
    "stranger.py": "X = 1\n",
}
FOR_TYPES = "if TYPE_CHECKING:\n    from house.types import Image\n"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def fingerprint(house: Path, *modules: str, method: str = "digest") -> str:
    """What a new process says, since Python keeps what it once imported."""
    script = f"from pipeline.core import fingerprint\nprint(fingerprint.{method}(*{modules or ('house.kernel',)!r}))"
    env = clean_environment(PYTHONPATH=f"{house}:{ROOT}")
    return subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True).stdout


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(house: Path) -> None:
        text = (house / name).read_text()
        assert old in text
        (house / name).write_text(text.replace(old, new, 1))

    return apply


@pytest.mark.parametrize(
    "change",
    [
        edit("house/archive.py", "return data", "return data[1:]"),
        edit("house/tools/__init__.py", "'b'", "'c'"),
        edit("house/kernel.py", "archive.unpack, WORDS", "WORDS, archive.unpack"),
        edit("house/kernel.py", "from house import archive", "from house import archive, other"),
        edit("house/kernel.py", "from house import archive", "from house.archive import *; from house import archive"),
    ],
)
def test_a_change_of_what_is_executed_changes_the_digest(house: Path, change: Callable[[Path], None]) -> None:
    before = fingerprint(house)
    change(house)
    assert fingerprint(house) != before


@pytest.mark.parametrize(
    "change",
    [
        edit("house/kernel.py", "Build kernels.", "Compile kernels."),
        edit("house/kernel.py", '    """Build."""\n', '    """Compile\n\n    and link.\n    """\n\n'),
        edit("house/kernel.py", "  # both", ""),
        edit("house/kernel.py", "from house import archive", f"{FOR_TYPES}from house import archive"),
        edit("house/archive.py", "return data", "return (data)"),
        edit("house/other.py", "from house", "import json\nfrom house"),
        edit("house/types.py", "pass", "x = 1"),
        edit("stranger.py", "1", "2"),
    ],
)
def test_a_change_of_what_is_not_executed_does_not(house: Path, change: Callable[[Path], None]) -> None:
    edit("house/kernel.py", "from house import archive", "import stranger\nfrom typing import TYPE_CHECKING\n"
         "from house import archive")(house)  # fmt: skip
    before = fingerprint(house)
    change(house)
    assert fingerprint(house) == before


def test_the_closure_holds_what_is_imported_however_deep_of_the_same_distribution(house: Path) -> None:
    found = fingerprint(house, "house.other", method="closure")
    assert set(re.findall(r"house[.\w]*", found)) == {"house.other", "house.kernel", "house.archive", "house.tools"}


def test_what_is_imported_for_types_alone_is_not_in_the_closure_and_what_is_imported_instead_is(house: Path) -> None:
    edit("house/kernel.py", "from house import archive", f"{FOR_TYPES}else:\n    from house import archive")(house)
    edit("house/types.py", "class", "from house import other\nclass")(house)
    found = fingerprint(house, method="closure")
    assert set(re.findall(r"house[.\w]*", found)) == {"house.kernel", "house.archive", "house.tools"}


def test_no_module_is_executed_to_find_what_it_imports(house: Path) -> None:
    edit("house/kernel.py", "from house import archive", "from house.archive import unpack as archive")(house)
    edit("house/archive.py", "def unpack", "raise RuntimeError('executed')\ndef unpack")(house)
    assert "house.archive" in fingerprint(house, method="closure")


def test_what_was_kept_of_a_module_is_not_believed_of_another_content(house: Path) -> None:
    first = fingerprint(house)
    edit("house/archive.py", "return data", "return data[1:]")(house)
    second = fingerprint(house)
    edit("house/archive.py", "return data[1:]", "return data")(house)
    assert fingerprint(house) == first != second
