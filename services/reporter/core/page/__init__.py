"""What the live page, its static copy and `worldloop watch` show: a fold of events and telemetry."""
