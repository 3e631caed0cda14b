"""Figures of the stored runs, legible in a column of a paper and to the color-blind; a file a kind."""
