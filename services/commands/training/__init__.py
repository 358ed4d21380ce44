"""`worldloop train`: from its flags to a run that has been started and followed."""
