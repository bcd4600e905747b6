"""``xalora doctor`` against a devnet, and against networks that answer otherwise."""

from __future__ import annotations

from email.utils import formatdate
from pathlib import Path
from time import time

from aiohttp import web
from shell import KEY, Cli

from xalora_client import load_settings
from xalora_client.cli.doctor import machine
from xalora_client.devnet import DevnetThread


def test_it_settles_every_open_question_of_a_network(cli: Cli, devnet: DevnetThread, tmp_path: Path) -> None:
    document = cli.json("doctor", "--yes", "--report", "report.md")
    assert document["exit_code"] == 0, document
    verdicts = {each["check"]: each["verdict"] for each in document["findings"]}
    sure = (
        "key",
        "address",
        "answers",
        "clock",
        "journal",
        "smallest task",
        "data: image",
        "repeated job_id",
    )
    assert {verdicts[name] for name in sure} == {"ok"}
    assert verdicts["cancel"] in ("ok", "note")  # the task may have finished before
    assert verdicts["TLS"] == "note"
    assert verdicts["miner for upscaler"] == verdicts["miner for hunyuan-fp8"] == "ok"
    answers = {name: each["answer"] for name, each in document["questions"].items()}
    assert answers["preflight"].startswith("yes")
    assert answers["job_id"].startswith("yes")
    assert answers["data_image"].startswith("yes")
    assert answers["result_form"].endswith("which gave png")
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert devnet.url in report and "very-secret" not in report and KEY not in report
    stats = devnet.stats()
    # The smallest task, the canceled one, and the one that was sent twice.
    assert (stats["creates"], stats["duplicates"]) == (3, 1)
    assert stats["tasks"]["waiting"] == stats["tasks"]["running"] == 0
    assert cli.json("tasks")["tasks"] == []


def test_without_a_yes_nothing_is_asked_of_the_network(cli: Cli, devnet: DevnetThread) -> None:
    done = cli("doctor")
    assert done.returncode == 0, done.stderr
    assert "- smallest task: it needs your yes" in done.stdout
    assert "not settled" in done.stdout
    endpoints = devnet.stats()["endpoints"]
    assert sum(count for name, count in endpoints.items() if not name.startswith("miner")) == 0


def test_a_key_that_is_refused_ends_the_questions(cli: Cli, devnet: DevnetThread) -> None:
    done = cli("doctor", "--yes", XALORA_API_KEY="alice#very-secret-but-wrong")
    assert done.returncode == 3
    assert "does not accept the API key" in done.stdout
    assert "- smallest task: first mend: miner for upscaler" in done.stdout
    assert devnet.stats()["endpoints"]["task_create"] == 0
    missing = cli("doctor", "--yes", XALORA_API_KEY="")
    assert missing.returncode == 3
    assert "- miners: first mend: key" in missing.stdout


def test_a_network_that_is_not_there(cli: Cli, unused_tcp_port: int) -> None:
    done = cli("doctor", "--yes", XALORA_WORKFLOW_URL=f"http://127.0.0.1:{unused_tcp_port}")
    assert done.returncode == 8
    assert "✗ answers:" in done.stdout and "- smallest task: first mend: answers" in done.stdout
    nowhere = cli("doctor", "--yes", XALORA_WORKFLOW_URL="https://no-such-host.invalid")
    assert nowhere.returncode == 8
    assert "✗ address: no-such-host.invalid has no address" in nowhere.stdout


def test_a_journal_that_can_not_be_written_keeps_tasks_from_being_sent(
    cli: Cli, devnet: DevnetThread, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = cli("doctor", "--yes", XALORA_STATE_DIR=str(tmp_path / "file"))
    assert done.returncode == 3
    assert "✗ journal:" in done.stdout and "first mend: journal" in done.stdout
    assert devnet.stats()["endpoints"]["task_create"] == 0


def test_a_network_that_refuses_images_and_cancels(cli: Cli, devnet: DevnetThread) -> None:
    devnet.add_fault("task_create:status:status=422:n=1")
    devnet.add_fault("task_cancel:status:status=400:times=1")
    document = cli.json("doctor", "--yes", code=4)
    answers = {name: each["answer"] for name, each in document["questions"].items()}
    assert answers["data_image"].startswith("no: the create was refused")
    assert answers["result_form"] is None
    assert answers["job_id"].startswith("yes")


def test_a_task_that_takes_too_long_is_canceled(tmp_path: Path) -> None:
    with DevnetThread(miners=1, api_key=KEY, task_seconds=120) as devnet:
        done = Cli(tmp_path, devnet)("doctor", "--yes", "--timeout", "3")
        stats = devnet.stats()
    assert done.returncode == 5
    assert stats["tasks"]["waiting"] == stats["tasks"]["running"] == 0
    assert stats["tasks"]["canceled"] == 3
    assert "✓ cancel: task" in done.stdout and "is canceled after it" in done.stdout


async def test_a_clock_that_is_off_is_told() -> None:
    async def late(request: web.Request) -> web.Response:
        return web.Response(headers={"Date": formatdate(time() - 7200, usegmt=True)})

    app = web.Application()
    app.router.add_get("/", late)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    settings = load_settings(workflow_url=f"http://127.0.0.1:{runner.addresses[0][1]}").settings
    found = {finding.check: finding for finding in await machine.way(settings)}
    await runner.cleanup()
    assert "ahead of the sequencer's" in found["clock"].text
