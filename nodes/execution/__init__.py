"""A node's execution: running its tasks, showing progress, cancelling, and falling back to this machine."""
