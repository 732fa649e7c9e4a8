"""Sign statements about steps, and verify everything below the artifacts directory against its records."""
