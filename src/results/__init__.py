"""Run records: what is in one, where it lives, and who may write it."""
