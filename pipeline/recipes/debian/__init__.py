"""Build kernels and tools from the upstream tarballs that Debian ships."""
