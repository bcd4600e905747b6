"""What a ComfyUI graph sees.

The nodes stand in the modules of this folder, one theme each, and are listed in `nodes.extension`; what they
have in common below it, in `running`, `values` and `host`. Nothing is imported here: the node modules need a
running ComfyUI, while `nodes.host.bridge` does not.
"""
