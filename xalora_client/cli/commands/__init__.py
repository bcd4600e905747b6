"""The commands of `xalora`, one file a topic."""
