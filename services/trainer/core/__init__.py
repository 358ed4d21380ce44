"""What the trainer decides, as functions of values."""
