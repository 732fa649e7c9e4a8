"""Provide builder images, and the runtimes that run commands in them without network or privileges."""
