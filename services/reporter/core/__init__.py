"""What the reports say: values in, markdown out."""
