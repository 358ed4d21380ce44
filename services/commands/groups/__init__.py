"""Declarations of commands: their flags and help. The work they do is in `services.commands`."""
