"""Find OpenPGP keys by their fingerprints: in files, in mirrors, at addresses; the store remembers what was found.

A key is identified by its fingerprint alone, so its place needs no trust. Must not know what a key signs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.image_file import DebianImage
from pipeline.config.line_model import Key
from pipeline.config.settings import Settings
from pipeline.core import resources
from pipeline.core.console import Console
from pipeline.core.fs import read_limited
from pipeline.errors import Refused, Unreachable, UsageError
from pipeline.sources import download
from pipeline.sources.records import KeptKey
from pipeline.sources.store import Store
from pipeline.sources.wanted import Options, Wanted

if TYPE_CHECKING:  # imported where it is used: a run that has everything does not need it
    from pipeline.sources.openpgp import PublicKey

LARGEST_KEYS = 16 << 20  # bytes of a file of keys; Debian's whole keyring has 60 thousand


class PublicKeys:
    """The keys that a line or a builder image names. `beside` gives the place of a file named with a key."""

    def __init__(
        self,
        keys: Mapping[str, Key],
        beside: Callable[[str], Path],
        store: Store,
        settings: Settings,
        console: Console,
    ) -> None:
        self.keys, self.beside, self.store, self.settings, self.console = keys, beside, store, settings, console
        self._options = Options.from_settings(settings)

    def found(self, names: Sequence[str]) -> list[PublicKey]:
        """Return the available keys among `names`; warn about the others.

        Raises `Unreachable` when there is none: what they sign cannot be checked then.
        """
        found, missing = [], []
        for name in names:
            try:
                found.append(self._public_key(name, self.keys[name]))
            except Unreachable as error:
                missing.append(error)
        if not found:
            raise missing[0] if len(missing) == 1 else Unreachable("\n".join(map(str, missing)))
        for reason in missing:
            self.console.warn(f"{reason.what}; its signatures will be refused")
        return found

    def _public_key(self, name: str, key: Key) -> PublicKey:
        from pipeline.sources import openpgp

        record = f"key-{key.fingerprint}"
        known = self.store.record(record, KeptKey)
        materials = [(known.origin, known.armor.encode())] if known else []
        tried = []
        for where, material in self._key_material(name, key):
            if where in key.urls and materials and not self.settings.refresh:
                break
            try:
                openpgp.public_key(name, key, material)
            except Refused as error:
                tried.append(f"{where}: {error.why}")
                continue
            materials.append((where, material))
        if materials:
            found = openpgp.public_key(name, key, *(material for _, material in materials))
            kept = KeptKey(found.armor.decode(), materials[0][0])
            if kept != known:
                self.store.write_record(record, kept)
            return found
        raise Unreachable(
            f"the key {name} ({key.fingerprint}) could not be fetched",
            why="; ".join([*tried, f"looked for in {', '.join((*key.files, *key.urls)) or 'no place: none is named'}"]),
            hint="put it into a file named under [keys], or into DIR/keys/FINGERPRINT.asc of --mirror DIR",
        )

    def _key_material(self, name: str, key: Key) -> Iterator[tuple[str, bytes]]:
        for place in self.files(key):
            if place.exists():
                try:
                    yield str(place), read_limited(place, LARGEST_KEYS)
                except OSError as error:
                    what = f"the key {name} cannot be read: {error.strerror}"
                    raise UsageError(what, where=str(place), hint="name a file that holds the key") from None
        for url in key.urls:
            if material := self._downloaded_key(name, url):
                yield url, material

    def files(self, key: Key) -> list[Path]:
        """Return the possible places of a key on this host."""
        mirrored = [Path(mirror) / "keys" / f"{key.fingerprint}.asc" for mirror in self._options.mirrors]
        return [*map(self.beside, key.files), *mirrored]

    def _downloaded_key(self, name: str, url: str) -> bytes:
        """Return the content of `url`; empty when not available, since another address may have it."""
        wanted = Wanted(f"{name}.asc", (url,), None, None, LARGEST_KEYS)
        with self.console.progress() as progress, self.store.using(), self.store.object_lock(f"unpinned-{wanted.name}"):
            try:
                fetched = download.fetch_unverified(wanted, self.store, self._options, progress.meter(wanted.name))
                material = read_limited(fetched.path, LARGEST_KEYS)
            except (Unreachable, Refused, OSError):
                return b""
            fetched.path.unlink(missing_ok=True)
            return material


def of_image(image: DebianImage, store: Store, settings: Settings, console: Console) -> list[PublicKey]:
    """Return the archive keys of a builder image. Raises `Unreachable` when there is none."""
    found = PublicKeys(image.keys, resources.containers_dir().joinpath, store, settings, console)
    return found.found(image.debian.keyring)
