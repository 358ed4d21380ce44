"""The inference service: runs the standard inference test and says what it measured."""
