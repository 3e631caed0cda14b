"""Speed beside what one would write without this project."""
