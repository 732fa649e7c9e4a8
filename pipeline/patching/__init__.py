"""Patch files: read strictly, their role proven by content, applied and proven by effect.

Works on bytes and plain trees; knows nothing of where a patch comes from or what is built of it.
"""
