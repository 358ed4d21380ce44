"""Diagnosis of any run, from its files alone: readers here, judgement in `core`."""
