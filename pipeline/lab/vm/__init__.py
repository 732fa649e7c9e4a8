"""Run virtual machines and the network between them."""
