"""Finished runs in the formats of others."""
