"""`build-all` of an el6 toy killed at each traced point: the next run publishes the bytes of an undisturbed one.

Each kill begins with what an undisturbed run left, less what the part of the run makes that the point is in. The
points of container engines have tests of their own, with the runtimes; so have those of refreshed patches.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.core import faults
from pipeline.core.fs import sha256_of
from pipeline.core.process import run
from tests.fixtures.commandline import ROOT
from tests.fixtures.workshop import ToyShop

# What is gone when a part of the run is to be done again, below the artifacts.
GONE = {
    "fetch": ("store",),
    "tree": ("trees", "steps/toy/kernel-realserver"),
    "image": ("images",),
    "build": ("steps", "repo"),
    "publish": ("steps/toy/repository", "repo"),
    "key": ("steps/toy/repository", "repo", "keys/development", "keys/signers"),
    "attestation key": ("repo", "keys/attestation"),
}
# The points of each part, and how often they are passed in it.
PASSES = {
    "fetch": {
        "download.part-written": 6,
        "download.done": 6,
        "verify.done": 6,
        "publish.before-rename": 6,
        "publish.after-rename": 6,
    },
    "tree": {"tree.before-rename": 1},
    "image": {"image.before-rename": 1},
    "build": {
        "step.begin": 8,
        "step.metadata-written": 8,
        "step.done": 8,
        "step.attested": 8,
        "step.before-rename": 8,
        "step.after-rename": 8,
    },
    "publish": {
        "snapshot.signed": 1,
        "snapshot.repodata": 1,
        "snapshot.before-rename": 1,
        "snapshot.after-rename": 1,
        "latest.before-rename": 1,
        "mirrorlist.before-rename": 3,
    },
    "key": {"key.made": 1, "key.before-rename": 1},
    "attestation key": {"attestation-key.before-rename": 1},
}
# Points of other verbs and settings, with tests of their own.
OTHERS = (
    *("engine.", "night.", "nights.", "refresh.", "step.packed", "step.taken", "store.decided", "store.offered"),
    *("unsigned.", "upload."),
)
KILLS = [
    (part, point, number)
    for part, points in PASSES.items()
    for point, passes in points.items()
    for number in sorted({1, (1 + passes) // 2, passes})
]
# Instead of mmdebstrap: an image of one file, with the packages of the real one, and so with its key.
MAKER = """cp "{packages}" packages.txt
for word; do case $word in *.tar) tar cf "$word" -C /etc debian_version ;; esac; done"""

pytestmark = pytest.mark.timeout(600)


class Scene:
    """A shop in which everything was done once, which can be put back to that or to a part of it."""

    def __init__(self, shop: ToyShop) -> None:
        self.shop, self.saved = shop, shop.place / "saved"
        self.artifacts = shop.inv.artifacts
        self.shop.all()
        run(["cp", "-a", self.artifacts, self.saved])
        run(["rm", "-rf", self.saved / "ccache"])
        self.environment = shop.inv.with_stand_ins({"mmdebstrap": MAKER.format(packages=self._packages())})

    def _packages(self) -> Path:
        """The image's packages as apt shows them."""
        [packages] = {path.resolve() for path in (self.artifacts / "images").glob("debian12/*/packages.json")}
        listed = self.shop.place / "packages.txt"
        rows = json.loads(packages.read_bytes())["packages"]
        stanzas = (
            f"Package: {row['name']}\nVersion: {row['version']}\nSHA256: {row['digest'].removeprefix('sha256:')}\n"
            for row in rows
        )
        listed.write_text("\n".join(stanzas))
        return listed

    def begin(self, gone: Sequence[str]) -> None:
        """As an undisturbed run leaves it, without what is `gone`; the compiler cache stays as it is."""
        for place in (path for path in self.artifacts.iterdir() if path.name != "ccache"):
            remove(place)
        run(["cp", "-a", f"{self.saved}/.", self.artifacts])
        for name in gone:
            remove(self.artifacts / name)

    def killed(self, point: str, number: int) -> int:
        """A run's exit status that kills itself."""
        environment = self.shop.inv.environment(**self.environment, **{faults.VARIABLE: f"{point}:{number}"})
        argv = self.shop.inv.argv(*self.shop.words())
        return subprocess.run(argv, env=environment, cwd=self.shop.inv.cwd, capture_output=True, check=False).returncode

    def traced(self) -> Counter[str]:
        """The points that an undisturbed run passes."""
        file = self.shop.place / "traced"
        file.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "tests.fixtures.traced", str(file), *self.shop.words()]
        run(argv, env=self.shop.inv.environment(**self.environment), cwd=self.shop.inv.cwd)
        return Counter(file.read_text().split())

    def again(self) -> None:
        """A run that nobody kills."""
        self.shop.inv(*self.shop.words(), **self.environment)

    def built(self, root: Path) -> dict[str, str]:
        """The digests of all unsigned packages."""
        return digests(root / "steps", "*/*/[!.]*/out/rpms/*")

    def published(self, root: Path) -> dict[str, str]:
        """The digests of all that was published but for statements, which tell times, and where `latest` points to."""
        found = digests(root / "repo", "toy/snapshots/**/*")
        return {**found, "latest": str((root / "repo/toy/latest").readlink())}

    def names(self, root: Path) -> set[str]:
        """Every path there is but locks, which stay, and what only the making of an image or the compiler leaves."""
        found = (str(path.relative_to(root)) for path in root.rglob("*"))
        left_out = "images/|ccache|store/records/key-"
        return {name for name in found if not re.match(left_out, name) and not name.endswith("lock")}

    def origins(self, root: Path) -> dict[str, str]:
        """Where each object of the store came from."""
        records = (root / "store/records").glob("origin-*.json")
        return {path.name: json.loads(path.read_text())["says"]["address"] for path in records}


def remove(place: Path) -> None:
    if place.is_symlink() or not place.is_dir():
        place.unlink(missing_ok=True)
    elif place.exists():
        run(["chmod", "-R", "u+w", place])  # snapshots are sealed
        run(["rm", "-rf", place])


def digests(top: Path, pattern: str) -> dict[str, str]:
    files = (path for path in top.glob(pattern) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(top)): sha256_of(path) for path in files if not path.name.endswith("lock")}


@pytest.fixture(scope="module")
def scene(images: Path) -> Iterator[Scene]:
    with ToyShop.opened(images) as shop:
        yield Scene(shop)


def test_every_point_that_build_all_passes_is_in_the_table() -> None:
    texts = [path.read_text() for path in (ROOT / "pipeline").rglob("*.py") if path.name != "faults.py"]
    points = {point for text in texts for point in re.findall(r'faults\.point\("([^"]+)"\)', text)}
    assert {point for point in points if not point.startswith(OTHERS)} == {point for _, point, _ in KILLS}


@pytest.mark.parametrize("part", PASSES)
def test_an_undisturbed_run_passes_the_points_and_publishes_the_same_bytes_again(scene: Scene, part: str) -> None:
    scene.begin(GONE[part])
    passed = scene.traced()
    assert {point: passed[point] for point in PASSES[part]} == PASSES[part]
    assert_whole(scene, part)


def assert_whole(scene: Scene, part: str) -> None:
    """The undisturbed run's bytes, and nothing besides; a key that was made anew signs other bytes."""
    assert scene.shop.left() == {}
    assert scene.built(scene.artifacts) == scene.built(scene.saved)
    assert scene.origins(scene.artifacts) == scene.origins(scene.saved)
    if part.endswith("key"):
        assert {Path(name).name for name in scene.published(scene.artifacts)} >= {
            Path(name).name for name in scene.published(scene.saved) if name.endswith(".rpm")
        }
    else:
        assert scene.published(scene.artifacts) == scene.published(scene.saved)
        assert scene.names(scene.artifacts) == scene.names(scene.saved)
    hidden = [path for path in scene.artifacts.rglob(".*") if not path.name.endswith("lock")]
    assert [path for path in hidden if "ccache" not in path.parts] == []


@pytest.mark.parametrize(("part", "point", "number"), KILLS)
def test_killed_at(scene: Scene, part: str, point: str, number: int) -> None:
    scene.begin(GONE[part])
    assert scene.killed(point, number) == -9
    assert scene.shop.left("temporary files") == {}
    scene.again()
    assert_whole(scene, part)
