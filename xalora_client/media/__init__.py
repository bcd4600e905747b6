"""Image and video files: detection, checks, decoding to numpy, encoding; no HTTP."""
