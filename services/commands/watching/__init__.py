"""A run that is watched: over its events, or over the files of any trainer."""
