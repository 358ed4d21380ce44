"""The trainer: launches, watches and ends the one training process group; decides nothing about health."""
