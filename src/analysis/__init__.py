"""From stored runs to tables and figures. Reads result files only."""
