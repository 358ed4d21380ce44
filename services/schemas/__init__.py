"""What the messages and outputs of worldloop look like, for other programs: a library of the CLI."""
