"""The gatekeeper: the pipeline's state machine, from `start_run` to `run_finished`."""
