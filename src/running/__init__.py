"""From a config to a record: sweeps, a run's way through its states, its steps, tuning and tracking."""
