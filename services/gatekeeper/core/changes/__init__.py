"""What each event changes in the state of a run; `fold` has the table."""
