"""Trustworthy comparisons of parameter-efficient fine-tuning methods."""

from src.threads import limit_spinning

limit_spinning()  # here, before anything can have imported torch
