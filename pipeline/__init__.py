"""Builds, proves and publishes LVS-FULLNAT and TOA kernels with their tools."""

__version__ = "0.1.0"
