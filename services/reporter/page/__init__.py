"""The live page: an HTTP server in the reporter's process, and the same page as one static file."""
