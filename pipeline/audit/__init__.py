"""Verify everything below the artifacts directory against its records."""
