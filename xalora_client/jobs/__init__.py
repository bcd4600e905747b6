"""One job, from its create to its files."""
