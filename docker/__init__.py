"""What the images are built from, and the check of all that compose.yaml promises."""
