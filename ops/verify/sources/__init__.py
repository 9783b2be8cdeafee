"""Where the evidence comes from: the log and the three databases."""
