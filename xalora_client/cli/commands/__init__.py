"""The commands of `xalora`, one module per topic."""
