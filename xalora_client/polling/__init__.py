"""Polling: when to ask for a task's status, and when failed polls end the wait."""
