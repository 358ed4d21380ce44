"""What counts as evidence in a repository's history, how git's answers are read, and the report's text."""
