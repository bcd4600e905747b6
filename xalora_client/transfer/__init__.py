"""Upload of input images to a store, download of result files."""
