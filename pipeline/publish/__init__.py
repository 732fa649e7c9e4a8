"""From built RPMs to a signed repository snapshot: signing, what old readers can take, the repository itself.

Must not know how a package is built, nor what a line is beyond its name and the label it bears.
"""
