"""Every shipped definition in a real ComfyUI: checked against its node classes, and run unless it needs model
files that are not installed."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import ComfyUI
from PIL import Image

from xalora_client.client import AsyncXalora
from xalora_client.devnet import Devnet
from xalora_client.devnet.comfyui_engine import ComfyUIMinerEngine
from xalora_client.engines import EngineRun
from xalora_client.engines.comfyui import ComfyUIEngine
from xalora_client.media.images import decode_image
from xalora_client.media.video import open_video
from xalora_client.tasks import UpscalerTask
from xalora_client.workflows import WorkflowCatalog, WorkflowDefinition, check_definition, missing_files
from xalora_client.workflows.task import DefinedWorkflowTask

MODEL_WRITER = Path(__file__).resolve().parents[1] / "with_torch" / "tiny_models.py"

NEEDS_DOWNLOADS = {
    "hunyuan-fp8": {
        "clip_l.safetensors",
        "hunyuan_video_t2v_720p_bf16.safetensors",
        "hunyuan_video_vae_bf16.safetensors",
        "llava_llama3_fp8_scaled.safetensors",
    },
    "mochi-fp8": {
        "mochi_preview_fp8_scaled.safetensors",
        "mochi_vae.safetensors",
        "t5xxl_fp8_e4m3fn_scaled.safetensors",
    },
    "flux-lora": {
        "ae.safetensors",
        "clip_l.safetensors",
        "flux1-dev.safetensors",
        "t5xxl_fp8_e4m3fn.safetensors",
    },
}
LIGHT = {"lanczos-upscale", "sharpen", "gradient-video", "pan-video"}


@pytest.fixture(scope="module")
def catalog() -> WorkflowCatalog:
    return WorkflowCatalog.load()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """uint8 [211, 357, 3]: a gradient with an edge, so that moves and blurs can be measured."""
    y, x = np.mgrid[0:211, 0:357]
    image = np.stack([x * 255 // 356, y * 255 // 210, (x + y) % 256], axis=2).astype(np.uint8)
    image[60:120, 100:200] = (250, 240, 30)
    return image


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def upscale_model(comfyui: ComfyUI) -> Iterator[str]:
    """A small 4x model in the server's folder, made by the server's own Python, which has torch."""
    path = comfyui.root / "models" / "upscale_models" / "tiny_4x.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([comfyui.install.python, MODEL_WRITER, path, "4"], check=True, timeout=120)
    yield path.name
    path.unlink()


def run(
    comfyui: ComfyUI,
    definition: WorkflowDefinition,
    dest: Path,
    image: np.ndarray | None = None,
    **values: Any,
) -> EngineRun:
    if image is not None:
        values["image"] = "given"
    images = {"image": png(image)} if image is not None else {}
    return ComfyUIEngine(comfyui.url).run(definition.bind(values), images, dest)


def test_the_server_knows_every_class_input_and_range_and_lacks_model_files_only(
    comfyui: ComfyUI, catalog: WorkflowCatalog, upscale_model: str
) -> None:
    info = comfyui.object_info()
    findings = {definition.name: check_definition(definition, info) for definition in catalog}
    assert {finding.kind for found in findings.values() for finding in found} == {"missing file"}
    missing = {
        name: {file.name for file in missing_files(found)} for name, found in findings.items() if found
    }
    assert missing == NEEDS_DOWNLOADS
    assert LIGHT | {"upscale"} | NEEDS_DOWNLOADS.keys() == set(catalog.names)


@pytest.mark.parametrize("name", sorted(NEEDS_DOWNLOADS))
def test_definitions_that_need_downloads_fail_for_their_models_alone(
    comfyui: ComfyUI, catalog: WorkflowCatalog, name: str
) -> None:
    """The server's own validation of the bound graph: it has nothing to say but that files are not there."""
    values = {"prompt": "a fox"} | ({"lora_name": "fox.safetensors"} if name == "flux-lora" else {})
    bound = catalog.get(name).bind(values)
    answer = comfyui._http.post(f"{comfyui.url}/prompt", json={"prompt": bound.prompt}, timeout=60)
    assert answer.status_code == 400
    errors = [error for node in answer.json()["node_errors"].values() for error in node["errors"]]
    assert {error["type"] for error in errors} == {"value_not_in_list"}
    named = {error["extra_info"]["received_value"] for error in errors}
    assert named == NEEDS_DOWNLOADS[name] | ({"fox.safetensors"} if name == "flux-lora" else set())


def test_upscale_gives_exactly_twice_the_size_with_a_4x_model(
    comfyui: ComfyUI, catalog: WorkflowCatalog, photo: np.ndarray, upscale_model: str, tmp_path: Path
) -> None:
    result = run(comfyui, catalog.get("upscale"), tmp_path / "out", photo)
    assert upscale_model in result.note
    image = decode_image(result.files[0])
    assert image.shape == (422, 714, 3)
    named = run(comfyui, catalog.get("upscale"), tmp_path / "named", photo, model_name=upscale_model)
    np.testing.assert_array_equal(decode_image(named.files[0]), image)


def test_lanczos_upscale(
    comfyui: ComfyUI, catalog: WorkflowCatalog, photo: np.ndarray, tmp_path: Path
) -> None:
    image = decode_image(run(comfyui, catalog.get("lanczos-upscale"), tmp_path / "out", photo).files[0])
    expected = np.asarray(Image.fromarray(photo).resize((714, 422), Image.Resampling.LANCZOS)) / 255
    np.testing.assert_allclose(image, expected, atol=1.01 / 255)


def test_sharpen_steepens_edges_by_its_strength(
    comfyui: ComfyUI, catalog: WorkflowCatalog, photo: np.ndarray, tmp_path: Path
) -> None:
    # Far from black and white, where a steeper edge would be cut off.
    soft = (100 + photo // 5).astype(np.uint8)

    def steepness(alpha: float) -> float:
        name = tmp_path / f"sharpen-{alpha}"
        values = {"radius": 3, "alpha": alpha}
        image = decode_image(run(comfyui, catalog.get("sharpen"), name, soft, **values).files[0])
        assert image.shape == (211, 357, 3)
        return float(np.abs(np.diff(image, axis=1)).max())

    assert steepness(0.0) < steepness(0.05) < steepness(0.1)


def test_gradient_video_has_the_size_length_and_speed_asked_for_and_moves(
    comfyui: ComfyUI, catalog: WorkflowCatalog, tmp_path: Path
) -> None:
    definition = catalog.get("gradient-video")
    values = {"prompt": "dawn over water", "width": 320, "height": 176, "length": 20, "fps": 12}
    result = run(comfyui, definition, tmp_path / "out", **values, seed=4)
    assert result.files[0].suffix == ".mp4"
    video = open_video(result.files[0])
    video.verify()
    assert (video.width, video.height, video.frame_count, round(video.fps, 3)) == (320, 176, 20, 12.0)
    frames = video.frames()
    assert frames.std() > 0.05, "it is no plain colour"
    steps = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    assert steps.min() > 1e-3, "every frame differs from the one before"
    assert steps.max() < 0.1, "and follows on from it"
    assert b"dawn over water" in result.files[0].read_bytes(), "the prompt is in the metadata"

    other = run(comfyui, definition, tmp_path / "other", **values, seed=5)
    assert np.abs(open_video(other.files[0]).frames() - frames).mean() > 0.02
    again = run(comfyui, definition, tmp_path / "again", **values, seed=4)
    # Not to the last bit: core's H.264 encoding of the same pixels differs a little from run to run.
    assert np.abs(open_video(again.files[0]).frames() - frames).mean() < 0.005


def test_pan_video_glides_from_left_to_right(
    comfyui: ComfyUI, catalog: WorkflowCatalog, photo: np.ndarray, tmp_path: Path
) -> None:
    result = run(comfyui, catalog.get("pan-video"), tmp_path / "out", photo)
    video = open_video(result.files[0])
    assert (video.width, video.height, video.frame_count, round(video.fps, 3)) == (512, 288, 32, 16.0)
    frames = video.frames()
    for step in (1, 8, 31):
        moved = frames[0][:, 4 * step :] - frames[step][:, : 512 - 4 * step]
        assert np.abs(moved).mean() < 0.02, f"frame {step} shows what lies {4 * step} px further right"
    assert np.abs(frames[0] - frames[31]).mean() > 0.05


async def test_a_miner_on_this_comfyui_serves_every_definition_that_needs_no_download(
    comfyui: ComfyUI, catalog: WorkflowCatalog, photo: np.ndarray, tmp_path: Path
) -> None:
    miner = ComfyUIMinerEngine(comfyui.url, catalog)
    able, lacking = miner.servable()
    assert {definition.name for definition in able} == LIGHT
    assert lacking.keys() == {"upscale", *NEEDS_DOWNLOADS}
    assert "models/upscale_models" in lacking["upscale"]
    assert set(miner.workflow_ids()) == LIGHT | {"upscaler", "img2img", "txt2vid", "img2vid", "comfyui-graph"}

    async with (
        Devnet(engine=miner, workflow_ids=miner.workflow_ids()) as devnet,
        AsyncXalora(devnet.api_key, devnet.url, state_dir=tmp_path) as client,
    ):
        for name in sorted(LIGHT):
            definition = catalog.get(name)
            values: dict[str, Any] = {"image": png(photo)} if definition.image_parameters else {"prompt": "x"}
            if definition.output_kind == "video":
                values["length"] = 5
            result = await client.run(DefinedWorkflowTask(definition, **values), fallback="never")
            assert result.engine == "xalora"
            if definition.output_kind == "video":
                assert open_video(result.files[0]).frame_count == 5
            else:
                factor = 2 if name == "lanczos-upscale" else 1
                assert decode_image(result.files[0]).shape == (211 * factor, 357 * factor, 3)
        # A task that names no workflow takes the first of its type that the server has all files for.
        upscaled = await client.run(UpscalerTask(photo), fallback="never")
        assert decode_image(upscaled.files[0]).shape == (422, 714, 3)
