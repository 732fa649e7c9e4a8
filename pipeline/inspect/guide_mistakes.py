"""Describe the mistakes of the guides to FULLNAT, for error messages."""

from __future__ import annotations

WRONG_PATCH = "the LVS patch on a real server applies, builds and boots, and the client's address is lost in silence"
