"""The command line and its generated pages."""
