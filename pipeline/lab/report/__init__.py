"""Report a run of the lab as document, page, JUnit XML and terminal lines."""
