"""ComfyUI around the pack: its modules, settings and files, and the thread where the client lives."""
