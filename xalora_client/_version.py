"""The one place the version of the client is written for import; `pyproject.toml` holds the same number."""

__version__ = "0.1.0"
