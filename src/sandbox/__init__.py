"""Running a program that nobody has read: what is done outside, and inside."""
