"""The world model: its three networks, decoding, optimizer and checkpoints."""
