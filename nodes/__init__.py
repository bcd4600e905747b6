"""ComfyUI nodes of the Xalora network.

Each module of this folder holds the nodes of one theme; `nodes.extension` lists them, and `nodes.base` is
their base class. `execution` runs a node's tasks, `conversion` turns tensors into tasks' images and results
into tensors, `sidebar` serves the browser, and `host` wraps ComfyUI. Nothing is imported here: the node
modules need a running ComfyUI, while `nodes.host.bridge` does not.
"""
