"""What the inference service computes: values in, values out."""
