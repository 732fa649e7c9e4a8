"""Virtual machines and the network between them."""
