"""Scripts ported line by line from the Node SDK: they do the same, or one sentence says what to write."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from xalora_client import (
    AsyncXalora,
    ConfigurationError,
    DefinedWorkflowTask,
    FluxLoraTask,
    InvalidTaskError,
    Text2VideoTask,
    UpscalerTask,
    WorkflowDefinitionError,
    WorkflowTask,
    WorkflowTaskType,
    parse_api_key,
)
from xalora_client.handle import check_waits
from xalora_client.jobs.preparation import PreparedTask, prepare

ALICE = parse_api_key("alice#main")
URL = "http://127.0.0.1:1"


async def prepared(task: WorkflowTask) -> PreparedTask:
    return await prepare(task, ALICE, URL)


class SketchTask(WorkflowTask):
    """The seed's form, word for word."""

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self.prompt = options["prompt"]
        self.image = options.get("image")
        self.steps = options.get("steps")

    @property
    def task_type(self) -> WorkflowTaskType:  # type: ignore[override]
        return WorkflowTaskType.FLUX_LORA

    @property
    def task_details(self) -> dict[str, Any]:
        return {"parameters": {"prompt": self.prompt, "image": self.image, "steps": self.steps}, "tier": 2}


class Declared(WorkflowTask):
    """With the fields declared, as in TypeScript, and an options object."""

    prompt: str
    task_type = "sketch"

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self.prompt = options["prompt"]

    @property
    def task_details(self) -> dict[str, Any]:
        return {"parameters": {"prompt": self.prompt.upper()}}


class Keywords(WorkflowTask):
    """Attributes set before and after the base class's own."""

    task_type = "sketch"

    def __init__(self, prompt: str, size: int = 3, **options: Any) -> None:
        self.size = size
        super().__init__(**options)
        self.prompt = prompt

    @property
    def task_details(self) -> dict[str, Any]:
        return {"parameters": {"prompt": self.prompt, "size": self.size}}


async def test_a_class_ported_word_for_word_sends_its_own_details() -> None:
    task = SketchTask({"prompt": "a fox", "steps": 4, "timeout_seconds": 60, "workflow_id": "3"})
    ready = await prepared(task)
    assert (task.timeout_seconds, task.workflow_id, task.kind_of_task) == (60, "3", "txt2img")
    assert ready.parameters == {"prompt": "a fox", "steps": 4}
    assert ready.more_details == {"tier": 2}
    assert task.describe() == "a fox"
    assert (await prepared(Declared({"prompt": "a fox"}))).parameters == {"prompt": "A FOX"}
    own = Keywords("a fox", job_id_prefix="mine")
    assert (await prepared(own)).parameters == {"prompt": "a fox", "size": 3}
    assert own.new_job_id().startswith("mine-")


async def test_the_fingerprint_is_of_what_is_sent() -> None:
    class Tier(SketchTask):
        @property
        def task_details(self) -> dict[str, Any]:
            return {**super().task_details, "tier": 3}

    def fingerprint_of(ready: PreparedTask) -> str:
        return ready.fingerprint

    tasks = [
        SketchTask({"prompt": "a fox"}),
        SketchTask({"prompt": "a dog"}),
        SketchTask({"prompt": "a fox", "steps": 4}),
        Tier({"prompt": "a fox"}),
    ]
    assert len({fingerprint_of(await prepared(task)) for task in tasks}) == 4
    assert fingerprint_of(await prepared(tasks[0])) == fingerprint_of(
        await prepared(SketchTask({"prompt": "a fox", "timeout_seconds": 9}))
    )


@pytest.mark.parametrize("form", ["str", "Path", "bytes", "array", "pillow"])
async def test_local_images_among_own_details_go_as_for_our_own_tasks(tmp_path: Path, form: str) -> None:
    path = tmp_path / "red.png"
    Image.new("RGB", (4, 3), "red").save(path)
    image: Any = {
        "str": str(path),
        "Path": path,
        "bytes": path.read_bytes(),
        "array": np.full((3, 4, 3), (255, 0, 0), np.uint8),
        "pillow": Image.new("RGB", (4, 3), "red"),
    }[form]
    task = SketchTask({"prompt": "a fox", "image": image})
    ready = await prepared(task)
    assert (ready.images["image"].width, ready.images["image"].height) == (4, 3)
    other = await prepared(
        SketchTask({"prompt": "a fox", "image": np.full((3, 4, 3), (255, 0, 0), np.uint8)})
    )
    assert ready.fingerprint == other.fingerprint
    assert (await prepared(SketchTask({"prompt": "a", "image": "https://h/a.png"}))).images == {}


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ({"prompt": "x"}, r'is not a dict with parameters.*Return \{"parameters"'),
        (None, "is not a dict with parameters"),
        ({"parameters": {"when": {1, 2}}}, "Parameter when can't be sent"),
        ({"parameters": {}, "more": {1, 2}}, "Parameter more can't be sent"),
    ],
)
async def test_details_of_another_form_are_refused_before_anything_is_sent(
    details: Any, message: str
) -> None:
    class Odd(WorkflowTask):
        task_type = "odd"

        @property
        def task_details(self) -> Any:
            return details

    with pytest.raises(InvalidTaskError, match=message):
        await prepared(Odd())


def test_what_would_not_be_sent_says_what_to_write() -> None:
    class Lost(WorkflowTask):
        task_type = "sketch"

        def __init__(self, prompt: str) -> None:
            super().__init__()
            self.prompt = prompt

    with pytest.raises(InvalidTaskError, match=r"Lost sets prompt, .*Write prompt: <type> in the class body"):
        Lost("a fox")

    class Late(WorkflowTask):
        task_type = "sketch"
        prompt: str

        def __init__(self, prompt: str, **options: Any) -> None:
            super().__init__(**options)
            self.prompt = prompt

    with pytest.raises(InvalidTaskError, match=r"Give prompt to super\(\)\.__init__\(prompt=\.\.\.\)"):
        Late("a fox")
    with pytest.raises(InvalidTaskError, match=r"prompt of a Text2VideoTask can't be set"):
        Text2VideoTask(prompt="a").prompt = "b"
    assert Text2VideoTask({"prompt": "a", "seed": 1}).seed == 1
    with pytest.raises(InvalidTaskError, match="where options are expected"):
        Text2VideoTask("a fox")


def test_all_tasks_take_an_object_of_options() -> None:
    task = UpscalerTask({"image_url": "https://h/a.png", "timeout_seconds": 60, "workflow_id": 9})
    assert (task.image, task.timeout_seconds, task.workflow_id) == ("https://h/a.png", 60, "9")
    assert UpscalerTask({"image": "a.png"}, job_id_prefix="mine").image == "a.png"
    both = UpscalerTask({"image_url": "https://h/a.png"}, image_url="https://h/b.png")
    assert both.image == "https://h/b.png"
    with pytest.raises(InvalidTaskError, match="exactly one of the two"):
        UpscalerTask({"image_url": "https://h/a.png", "image": "a.png"})


def test_plain_attributes_of_a_class_are_its_own_or_told() -> None:
    class Plain(WorkflowTask):
        task_type = "sketch"
        prompt = None
        steps = 4

        def __init__(self, options: dict[str, Any]) -> None:
            super().__init__(options)
            self.prompt = options["prompt"]

        @property
        def task_details(self) -> dict[str, Any]:
            return {"parameters": {"prompt": self.prompt, "steps": self.steps}}

    assert Plain({"prompt": "a fox"}).details() == {"parameters": {"prompt": "a fox", "steps": 4}}
    assert Plain({"prompt": "a dog"}).details()["parameters"]["prompt"] == "a dog"
    with pytest.raises(InvalidTaskError, match=r"style of Lost has no type.*Write style: <type> = 'ink'"):

        class Lost(WorkflowTask):
            task_type = "sketch"
            style = "ink"

    with pytest.raises(InvalidTaskError, match=r"width of Wide has no type.*Write width: <type> = 848"):

        class Wide(Text2VideoTask):
            width = 848


async def test_a_method_in_place_of_a_property_says_what_to_write() -> None:
    class Typed(WorkflowTask):
        def task_type(self) -> str:  # type: ignore[override]
            return "sketch"

    class Detailed(WorkflowTask):
        task_type = "sketch"

        def task_details(self) -> dict[str, Any]:  # type: ignore[override]
            return {"parameters": {}}

    with pytest.raises(InvalidTaskError, match=r"task_type of Typed is a method.*@property above def task_t"):
        await prepared(Typed())
    with pytest.raises(InvalidTaskError, match=r"task_details of Detailed is a method.*Write @property"):
        await prepared(Detailed())


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: Text2VideoTask({"prompt": "a", "workflowId": "1"}), "Write workflow_id."),
        (lambda: Text2VideoTask(prompt="a", timeoutSeconds=3), "Write timeout_seconds."),
        (lambda: Text2VideoTask(prompt="a", sedd=3), "Write seed."),
        (lambda: UpscalerTask({"imageUrl": "https://h/a.png"}), "Write image_url."),
        (lambda: UpscalerTask("a.png", jobIdPrefix="x"), "Write job_id_prefix."),
        (lambda: FluxLoraTask(prompt="a", lora_name="b", seed=3), "Write noise_seed."),
        (lambda: Text2VideoTask(prompt="a", colour=3), "There are api_key, consumer_id, fps"),
        (lambda: AsyncXalora(apiKey="a#b"), "Write api_key."),
        (lambda: AsyncXalora(workflowURL=URL), "Write workflow_url."),
        (lambda: AsyncXalora(wait_timout=3), "Write wait_timeout."),
        (lambda: AsyncXalora({"apiKey": "a#b"}), r"Xalora(api_key=..., workflow_url=...)"),
    ],
)
def test_a_name_of_another_language_is_told_in_ours(make: Any, advice: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"prompt": "a"}, "A dict is no task"),
        ("photo.jpg", "A str is no task"),
        (UpscalerTask, "UpscalerTask is a class, and no task"),
        ([UpscalerTask("a.png")], "Use run_many for several tasks"),
    ],
)
async def test_what_is_no_task_is_told(value: Any, words: str) -> None:
    async with AsyncXalora("a#b", URL, journal="memory") as client:
        calls: list[Any] = [
            client.run,
            client.submit,
            client.execute_workflow,
            client.execute_workflow_and_wait_for_result,
        ]
        for call in calls:
            with pytest.raises(InvalidTaskError, match=words):
                await call(value)


def test_the_base_is_abstract_and_a_class_needs_a_type() -> None:
    class Nameless(WorkflowTask):
        prompt: str = ""

    class Numbered(WorkflowTask):
        @property
        def task_type(self) -> Any:  # type: ignore[override]
            return 7

    with pytest.raises(InvalidTaskError, match=r"WorkflowTask is abstract.*task_type = "):
        WorkflowTask()
    with pytest.raises(InvalidTaskError, match=r"Nameless has no task_type.*task_type = "):
        Nameless()
    with pytest.raises(InvalidTaskError, match="task_type of Numbered is 7, and no text"):
        _ = Numbered().kind_of_task


def test_a_declared_type_is_no_parameter() -> None:
    # Pydantic warns of it; the class works all the same.
    with pytest.warns(UserWarning, match="task_type"):

        class Typed(WorkflowTask):
            task_type: str = "sketch"  # type: ignore[misc]
            prompt: str = "a"

    assert (Typed().kind_of_task, Typed().parameters()) == ("sketch", {"prompt": "a"})


def test_a_ported_text_to_image_without_a_seed_is_not_shared() -> None:
    class Seeded(SketchTask):
        @property
        def task_details(self) -> dict[str, Any]:
            return {"parameters": {"prompt": self.prompt, "noise_seed": 3}}

    assert not SketchTask({"prompt": "a fox"}).repeatable
    assert Seeded({"prompt": "a fox"}).repeatable
    assert Keywords("a fox").repeatable


def test_the_base_options_are_as_in_the_node_sdk() -> None:
    empty = UpscalerTask(
        "a.png", consumer_id="", job_id_prefix="", timeout_seconds=0, workflow_id="", api_key=""
    )
    assert empty.new_job_id().startswith("sdk-workflow-")
    assert (empty.timeout_seconds, empty.workflow_id, empty.api_key, empty.consumer_id) == (None,) * 4
    assert empty.own_credentials(ALICE) == ALICE
    assert UpscalerTask("a.png", timeout_seconds=0.5).timeout_seconds == 0.5
    whole = UpscalerTask("a.png", timeout_seconds=60.0).timeout_seconds
    assert whole == 60 and isinstance(whole, int)
    for wrong in (-1, float("nan"), float("inf")):
        with pytest.raises(InvalidTaskError, match="timeout_seconds"):
            UpscalerTask("a.png", timeout_seconds=wrong)


def test_a_bare_key_is_of_the_clients_consumer() -> None:
    bare = UpscalerTask("a.png", api_key="0ther")
    assert bare.own_credentials(ALICE) == parse_api_key("alice#0ther")
    assert UpscalerTask("a.png", api_key="0-ther", consumer_id="bob").own_credentials(ALICE) == parse_api_key(
        "bob#0-ther"
    )
    with pytest.raises(ConfigurationError, match=r"bare key.*Give consumer_id beside it") as caught:
        bare.own_credentials(None)
    assert "0ther" not in str(caught.value)


@pytest.mark.parametrize(
    ("waits", "told"),
    [
        ((300000,), "3.5 days. If it is meant in milliseconds, write 300."),
        ((60000, None), "0.7 days. If it is meant in milliseconds, write 60."),
        ((300000, 10), None),
        ((3600,), None),
        ((None,), None),
        ((math.inf,), None),
    ],
)
def test_a_timeout_of_days_alone_is_told(
    waits: tuple[float | None, ...], told: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    check_waits(waits[0], waits[1] if len(waits) > 1 else None, "")
    assert (told in caplog.text) if told else not caplog.text


async def test_milliseconds_by_habit_are_refused_with_the_right_call() -> None:
    async with AsyncXalora("a#b", URL, journal="memory") as client:
        task = UpscalerTask(image_url="https://h/a.png")
        call = r"Write execute_workflow_and_wait_for_result\(task, 300, 10\)"
        with pytest.raises(InvalidTaskError, match=f"milliseconds.*{call}"):
            await client.execute_workflow_and_wait_for_result(task, 300000, 10000)
        with pytest.raises(InvalidTaskError, match=r"Write wait\(timeout=10, interval=1\)"):
            await client.task("t-1").wait(timeout=10000, interval=1000)
        with pytest.raises(InvalidTaskError, match="at least 1 s"):
            await client.execute_workflow_and_wait_for_result(task, 300000, 0.5)


def test_the_folder_of_definitions_is_known_from_every_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {name: own_definition(tmp_path / name, name) for name in ("variable", "file", "argument")}
    for name in folders:
        with pytest.raises(WorkflowDefinitionError, match=f"no workflow {name}"):
            DefinedWorkflowTask(name)
    monkeypatch.setenv("XALORA_WORKFLOWS_DIR", str(folders["variable"]))
    assert DefinedWorkflowTask("variable").kind_of_task == "blank"
    monkeypatch.delenv("XALORA_WORKFLOWS_DIR")
    (tmp_path / ".env").write_text(f"XALORA_WORKFLOWS_DIR={folders['file']}\n")
    assert DefinedWorkflowTask("file").kind_of_task == "blank"
    client = AsyncXalora(workflows_dir=folders["argument"])
    assert DefinedWorkflowTask("argument").kind_of_task == "blank"
    del client


def own_definition(folder: Path, name: str) -> Path:
    folder.mkdir()
    (folder / "index.yaml").write_text(f"{name}: {{task_type: blank, output: image}}\n")
    (folder / f"{name}.yaml").write_text("comfyui_output_node_id: 2\n")
    (folder / f"{name}.json").write_text(
        '{"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "color": 0}},'
        '"2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "a"}}}'
    )
    return folder
