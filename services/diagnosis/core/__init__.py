"""What a diagnosis judges: values in, values out."""
