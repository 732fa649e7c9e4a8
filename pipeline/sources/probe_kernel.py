"""Fetch a kernel for the KVM probe where the host has none: Debian's cloud kernel, by its signed index."""

from __future__ import annotations

from pathlib import Path

from pipeline.config import image_file
from pipeline.config.settings import Settings
from pipeline.core.console import Console
from pipeline.errors import Unreachable
from pipeline.sources import apt, download, openpgp, public_keys
from pipeline.sources.records import Resolved
from pipeline.sources.store import Store
from pipeline.sources.wanted import Options, Wanted

IMAGE = "debian12"  # the builder image whose archive and keys are used
PACKAGE = "linux-image-cloud-amd64"
_RECORD = "probe-kernel"


def package(settings: Settings, console: Console) -> Path:
    """Return the kernel package in the store; fetch a missing one.

    Raises `Unreachable` or `Refused` as fetching any source does.
    """
    store = Store(settings.store, console.warn)
    known = store.record(_RECORD, Resolved)
    if known is None:
        known = _resolve(store, settings, console)
        store.write_record(_RECORD, known)
    wanted = Wanted(known.file, (known.url,), known.sha256, known.size)
    return download.fetch_all([wanted], store, Options.from_settings(settings), console)[0].path


def _resolve(store: Store, settings: Settings, console: Console) -> Resolved:
    if settings.offline:
        raise Unreachable("no kernel to probe KVM with is here, and --offline forbids to fetch one")
    image = image_file.debian(IMAGE)
    archives = apt.archive_addresses(image.debian.suites[:1], settings.debian_mirror, ())
    ring = openpgp.keyring(public_keys.of_image(image, store, settings, console))
    root = apt.AptRoot(settings.artifacts / "apt" / "probe-kernel", archives, ring, binary=True)
    console.note("reading Debian's signed package index, for a kernel to probe KVM with")
    root.update()
    named = next((name for name in root.dependencies(PACKAGE) if name.startswith("linux-image-")), PACKAGE)
    return root.binary(named)
