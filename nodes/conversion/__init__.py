"""Conversion between ComfyUI's IMAGE and VIDEO and what tasks take and give."""
