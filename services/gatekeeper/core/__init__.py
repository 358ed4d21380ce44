"""Decision logic: values in, events and commands out; no clock, no disk, no network."""
