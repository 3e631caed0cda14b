"""The report: one HTML file of everything that the stored runs hold, to be read from disk without a network."""
