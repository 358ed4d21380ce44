"""What the services share: messages, bus, bundle, datasets, world model."""
