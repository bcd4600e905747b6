"""Runs before ComfyUI itself: ends it together with the tests, and measures what loading each pack costs."""

import importlib.abc
import importlib.machinery
import json
import os
import sys
import threading
import time
from pathlib import Path


def _end_with_the_tests():
    # However the tests end, their end of stdin closes.
    sys.stdin.buffer.read()
    os._exit(0)


class _MeasureLoading(importlib.abc.MetaPathFinder):
    """Wraps `nodes.load_custom_node` once core has it; core's own figures are in tenths of seconds."""

    def __init__(self, report):
        self._report = Path(report)
        self._records = {}

    def find_spec(self, name, path=None, target=None):
        if name != "nodes":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        run = spec.loader.exec_module

        def run_and_wrap(module):
            run(module)
            module.load_custom_node = self._measured(module.load_custom_node)

        spec.loader.exec_module = run_and_wrap
        return spec

    def _measured(self, load):
        async def load_custom_node(module_path, *args, **kwargs):
            before, cpu, wall = set(sys.modules), time.process_time(), time.perf_counter()
            try:
                return await load(module_path, *args, **kwargs)
            finally:
                self._records[Path(module_path).name] = {
                    "cpu_seconds": time.process_time() - cpu,
                    "wall_seconds": time.perf_counter() - wall,
                    "imported": sorted(set(sys.modules) - before),
                }
                self._report.write_text(json.dumps(self._records))

        return load_custom_node


if os.environ.get("XALORA_TEST_END_WITH_STDIN"):
    threading.Thread(target=_end_with_the_tests, daemon=True).start()
if report := os.environ.get("XALORA_TEST_LOAD_REPORT"):
    sys.meta_path.insert(0, _MeasureLoading(report))
