"""A library of the CLI: looks after bundles on the disk. Lists, verifies, moves and prunes them."""
