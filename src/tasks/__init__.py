"""Tasks: one Python file per family, one yaml per task."""
