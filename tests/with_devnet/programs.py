"""Programs of their own that use the library, against a scripted sequencer of the test."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

STARTING_SECONDS = 60.0

RUN = """
import asyncio, sys
from xalora_client import AsyncXalora, UpscalerTask

async def main(url, name, options):
    async with AsyncXalora("alice#s3cret", url) as client:
        print("begun", flush=True)
        task = UpscalerTask(image_url=f"https://example.org/{name}.png")
        result = await client.run(task, fallback="never", **options)
        print(result.task_id, flush=True)

asyncio.run(main(sys.argv[1], sys.argv[2], eval(sys.argv[3])))
"""


@asynccontextmanager
async def program(code: str, *arguments: str, state_dir: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A running program, which has written its first line; killed in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "XALORA_STATE_DIR": str(state_dir)},
    )
    try:
        await line(process)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def line(process: asyncio.subprocess.Process) -> str:
    """The next line that a program writes; its errors where it writes none."""
    assert process.stdout is not None and process.stderr is not None
    written = await asyncio.wait_for(process.stdout.readline(), STARTING_SECONDS)
    assert written, (await process.stderr.read()).decode()
    return written.decode().strip()
