"""Sign statements about steps, verify everything below the artifacts directory, and identify packages of anyone."""
