"""Test nodes, category "Xalora tests". Times are `time.time()`, comparable with the tests' own clock.

Every widget has a default, so that a test's graph names only what matters to it. Nodes that block, wait or
fail are no output nodes, as samplers are none: ComfyUI runs a ready output node before anything else. Put an
XaloraTestClock behind them.
"""

import asyncio
import gc
import importlib
import json
import sys
import time
from pathlib import Path

import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy_api.latest import io
from PIL import Image
from server import PromptServer

CATEGORY = "Xalora tests"


def _passing(socket="value"):
    return [io.AnyType.Input(socket, optional=True, tooltip="Passed on unchanged.")]


def _nonce():
    """An input of no meaning: another value makes ComfyUI run the node again."""
    return io.String.Input("nonce", default="", optional=True)


class XaloraTestBlock(io.ComfyNode):
    """A synchronous node: holds the prompt's loop, asleep or computing, as a sampler does."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestBlock",
            category=CATEGORY,
            inputs=[
                io.Float.Input("seconds", default=1.0, min=0.0, max=600.0, optional=True),
                io.Boolean.Input(
                    "busy", default=False, tooltip="Compute on one core instead of sleeping.", optional=True
                ),
                io.Boolean.Input(
                    "bar",
                    default=False,
                    tooltip="Step a bar a hundred times a second, which takes a request to stop at once.",
                    optional=True,
                ),
                *_passing(),
                _nonce(),
            ],
            outputs=[io.AnyType.Output("passed")],
        )

    @classmethod
    def execute(cls, *, seconds=1.0, busy=False, bar=False, value=None, nonce=""):
        began = time.time()
        until = time.monotonic() + seconds
        if busy:
            matrix = np.random.default_rng(0).random((128, 128))
            while time.monotonic() < until:
                matrix = matrix @ matrix.T
                matrix /= np.abs(matrix).max()
        elif bar:
            steps = comfy.utils.ProgressBar(100)
            while (left := until - time.monotonic()) > 0:
                steps.update_absolute(100 * (1 - left / seconds))
                time.sleep(0.01)
        else:
            time.sleep(seconds)
        return io.NodeOutput(value, ui={"began": [began], "ended": [time.time()]})


class XaloraTestAsyncWait(io.ComfyNode):
    """An asynchronous node that lives in the prompt's own loop, and notes when it got its turn."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestAsyncWait",
            category=CATEGORY,
            inputs=[
                io.Float.Input("seconds", default=1.0, min=0.0, max=600.0, optional=True),
                io.Float.Input("tick", default=0.25, min=0.01, max=60.0, optional=True),
                *_passing(),
                _nonce(),
            ],
            outputs=[io.AnyType.Output("passed")],
        )

    @classmethod
    async def execute(cls, seconds=1.0, tick=0.25, value=None, nonce=""):
        began = time.time()
        until = time.monotonic() + seconds
        ticks = []
        while (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(tick, left))
            ticks.append(time.time())
        return io.NodeOutput(value, ui={"began": [began], "ended": [time.time()], "ticks": ticks})


class XaloraTestFail(io.ComfyNode):
    """Fails after `delay` seconds without holding the loop; with `fail` off it only passes its input on."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestFail",
            category=CATEGORY,
            inputs=[
                io.String.Input("message", default="failed on demand", optional=True),
                io.Float.Input("delay", default=0.0, min=0.0, max=600.0, optional=True),
                io.Boolean.Input("fail", default=True, optional=True),
                *_passing(),
                _nonce(),
            ],
            outputs=[io.AnyType.Output("passed")],
        )

    @classmethod
    async def execute(cls, message="failed on demand", delay=0.0, fail=True, value=None, nonce=""):
        await asyncio.sleep(delay)
        if fail:
            raise RuntimeError(message)
        return io.NodeOutput(value)


class XaloraTestImage(io.ComfyNode):
    """An IMAGE from a seed: noise, or a gradient that survives resizing; a fourth channel is a ramp."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestImage",
            category=CATEGORY,
            inputs=[
                io.Int.Input("width", default=64, min=1, max=8192, optional=True),
                io.Int.Input("height", default=48, min=1, max=8192, optional=True),
                io.Int.Input("batch", default=1, min=1, max=256, optional=True),
                io.Int.Input("channels", default=3, min=1, max=4, optional=True),
                io.Combo.Input("kind", options=["noise", "gradient"], default="noise", optional=True),
                io.Int.Input("seed", default=0, min=0, optional=True),
            ],
            outputs=[io.Image.Output("image", display_name="IMAGE")],
        )

    @classmethod
    def execute(cls, *, width=64, height=48, batch=1, channels=3, kind="noise", seed=0):
        rng = np.random.default_rng(seed)
        if kind == "noise":
            image = rng.random((batch, height, width, channels), dtype=np.float32)
        else:
            x = np.linspace(0, 1, width, dtype=np.float32)[None, None, :, None]
            y = np.linspace(0, 1, height, dtype=np.float32)[None, :, None, None]
            mix = rng.random((batch, 1, 1, channels), dtype=np.float32)
            image = np.ascontiguousarray(mix * x + (1 - mix) * y)
        if channels == 4:
            image[..., 3] = np.linspace(0, 1, width, dtype=np.float32)
        return io.NodeOutput(torch.from_numpy(image))


class XaloraTestOddImage(io.ComfyNode):
    """40x30 noise in a form that ComfyUI's own nodes never give, but others do."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestOddImage",
            category=CATEGORY,
            inputs=[
                io.Combo.Input("kind", options=["gray", "half", "bytes", "nan", "of 255"]),
                io.Int.Input("seed", default=0, min=0, optional=True),
            ],
            outputs=[io.Image.Output("image", display_name="IMAGE")],
        )

    @classmethod
    def execute(cls, kind, seed=0):
        noise = np.random.default_rng(seed).random((1, 30, 40, 1 if kind == "gray" else 3), dtype=np.float32)
        image = torch.from_numpy(noise)
        forms = {
            "gray": image,
            "half": image.half(),
            "bytes": (image * 255).to(torch.uint8),
            "nan": image * float("nan"),
            "of 255": image * 255,
        }
        return io.NodeOutput(forms[kind])


class XaloraTestList(io.ComfyNode):
    """A list of single images of 40x30 noise, which makes ComfyUI run what follows once for each."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestList",
            category=CATEGORY,
            inputs=[
                io.Int.Input("count", default=2, min=1, max=64, optional=True),
                io.Int.Input("seed", default=0, min=0, optional=True),
            ],
            outputs=[io.Image.Output("images", is_output_list=True)],
        )

    @classmethod
    def execute(cls, count=2, seed=0):
        noise = np.random.default_rng(seed).random((count, 1, 30, 40, 3), dtype=np.float32)
        return io.NodeOutput([torch.from_numpy(one) for one in noise])


class XaloraTestTexts(io.ComfyNode):
    """The lines of a text as a list, which makes ComfyUI run what follows once for each."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestTexts",
            category=CATEGORY,
            inputs=[io.String.Input("texts", multiline=True)],
            outputs=[io.String.Output("lines", is_output_list=True)],
        )

    @classmethod
    def execute(cls, texts):
        return io.NodeOutput(texts.split("\n"))


class XaloraTestJoin(io.ComfyNode):
    """A list of batches to one batch."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestJoin",
            category=CATEGORY,
            is_input_list=True,
            inputs=[io.Image.Input("images")],
            outputs=[io.Image.Output("image", display_name="IMAGE")],
        )

    @classmethod
    def execute(cls, images):
        return io.NodeOutput(torch.cat(images))


class XaloraTestDump(io.ComfyNode):
    """Writes a tensor to `<output folder>/<name>.npy`, so that a test sees the very numbers."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestDump",
            category=CATEGORY,
            is_output_node=True,
            inputs=[
                io.MultiType.Input("image", types=[io.Image, io.Mask]),
                io.String.Input("name", default="dump", optional=True),
                _nonce(),
            ],
        )

    @classmethod
    def execute(cls, image, name="dump", nonce=""):
        path = Path(folder_paths.get_output_directory(), f"{name}.npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, image.numpy())
        return io.NodeOutput(
            ui={
                "npy": [str(path)],
                "shape": [list(image.shape)],
                "dtype": [str(image.dtype)],
                "at": [time.time()],
            }
        )


class XaloraTestClock(io.ComfyNode):
    """Notes when its input arrived."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestClock",
            category=CATEGORY,
            is_output_node=True,
            inputs=[*_passing(), _nonce()],
            outputs=[io.AnyType.Output("passed")],
        )

    @classmethod
    def execute(cls, value=None, nonce=""):
        return io.NodeOutput(value, ui={"at": [time.time()]})


class XaloraTestText(io.ComfyNode):
    """Tells what its input is as text; what is not a text itself, as JSON."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestText",
            category=CATEGORY,
            is_output_node=True,
            inputs=[io.AnyType.Input("value"), _nonce()],
        )

    @classmethod
    def execute(cls, value, nonce=""):
        return io.NodeOutput(ui={"text": [value if isinstance(value, str) else json.dumps(value)]})


class XaloraTestProgress(io.ComfyNode):
    """Reports as core's own nodes do: a bar, a preview picture and one line of text a step."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestProgress",
            category=CATEGORY,
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[io.Int.Input("steps", default=3, min=1, max=1000, optional=True), _nonce()],
        )

    @classmethod
    async def execute(cls, steps=3, nonce=""):
        node = cls.hidden.unique_id
        server = PromptServer.instance
        bar = comfy.utils.ProgressBar(steps, node_id=node)
        for step in range(1, steps + 1):
            picture = Image.new("RGB", (32, 16), (255 * step // steps, 0, 0))
            bar.update_absolute(step, steps, ("PNG", picture, None))
            server.send_progress_text(f"step {step} of {steps}", node, server.client_id)
            await asyncio.sleep(0)
        return io.NodeOutput(ui={"steps": [steps]})


class XaloraTestRemote(io.ComfyNode):
    """What the pack's remote nodes are made of: work on the bridge, a bar, polling for the cancel button.

    Writes `<output folder>/<name>.json` when it ends: how, and how often the user asked to stop meanwhile.
    """

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestRemote",
            category=CATEGORY,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Float.Input("seconds", default=1.0, min=0.0, max=600.0, optional=True),
                io.Boolean.Input("polls", default=True, optional=True),
                io.String.Input("name", default="remote", optional=True),
                *_passing(),
                _nonce(),
            ],
            outputs=[io.AnyType.Output("passed")],
        )

    @classmethod
    async def execute(cls, seconds=1.0, polls=True, name="remote", value=None, nonce=""):
        compat, bridge = _of_the_pack("nodes.host.compat"), _of_the_pack("nodes.host.bridge").bridge
        node = cls.hidden.unique_id
        before = compat.interrupt_count()
        work = bridge.run(asyncio.sleep(seconds, "done"))
        bar = compat.ProgressBar(100, node)
        ended = "cancelled"
        try:
            while not work.done():
                await asyncio.wait([work], timeout=0.05)
                bar.update_absolute(50)
                if polls and compat.interrupted():
                    ended = "interrupted"
                    raise compat.InterruptProcessingException
            ended = work.result()
        finally:
            work.cancel()
            seen = compat.interrupt_count() - before
            path = Path(folder_paths.get_output_directory(), f"{name}.json")
            path.write_text(json.dumps({"ended": ended, "interrupts": seen}))
        return io.NodeOutput(value)


class XaloraTestBlockClient(io.ComfyNode):
    """Holds the loop that the pack's client lives on, as too much work would."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestBlockClient",
            category=CATEGORY,
            is_output_node=True,
            inputs=[io.Float.Input("seconds", default=1.0, min=0.0, max=600.0), _nonce()],
        )

    @classmethod
    async def execute(cls, seconds, nonce=""):
        async def block():
            began = time.time()
            time.sleep(seconds)  # noqa: ASYNC251 - to block the loop is the purpose
            return {"began": [began], "ended": [time.time()]}

        return io.NodeOutput(ui=await _of_the_pack("nodes.host.bridge").bridge.run(block()))


class XaloraTestCompat(io.ComfyNode):
    """Tells what `nodes.host.compat` answers here."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestCompat",
            category=CATEGORY,
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[_nonce()],
        )

    @classmethod
    def execute(cls, nonce=""):
        compat = _of_the_pack("nodes.host.compat")
        wanted = compat.schema(node_id="Any", from_a_later_version=True, inputs=[], outputs=[])
        advanced = compat.with_options(io.Int.Input("timeout", default=1), advanced=True)
        bar = compat.ProgressBar(4, cls.hidden.unique_id)
        for done in (1, 2, 3):
            bar.update_absolute(done)
        told = {
            "pack": compat.pack_directory(),
            "base": compat.base_directory(),
            "temp": compat.temp_directory(),
            "user": compat.user_directory(),
            "system_user": compat.system_user_directory(),
            "schema": wanted.node_id,
            "options": json.dumps(advanced.as_dict()),
            "frozen": gc.get_freeze_count(),
        }
        return io.NodeOutput(ui={name: [str(value)] for name, value in told.items()})


class XaloraTestUnforeseen(io.ComfyNode):
    """A batch of noise whose images from `first` to `last` make the pack raise what nobody foresaw."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="XaloraTestUnforeseen",
            category=CATEGORY,
            inputs=[
                io.Int.Input("batch", default=3, min=1, optional=True),
                io.Int.Input("first", default=1, min=0, optional=True),
                io.Int.Input("last", default=1, min=0, optional=True),
                io.Int.Input("seed", default=0, min=0, optional=True),
            ],
            outputs=[io.Image.Output("image", display_name="IMAGE")],
        )

    @classmethod
    def execute(cls, *, batch=3, first=1, last=1, seed=0):
        preparation = _of_the_pack("xalora_client.jobs.preparation")
        prepare = preparation.prepare_image
        images = torch.from_numpy(np.random.default_rng(seed).random((batch, 30, 40, 3), dtype=np.float32))
        odd = images[first : last + 1]

        def prepare_or_fail(image):
            if any(np.array_equal(np.asarray(image), one.numpy()) for one in odd):
                raise ZeroDivisionError("as nobody foresaw")
            return prepare(image)

        preparation.prepare_image = prepare_or_fail
        return io.NodeOutput(images)


def _of_the_pack(module):
    """A module of the pack, whatever name ComfyUI has given it."""
    package = next(name for name in sys.modules if name.endswith("ComfyUI-Xalora"))
    return importlib.import_module(f"{package}.{module}")


NODES = [
    XaloraTestBlock,
    XaloraTestAsyncWait,
    XaloraTestFail,
    XaloraTestImage,
    XaloraTestOddImage,
    XaloraTestList,
    XaloraTestTexts,
    XaloraTestJoin,
    XaloraTestDump,
    XaloraTestClock,
    XaloraTestText,
    XaloraTestProgress,
    XaloraTestRemote,
    XaloraTestBlockClient,
    XaloraTestCompat,
    XaloraTestUnforeseen,
]
