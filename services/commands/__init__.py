"""What the commands of the control CLI do; `services.cli` says what they are called."""
