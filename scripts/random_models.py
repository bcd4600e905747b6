"""Writes random weights that ComfyUI's loaders take for the shipped definitions. Runs in ComfyUI's Python.

    python random_models.py COMFYUI_FOLDER MODELS_FOLDER FILE ...

A file is one of `BUILDERS`, as ``text_encoders/clip_l.safetensors``. Keys and shapes are those of the real
models, at depths that a CPU runs in seconds; the pictures are noise.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

Weights: TypeAlias = dict[str, Any]

VERSION = 1
"""Counts up where the weights of a file change, so that older ones in a cache are not taken."""


def main() -> None:
    comfyui, models, *wanted = sys.argv[1:]
    sys.path.insert(0, comfyui)
    import_module("comfy.cli_args").args.cpu = True
    import torch

    torch.manual_seed(0)
    for name in wanted:
        path = Path(models) / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            weights = BUILDERS[name](Path(comfyui))
            part = path.with_suffix(".part")
            import_module("safetensors.torch").save_file(weights, str(part))
            part.replace(path)
            size = sum(each.numel() * each.element_size() for each in weights.values())
            print(f"{name}: {len(weights)} tensors, {size / 1e6:.0f} MB", flush=True)


def _filled(model: Any, dtype: str) -> Weights:
    """A random state of a module: scales of 1, biases of 0, and weights that keep a signal's variance."""
    import torch

    weights: Weights = {}
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                weights[name] = value.clone()
                continue
            if value.ndim <= 1 and name.endswith(("scale", "weight")):
                random = torch.ones(value.shape)
            elif name.endswith("bias"):
                random = torch.zeros(value.shape)
            else:
                inputs = value[0].numel() if value.ndim > 1 else 1
                random = torch.randn(value.shape) * (0.7 / inputs**0.5)
            weights[name] = random.to(getattr(torch, dtype)).contiguous()
    return weights


def _settings(**more: Any) -> dict[str, Any]:
    import torch

    operations = import_module("comfy.ops").manual_cast
    return {"dtype": torch.bfloat16, "device": "cpu", "operations": operations, **more}


_DIT = {
    "axes_dim": [16, 56, 56],
    "context_in_dim": 4096,
    "depth": 1,
    "depth_single_blocks": 1,
    "guidance_embed": True,
    "in_channels": 16,
    "mlp_ratio": 4.0,
    "out_channels": 16,
    "qkv_bias": True,
    "vec_in_dim": 768,
}
_VAE = {
    "attn_resolutions": [],
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "double_z": True,
    "dropout": 0.0,
    "in_channels": 3,
    "num_res_blocks": 2,
    "out_ch": 3,
    "resolution": 256,
    "z_channels": 16,
}


def _flux(_: Path) -> Weights:
    shape = {"hidden_size": 3072, "num_heads": 24, "patch_size": 2, "theta": 10000}
    model = import_module("comfy.ldm.flux.model").Flux(image_model="flux", **_DIT, **_settings(**shape))
    return _filled(model, "bfloat16")


def _lora(_: Path) -> Weights:
    import torch

    key = "lora_unet_double_blocks_0_img_attn_qkv"
    return {
        f"{key}.lora_up.weight": (torch.randn(9216, 4) * 0.1).bfloat16(),
        f"{key}.lora_down.weight": (torch.randn(4, 3072) * 0.1).bfloat16(),
        f"{key}.alpha": torch.tensor(4.0),
    }


def _hunyuan(_: Path) -> Weights:
    shape = {"hidden_size": 256, "num_heads": 2, "patch_size": [1, 2, 2], "theta": 256}
    options = {
        "byt5": False,
        "meanflow": False,
        "use_cond_type_embedding": False,
        "vision_in_dim": None,
    }
    module = import_module("comfy.ldm.hunyuan_video.model")
    model = module.HunyuanVideo(image_model="hunyuan_video", **_DIT, **_settings(**shape, **options))
    return _filled(model, "bfloat16")


def _mochi(_: Path) -> Weights:
    model = import_module("comfy.ldm.genmo.joint_model.asymm_models_joint").AsymmDiTJoint(
        image_model="mochi_preview",
        attend_to_padding=False,
        attn_drop=0.0,
        depth=1,
        hidden_size_x=3072,
        hidden_size_y=1536,
        in_channels=12,
        learn_sigma=False,
        mlp_ratio_x=4.0,
        mlp_ratio_y=4.0,
        num_heads=24,
        out_bias=True,
        patch_embed_bias=True,
        patch_size=2,
        posenc_preserve_area=True,
        qk_norm=True,
        qkv_bias=False,
        rope_theta=10000.0,
        t5_feat_dim=4096,
        t5_token_length=256,
        timestep_mlp_bias=True,
        timestep_scale=1000.0,
        use_t5=True,
        **_settings(),
    )
    return _filled(model, "bfloat16")


def _t5(comfyui: Path) -> Weights:
    import torch

    config = json.loads((comfyui / "comfy/text_encoders/t5_config_xxl.json").read_text(encoding="utf-8"))
    settings = _settings()
    model = import_module("comfy.text_encoders.t5").T5(config, *settings.values())
    weights = _filled(model, "float8_e4m3fn")
    # By the last block's key and shape a loader tells this encoder from others.
    last = "encoder.block.23.layer.1.DenseReluDense.wi_1.weight"
    return weights | {last: torch.zeros(10240, 4096).to(torch.float8_e4m3fn)}


def _clip(comfyui: Path) -> Weights:
    import torch

    config = json.loads((comfyui / "comfy/sd1_clip_config.json").read_text(encoding="utf-8"))
    settings = _settings(dtype=torch.float16)
    model = import_module("comfy.clip_model").CLIPTextModel(config, *settings.values())
    return _filled(model, "float16")


def _llama(_: Path) -> Weights:
    model = import_module("comfy.text_encoders.llama").Llama2({}, *_settings().values())
    return _filled(model, "float8_e4m3fn")


def _flux_vae(_: Path) -> Weights:
    target = "comfy.ldm.modules.diffusionmodules.model."
    model = import_module("comfy.ldm.models.autoencoder").AutoencodingEngine(
        regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
        encoder_config={"target": f"{target}Encoder", "params": _VAE},
        decoder_config={"target": f"{target}Decoder", "params": _VAE},
    )
    return _filled(model, "bfloat16")


def _hunyuan_vae(_: Path) -> Weights:
    config = {**_VAE, "conv3d": True, "time_compress": 4}
    model = import_module("comfy.ldm.models.autoencoder").AutoencoderKL(ddconfig=config, embed_dim=16)
    return _filled(model, "bfloat16")


def _mochi_vae(_: Path) -> Weights:
    return _filled(import_module("comfy.ldm.genmo.vae.model").VideoVAE(), "float16")


BUILDERS: dict[str, Callable[[Path], Weights]] = {
    "diffusion_models/flux1-dev.safetensors": _flux,
    "loras/gecko.safetensors": _lora,
    "diffusion_models/hunyuan_video_t2v_720p_bf16.safetensors": _hunyuan,
    "diffusion_models/mochi_preview_fp8_scaled.safetensors": _mochi,
    "text_encoders/t5xxl_fp8_e4m3fn.safetensors": _t5,
    "text_encoders/t5xxl_fp8_e4m3fn_scaled.safetensors": _t5,
    "text_encoders/clip_l.safetensors": _clip,
    "text_encoders/llava_llama3_fp8_scaled.safetensors": _llama,
    "vae/ae.safetensors": _flux_vae,
    "vae/hunyuan_video_vae_bf16.safetensors": _hunyuan_vae,
    "vae/mochi_vae.safetensors": _mochi_vae,
}

if __name__ == "__main__":
    main()
