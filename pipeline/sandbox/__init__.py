"""Builder images, and the runtimes that run commands in them without network, rights or a way out."""
