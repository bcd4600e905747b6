"""Certificates: a sequencer behind a company's own authority is trusted when the environment says so."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from certificates import certificates_in

from xalora_client import AsyncXalora, ConfigurationError, XaloraConnectionError, load_settings
from xalora_client.cli.doctor import machine
from xalora_client.cli.doctor.findings import Verdict


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[tuple[str, Path]]:
    """A sequencer over TLS: `(url, the authority that vouches for it)`."""
    files = certificates_in(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.server, files.key)

    async def answer(request: web.Request) -> web.Response:
        asked = await request.json()
        return web.Response(text=json.dumps({"task_id": asked["task_id"], "status": "running"}))

    app = web.Application()
    app.router.add_post("/task_result_query", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    yield f"https://127.0.0.1:{runner.addresses[0][1]}", files.authority
    await runner.cleanup()


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
async def test_the_authority_that_the_environment_names_is_trusted(
    server: tuple[str, Path], variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, bundle = server
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(bundle))
    async with AsyncXalora("alice#s3cret", url) as client:
        assert (await client.query_task_result("t-1")).status == "running"


async def test_an_authority_nobody_vouches_for_is_refused(
    server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    async with AsyncXalora("alice#s3cret", server[0], max_retries=0) as client:
        with pytest.raises(
            XaloraConnectionError, match=r"certificate of 127\.0\.0\.1:\d+ is not trusted \(unable.*XALORA_CA"
        ):
            await client.query_task_result("t-1")


async def test_the_doctor_tells_the_certificate_and_whether_it_is_trusted(
    server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(server[1]))
    settings = load_settings(workflow_url=server[0]).settings
    found = {finding.check: finding for finding in await machine.way(settings)}
    assert found["TLS"].verdict is Verdict.NOTE  # a day is left
    assert "TLSv1.3, certificate by An authority of our own, 1 days left" in found["TLS"].text
    assert found["answers"].verdict is Verdict.OK
    monkeypatch.delenv("SSL_CERT_FILE")
    found = {finding.check: finding for finding in await machine.way(settings)}
    assert found["TLS"].verdict is found["answers"].verdict is Verdict.PROBLEM
    assert "not trusted" in found["answers"].text


async def test_the_authority_of_the_settings_is_trusted_and_a_broken_one_named(
    server: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, bundle = server
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    async with AsyncXalora("alice#s3cret", url, max_retries=0, ca=bundle) as client:
        assert (await client.query_task_result("t-1")).status == "running"
    for broken in (tmp_path / "absent.pem", tmp_path / "empty.pem"):
        if broken.name == "empty.pem":
            broken.write_text("no certificate")
        async with AsyncXalora("alice#s3cret", url, ca=broken) as client:
            with pytest.raises(ConfigurationError, match=rf"XALORA_CA names .*{broken.name}"):
                await client.query_task_result("t-1")
