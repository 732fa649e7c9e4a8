"""The keys of the documents that `--json` prints: what others read them by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.built import Built
from tests.fixtures.commandline import Inv
from tests.fixtures.labruns import recorded
from tests.fixtures.toy import make_toy

LINE = "line kernel override"
SOURCE = "name file sha256 size origin version how"
PIN = "sha256 size signer fingerprint signed nevra spec tree url pinned by"
OVERRIDE = "base file sha256 changes"
PATCH = (
    "patch role sha256 patch_id member origin role_claimed_by_name role_found found_by option_number files hunks added "
    "removed blank_lines_restored left_out applied_sha256 notes"
)
ROLE = "patches role_found proven_by found_by option_number pristine tree files"

# By command: the keys of the document, and of what is at these places in it.
DOCUMENTS: dict[str, dict[str, str]] = {
    "pin toy kernel-srpm": {"": f"{LINE} source pin lock", "pin": PIN, "override": OVERRIDE},
    "fetch": {"": f"{LINE} sources", "sources.0": SOURCE},
    "mirror export {mirror}": {"": f"{LINE} sources directory", "sources.0": SOURCE},
    "mirror import {mirror}": {"": f"{LINE} sources", "sources.0": SOURCE},
    "patches": {
        "": f"{LINE} pipeline patches roles tools",
        "pipeline": "version checkout",
        "pipeline.checkout": "commit dirty",
        "patches.0": PATCH,
        "roles.stock": "patches",
        "roles.director": ROLE,
        "roles.director.files.0": "patch path status before after hunks",
        "roles.director.files.0.hunks.0": "number offset fuzz",
    },
    "patches --classify {patch}": {
        "": "patch sha256 role by claims option pinned",
        "option": "define number expected right found",
        "option.found.0": "path line number condition text",
    },
    "patches --diff {patch} {patch}": {
        "": "same_effect a b files",
        "a": "name sha256 role options",
        "files.0": "path verdict about lines",
    },
    "store verify": {"": "damaged"},
    "store gc": {"": "removed bytes kept"},
    "status": {
        "": "artifacts steps certificates latest lab nights unreadable_nights images bytes",
        "steps.0": "line step state begun seconds pid path next",
        "latest.el6": "id path published",
        "lab.el6": "state snapshot begun seconds states page",
        "images.0": "name key path current packages",
    },
    "clean": {"": "would items", "would.old": "items bytes", "items.0": "path bytes words"},
    "clean ccache": {"": "removed bytes left", "removed.0": "path bytes"},
    "doctor": {"0": "name state found affects remedy"},
    "lines": {"0": f"{LINE} title roles"},
}


class Host:
    """A host with results of every kind, and a line whose sources are there."""

    def __init__(self, place: Path) -> None:
        self.inv, self.toy, self.mirror = Inv(place), make_toy(place / "toy"), place / "carried"
        built = Built(self.inv.artifacts)
        built.step("kernel:stock", "1")
        built.snapshot("el6", "one", published=1.0)
        recorded(self.inv.artifacts / "reports/lab/el6/run")
        built.image("debian12", "a" * 16, link="requested")
        (self.inv.artifacts / "ccache/el6/debian12").mkdir(parents=True)
        for command in ("pin toy kernel-srpm", "mirror export {mirror}"):
            self.document(command)

    def document(self, command: str) -> Any:
        words = command.format(mirror=self.mirror, patch=self.toy.patches["toa"]).split()
        line = ("--line-file", self.toy.line_file) if words[0] in ("pin", "fetch", "mirror", "patches") else ()
        return self.inv(*words, *line, "--json").json


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(tmp_path_factory.mktemp("host"))


@pytest.mark.parametrize("command", DOCUMENTS)
def test_a_verbs_document_has_these_keys(host: Host, command: str) -> None:
    document = host.document(command)
    assert {place: keys(document, place) for place in DOCUMENTS[command]} == {
        place: sorted(wanted.split()) for place, wanted in DOCUMENTS[command].items()
    }


def keys(document: Any, place: str) -> list[str]:
    """The keys at a place in a document."""
    for name in place.split(".") if place else ():
        document = document[int(name) if name.isdecimal() else name]
    return sorted(document)
