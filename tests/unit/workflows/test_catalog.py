"""The catalog: what is shipped, folders of the user's, and definitions that are left out."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from xalora_client.errors import WorkflowDefinitionError
from xalora_client.workflows import WorkflowCatalog
from xalora_client.workflows.task import DefinedWorkflowTask

MINER_FILES = Path(__file__).parent / "data" / "miner-workflows"
INDEX = "flux-lora: {task_type: txt2img, output: image}\nhunyuan-fp8: {task_type: txt2vid, output: video}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path in MINER_FILES.glob("*-*.*"):
        shutil.copy(path, tmp_path)
    (tmp_path / "index.yaml").write_text(INDEX, encoding="utf-8")
    return tmp_path


def test_everything_shipped_loads() -> None:
    catalog = WorkflowCatalog.load()
    assert catalog.problems == ()
    assert {d.name: (d.task_type, d.workflow_id, d.output_kind) for d in catalog} == {
        "upscale": ("upscaler", None, "image"),
        "lanczos-upscale": ("upscaler", None, "image"),
        "sharpen": ("img2img", None, "image"),
        "hunyuan-fp8": ("txt2vid", "1", "video"),
        "mochi-fp8": ("txt2vid", "2", "video"),
        "flux-lora": ("txt2img", "3", "image"),
        "gradient-video": ("txt2vid", None, "video"),
        "pan-video": ("img2vid", None, "video"),
    }
    for definition in catalog:
        assert definition.description
        assert definition.prompt[definition.output_node_id]
        assert all(parameter.label and parameter.description for parameter in definition.parameters)
        assert not any(parameter.model_extra for parameter in definition.parameters)


def test_no_link_of_a_shipped_graph_ends_nowhere_and_no_node_hangs_loose() -> None:
    for definition in WorkflowCatalog.load():
        used = {
            json.dumps(value[0])
            for node in definition.prompt.values()
            for value in node["inputs"].values()
            if isinstance(value, list)
        }
        loose = {i for i in definition.prompt if json.dumps(i) not in used} - {definition.output_node_id}
        # The prompt of gradient-video is kept in the file's metadata only, and no node reads it.
        assert loose == ({"1"} if definition.name == "gradient-video" else set())


def test_a_folder_of_the_users_adds_to_and_replaces_what_is_shipped(folder: Path) -> None:
    catalog = WorkflowCatalog.load(folder)
    assert catalog.problems == ()
    assert catalog.get("flux-lora").title == "Advanced Flux Text to Image with LoRA"
    assert catalog.get("flux-lora").source == folder
    assert "upscale" in catalog
    assert WorkflowCatalog.load(None, folder, folder).notices == catalog.notices


@pytest.mark.parametrize("by_file", [False, True])
def test_a_task_finds_a_definition_in_the_users_own_folder(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, by_file: bool
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))
    if by_file:
        Path(".env").write_text(f"XALORA_WORKFLOWS_DIR={folder}\n", encoding="utf-8")
    else:
        monkeypatch.setenv("XALORA_WORKFLOWS_DIR", str(folder))
    assert DefinedWorkflowTask("hunyuan-fp8", prompt="a fox").definition.source == folder


def test_a_broken_definition_costs_itself_only(folder: Path) -> None:
    (folder / "flux-lora.json").write_text("{", encoding="utf-8")
    (folder / "binary.json").write_bytes(b"\xff\xfe\x00")
    (folder / "binary.yaml").write_text("a: 1", encoding="utf-8")
    (folder / "index.yaml").write_text(
        INDEX
        + "absent: {task_type: a, output: image}\n"
        + "binary: {task_type: a, output: image}\n"
        + "typo: {task_type: a, ouput: image}\n"
        + "outside: {task_type: a, output: image, workflow: ../x.json}\n"
        + "absolute: {task_type: a, output: image, endpoint: /etc/x.yaml}\n"
        + "drive: {task_type: a, output: image, endpoint: 'C:x.yaml'}\n"
        + "hidden: {task_type: a, output: image, workflow: 'a\\..\\..\\x.json'}\n"
        + "'no name': {task_type: a, output: image}\n"
        + "nothing:\n",
        encoding="utf-8",
    )
    catalog = WorkflowCatalog.load(folder)
    assert catalog.get("hunyuan-fp8").source == folder
    reasons = {problem.name: problem.reason for problem in catalog.problems}
    assert set(reasons) == {
        *("flux-lora", "absent", "binary", "typo", "no name", "nothing"),
        *("outside", "absolute", "drive", "hidden"),
    }
    assert "not valid JSON" in reasons["flux-lora"]
    assert "absent.json is missing" in reasons["absent"]
    assert "not UTF-8" in reasons["binary"]
    assert "ouput" in reasons["typo"] and "output: Field required" in reasons["typo"]
    for name in ("outside", "absolute", "drive", "hidden"):
        assert "is not a file in the same folder or in one below it" in reasons[name]
    assert catalog.get("flux-lora").source != folder, "the shipped one is still there"
    with pytest.raises(
        WorkflowDefinitionError, match=r"Workflow absent can't be used: .*absent.json is missing"
    ):
        catalog.get("absent")


def test_an_index_may_point_into_folders_below_its_own(folder: Path) -> None:
    (folder / "workflows" / "v2").mkdir(parents=True)
    (folder / "flux-lora.json").rename(folder / "workflows" / "v2" / "flux.json")
    (folder / "flux-lora.yaml").rename(folder / "workflows" / "flux.yaml")
    files = "workflow: workflows/v2/flux.json, endpoint: 'workflows\\flux.yaml'"
    index = f"flux-lora: {{task_type: txt2img, output: image, {files}}}\n"
    (folder / "index.yaml").write_text(index, encoding="utf-8")
    catalog = WorkflowCatalog.load(folder)
    assert catalog.get("flux-lora").source == folder


def test_a_pair_without_an_index_line_is_known_by_its_files(folder: Path) -> None:
    (folder / "index.yaml").write_text("flux-lora: {task_type: txt2img, output: image}\n", encoding="utf-8")
    catalog = WorkflowCatalog.load(folder)
    assert catalog.problems == ()
    found = catalog.get("hunyuan-fp8")
    assert (found.source, found.task_type, found.output_kind) == (folder, "txt2vid", "video")


@pytest.mark.parametrize("content", [None, "- a\n- b\n", "a: ["])
def test_a_folder_without_a_usable_index_is_one_problem(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "index.yaml").write_text(content, encoding="utf-8")
    catalog = WorkflowCatalog.load(tmp_path)
    (problem,) = catalog.problems
    assert "index.yaml" in problem.reason
    assert len(catalog) == 8


def test_tasks_of_the_network_find_their_definition() -> None:
    catalog = WorkflowCatalog.load()

    def find(**keys: str) -> str | None:
        found = catalog.find(**keys)
        return found.name if found else None

    assert find(task_type="upscaler") == "upscale"
    assert find(task_type="txt2vid", workflow_id="2") == "mochi-fp8"
    assert find(task_type="txt2vid", workflow_id="gradient-video") == "gradient-video"
    assert find(task_type="txt2vid", workflow_id="77") is None
    assert find(task_type="unheard-of") is None
    assert [catalog.get(name).network_id for name in ("upscale", "flux-lora")] == ["upscale", "3"]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(WorkflowDefinitionError, match=r"no workflow upscal.*Did you mean upscale.*Known are"):
        WorkflowCatalog.load().get("upscal")


def test_a_replaced_definition_is_told(folder: Path) -> None:
    assert WorkflowCatalog.load().notices == ()
    notices = WorkflowCatalog.load(folder).notices
    assert len(notices) == 2
    assert f"flux-lora in {folder} replaces the shipped one" in notices[0]


LAUGHS = "a: &a [x, x, x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n"


HOSTILE = ["aliases", "fifo", "device", "large", "nul", "deep", "cls", "api_key", "long"]


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_definition_costs_itself_only(hostile: str, folder: Path) -> None:
    endpoint = (folder / "flux-lora.yaml").read_text(encoding="utf-8")
    shutil.copy(folder / "flux-lora.json", folder / "bad.json")
    bad, line = folder / "bad.yaml", "bad: {task_type: txt2img, output: image}\n"
    bad.write_text(endpoint, encoding="utf-8")
    assert "bad" in WorkflowCatalog.load(with_line(folder, line))
    if hostile == "aliases":
        bad.write_text(endpoint + LAUGHS, encoding="utf-8")
    elif hostile == "fifo":
        bad.unlink()
        os.mkfifo(bad)
    elif hostile == "device":
        bad.unlink()
        bad.symlink_to("/dev/zero")
    elif hostile == "large":
        bad.write_text(endpoint + "#" * 2**20, encoding="utf-8")
    elif hostile == "nul":
        line = 'bad: {task_type: txt2img, output: image, endpoint: "a\\0b.yaml"}\n'
    elif hostile == "deep":
        bad.write_text(endpoint + "x: " + "[" * 50_000, encoding="utf-8")
    elif hostile == "long":
        line = f"bad: {{task_type: txt2img, output: image, endpoint: {'a' * 5000}.yaml}}\n"
    else:
        bad.write_text(endpoint.replace("name: prompt", f"name: {hostile}"), encoding="utf-8")
        assert bad.read_text(encoding="utf-8") != endpoint
    catalog = WorkflowCatalog.load(with_line(folder, line))
    assert [problem.name for problem in catalog.problems] == ["bad"]
    assert {"flux-lora", "hunyuan-fp8", "upscale"} <= set(catalog.names)


def with_line(folder: Path, line: str) -> Path:
    (folder / "index.yaml").write_text(INDEX + line, encoding="utf-8")
    return folder
