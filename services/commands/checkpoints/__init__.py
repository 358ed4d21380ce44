"""Checkpoints as commands see them: found, looked at, given, merged."""
