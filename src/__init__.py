"""Trustworthy comparisons of parameter-efficient fine-tuning methods."""
