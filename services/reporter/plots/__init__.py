"""The pictures beside the reports' numbers: the same files give the same bytes."""
