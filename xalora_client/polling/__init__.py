"""When to ask for a task's status."""
