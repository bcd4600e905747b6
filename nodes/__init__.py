"""What a ComfyUI graph sees.

Nothing is imported here: the node modules need a running ComfyUI, while `nodes.bridge` does not. The list of
nodes stands in `nodes.extension`.
"""
