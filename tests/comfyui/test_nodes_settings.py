"""The sources of the key and of settings, which need no restart, and the messages without a key."""

from __future__ import annotations

from typing import Any

import pytest
from graphs import dump, fresh, fresh_seed, image, node
from harness import ComfyUI, ComfyUIFactory, RunRecord, SessionDevnet
from pydantic import SecretStr

from xalora_client.devnet import DevnetThread
from xalora_client.key_file import KeyFile

KEY = "alice#s3cret-w0rd"
WRONG = "alice#another"
OTHER = "bob#an0ther-w0rd"


@pytest.fixture
def network(devnet: SessionDevnet) -> SessionDevnet:
    devnet.reset()
    return devnet


def upscale(comfyui: ComfyUI, **options: Any) -> RunRecord:
    return comfyui.run(
        {
            "1": image(fresh_seed()),
            "2": node("XaloraUpscaleImage", image=["1", 0], **options),
            "3": dump(["2", 0]),
        }
    )


def test_the_key_is_looked_for_in_its_order(comfyui_factory: ComfyUIFactory) -> None:
    """One ComfyUI, never restarted: no key, then that of `xalora login`, the key file, the pack's `.env`, the
    base folder's."""
    with DevnetThread(miners=1, api_key=KEY) as network:
        extra = comfyui_factory(env={"XALORA_WORKFLOW_URL": network.url})
        assert "XaloraUpscaleImage" in extra.object_info()

        without = upscale(extra, fallback="never")
        assert without.status == "error"
        assert without.error["exception_message"].strip().split("\n") == [
            "No API key is set.",
            "Nothing was charged.",
            "Enter your key in the Xalora tab, then press Run.",
        ]
        assert network.stats()["creates"] == 0

        # Nor does this machine take over, unless it is chosen.
        for policy in ("from settings", "when_unavailable", "on_any_failure"):
            without = upscale(extra, fallback=policy)
            assert without.status == "error"
            assert without.error["exception_type"].endswith(".NoKeyError")
        alone = upscale(extra, fallback="local_only")
        assert alone.status == "success"
        assert "realesrgan-x4plus (ncnn)" in alone.texts_of("2")[-1].text

        # That of `xalora login`, once it is for this network.
        login = KeyFile(extra.config_dir)
        login.store(SecretStr(KEY), "http://127.0.0.1:9")
        assert upscale(extra, fallback="never").status == "error"
        login.store(SecretStr(KEY), network.url)
        assert upscale(extra, fallback="never").status == "success"
        login.store(SecretStr(WRONG), network.url)

        key_file = extra.user_dir / "__xalora" / "api-key"
        key_file.parent.mkdir(exist_ok=True)
        key_file.write_text(KEY + "\n")
        assert upscale(extra, fallback="never").status == "success"

        (extra.pack_dir / ".env").write_text(f"XALORA_API_KEY={WRONG}\n")
        refused = upscale(extra)
        assert refused.status == "error"
        assert refused.error["exception_message"].startswith("The network refuses the API key.")

        (extra.root / ".env").write_text(f'XALORA_API_KEY="{KEY}"\n')
        assert upscale(extra, fallback="never").status == "success"

        (extra.root / ".env").write_text(
            "XALORA_API_KEY=no-separator-but-a-dash\nXALORA_MAX_IN_FLIGHT=many\n"
        )
        broken = upscale(extra)
        assert broken.status == "error"
        message = broken.error["exception_message"]
        assert "max_in_flight" in message and str(extra.root / ".env") in message
        assert "XALORA_" not in message

        secrets = (KEY.partition("#")[2], WRONG.partition("#")[2], "separator-but-a-dash")
        seen = extra.logs() + str([record.events for record in (without, alone, refused, broken)])
        assert not any(secret in seen for secret in secrets)


def test_the_environment_comes_first(comfyui_factory: ComfyUIFactory, network: SessionDevnet) -> None:
    extra = comfyui_factory.prepared(
        env={"XALORA_WORKFLOW_URL": network.url, "XALORA_API_KEY": network.api_key}
    )
    extra.root.mkdir(parents=True, exist_ok=True)
    (extra.root / ".env").write_text(f"XALORA_API_KEY={WRONG}\nXALORA_FALLBACK=local_only\n")
    extra.boot()
    record = upscale(extra, fallback="never")
    assert record.status == "success"
    assert network.new_stats()["creates"] == 1
    # What the environment does not say is taken from the file.
    assert upscale(extra).status == "success"
    assert network.new_stats()["creates"] == 1


def test_the_journal_lies_in_comfyuis_user_folder(
    comfyui_factory: ComfyUIFactory, network: SessionDevnet
) -> None:
    extra = comfyui_factory(
        env={
            "XALORA_WORKFLOW_URL": network.url,
            "XALORA_API_KEY": network.api_key,
            # The harness sets a place of its own; an empty value counts as unset.
            "XALORA_STATE_DIR": "",
        }
    )
    assert upscale(extra, fallback="never").status == "success"
    assert (extra.user_dir / "xalora" / "journal.sqlite3").is_file()
    assert len(list((extra.user_dir / "xalora" / "results").rglob("*.png"))) == 1


def test_nothing_is_asked_of_the_network_before_a_node_runs(
    comfyui_factory: ComfyUIFactory, network: SessionDevnet
) -> None:
    before = network.stats()["endpoints"]
    extra = comfyui_factory(env={"XALORA_WORKFLOW_URL": network.url, "XALORA_API_KEY": network.api_key})
    extra.object_info()
    asked = {name: count - before[name] for name, count in network.stats()["endpoints"].items()}
    assert {name: asked[name] for name in asked if not name.startswith("miner_")} == {
        "resource_request": 0,
        "task_create": 0,
        "task_result_query": 0,
        "task_cancel": 0,
    }


def submitted(seconds: float) -> dict[str, Any]:
    """Submit, something that takes a while, Collect."""
    return {
        "1": image(fresh_seed(), batch=2),
        "2": node("XaloraSubmitUpscale", image=["1", 0]),
        "3": node("XaloraTestBlock", seconds=seconds, bar=True, value=["2", 0], nonce=fresh()),
        "4": node("XaloraCollect", task=["3", 0]),
        "5": dump(["4", 0]),
    }


@pytest.mark.timeout(600)
def test_another_key_amid_a_prompt_leaves_it_what_it_has_submitted(
    comfyui_factory: ComfyUIFactory,
) -> None:
    """Neither Cancel nor Collect asks another network for the tasks, and the sidebar says why it can't."""
    marked = {"headers": {"X-Xalora": "1"}}
    with SessionDevnet(api_key=KEY) as network, SessionDevnet(api_key=OTHER) as another:
        extra = comfyui_factory()

        def leave(how: str) -> None:
            if how == "no key":
                extra.post("/xalora/key/remove", {}, **marked)
            else:
                extra.post("/xalora/key", {"key": OTHER, "endpoint": another.url}, **marked)

        for how in ("no key", "another network"):
            for seconds in (4, 600):
                extra.post("/xalora/key", {"key": KEY, "endpoint": network.url}, **marked)
                network.reset()
                network.task_seconds = 600 if seconds == 600 else None
                record = extra.start(submitted(seconds))
                record.wait_for("executing", node="3", timeout=120)
                leave(how)
                if seconds == 600:
                    told = extra.post("/xalora/tasks/cancel", {}, **marked).json()
                    assert told["canceled"] == 0
                    (why,) = told["failed"]
                    assert why.startswith("2 tasks can't be canceled from here: sent to another network")
                    extra.interrupt()
                    assert record.wait().status == "interrupted"
                    network.wait_for(lambda stats: stats["tasks"]["waiting"] + stats["tasks"]["running"] == 0)
                    assert network.new_stats()["tasks"] == {"canceled": 2}
                else:
                    assert record.wait().status == "success", record.describe()
                    assert record.array("5").shape == (2, 60, 80, 3)
                    assert network.new_stats()["tasks"] == {"finished": 2}
        asked = another.stats()["endpoints"]
        assert (asked["task_result_query"], asked["task_cancel"]) == (0, 0)
