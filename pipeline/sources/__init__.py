"""Fetch upstream's bytes from where they can be had, keep them, and establish why they are trusted."""
