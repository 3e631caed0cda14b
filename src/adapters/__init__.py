"""Adapter methods: one file per method, on the contract in `base.py`."""
