"""Check for the doctor whether the Debian archives of builder images answer, with the proxies of the environment."""

from __future__ import annotations

from pipeline.config import image_file
from pipeline.config.settings import Settings
from pipeline.errors import PipelineError
from pipeline.host.facts import Finding
from pipeline.sources import apt, preflight
from pipeline.sources.wanted import Options, Wanted

IMAGE = "debian12"  # the builder image whose archives are asked


def check(settings: Settings) -> Finding:
    """Check whether every archive begins to deliver its signed index."""
    affects = "fetching sources and making builder images, except from what --mirror names"
    if settings.offline:
        return Finding("network", "ok", "not asked: offline")
    try:
        suites = image_file.debian(IMAGE).debian.suites
        archives = apt.archive_addresses(suites, settings.debian_mirror, settings.mirror)
    except PipelineError as error:
        return Finding("network", "warn", f"{error.what}: {error.why}", affects, error.hint)
    requested = [Wanted(suite, (f"{url}/dists/{suite}/InRelease",), None, None) for suite, url in archives.items()]
    options = Options.from_settings(settings)
    missing = preflight.probe(requested, options)
    if not missing:
        return Finding("network", "ok", f"{', '.join(dict.fromkeys(archives.values()))} answer")
    found = "; ".join(f"{attempt.url}: {attempt.what}" for item in missing for attempt in item.attempts)
    remedy = "see to the network or its proxy (http_proxy, https_proxy, no_proxy), or name a reachable archive: "
    return Finding("network", "warn", found, affects, remedy + "--debian-mirror URL")
