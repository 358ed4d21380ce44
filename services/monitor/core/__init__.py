"""What the monitor computes: values in, values out."""
