"""Fetch upstream sources, store them, and prove their origin."""
