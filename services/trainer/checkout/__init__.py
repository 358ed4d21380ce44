"""The trainer's second backend: an unmodified TinyWorlds repository, driven through its own scripts."""
