"""The pack's access to ComfyUI: its modules, settings and files, and the thread on which the client runs."""
