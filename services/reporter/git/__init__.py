"""Asking the git program, safely, for the evidence report."""
