"""Open-ended answers rated by another language model behind an API, as MT-Bench does it."""
