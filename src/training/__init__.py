"""Training and scoring of any method; nothing here knows a method's name."""
