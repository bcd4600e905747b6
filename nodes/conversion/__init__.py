"""ComfyUI's IMAGE and VIDEO: what tasks take of them, and results as them."""
