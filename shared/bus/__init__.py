"""The message bus: a port, and its implementations in memory and over NATS JetStream."""
