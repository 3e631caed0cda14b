"""The configuration: its fields, its rules, and Hydra."""
