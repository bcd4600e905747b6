"""A node while it runs: from its inputs to a client's tasks, to what it shows, and to what it hands on."""
