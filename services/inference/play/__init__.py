"""Play: the world model as a game in the browser; one process, one model, several players."""
