"""How files, profiles, checkpoints and flags become one configuration, and how it is shown."""
