"""Read and write file formats, without knowing what a line is."""
