"""Where the W&B reports take their history from: local files, or W&B's own API."""
