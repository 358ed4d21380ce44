"""`diagnose`, `gate`, `replay`: what a run's evidence says, now and under another policy."""
