"""How a package whose signatures hold is identified: its digests count, and its payload where it has evidence."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.audit import identify
from pipeline.core.digests import together
from pipeline.errors import Refused
from pipeline.inspect.contents import Depth
from tests.fixtures.rawrpms import Entry, entry, write

CONFIG, OTHER = entry("/boot/config-6.1", b"CONFIG_IP_VS=n\n"), entry("/usr/share/doc/readme", b"read me, CONFIG\n")


@pytest.mark.parametrize("file", [CONFIG, OTHER], ids=["evidence", "none"])
def test_a_payload_that_differs_from_its_digest_is_refused(tmp_path: Path, file: Entry) -> None:
    path = write(tmp_path / "a.rpm", [file], compression="none", damage=lambda data: data.replace(b"CONFIG", b"xONFIG"))
    with pytest.raises(Refused, match=r"config-6.1 differs from its sha256|content differs from its payload sha256"):
        identify.read(path, Depth.MODULES, signed=True)


def test_a_payload_with_evidence_is_held_against_the_header_and_one_without_is_not_unpacked(tmp_path: Path) -> None:
    surplus = entry("/boot/config-6.1-other", b"")
    with_evidence = write(tmp_path / "a.rpm", [CONFIG], payload=[CONFIG, surplus])
    with pytest.raises(Refused, match="not in its header"):
        identify.read(with_evidence, Depth.MODULES, signed=True)
    without = write(tmp_path / "b.rpm", [OTHER], payload=[OTHER, surplus])
    assert identify.read(without, Depth.MODULES, signed=True)[0].digests[-1] == "payload sha256"
    with pytest.raises(Refused):
        identify.read(without, Depth.MODULES)


def test_several_packages_are_read_at_once_and_the_configurations_text_is_kept(tmp_path: Path) -> None:
    texts = [b"CONFIG_IP_VS=n\nCONFIG_NUMBER=%d\n" % number for number in range(8)]
    paths = [write(tmp_path / f"{number}.rpm", [entry("/boot/config-6.1", text)]) for number, text in enumerate(texts)]
    found = [result() for result in together(lambda path: identify.read(path, Depth.MODULES), paths)]
    assert [contents.config_texts["/boot/config-6.1"] for _, contents in found] == texts
