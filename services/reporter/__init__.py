"""The reporter: writes the event file, the configuration, every report and plot; never influences a run."""
