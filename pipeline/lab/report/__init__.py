"""What a run of the lab saw, as document, page, JUnit XML and terminal lines."""
