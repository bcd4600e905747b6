"""Nodes that tests put around the pack's own: things that block, wait, fail, make pixels and report times."""

from comfy_api.latest import ComfyExtension

from .nodes import NODES


class TestNodes(ComfyExtension):
    async def get_node_list(self):
        return NODES


async def comfy_entrypoint():
    return TestNodes()
