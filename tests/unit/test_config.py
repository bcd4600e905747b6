"""Where settings come from, which source wins, and that keys stay out of sight."""

from __future__ import annotations

from pathlib import Path

import pytest

from xalora_client import (
    AsyncXalora,
    ConfigurationError,
    MissingKeyError,
    Timeouts,
    load_settings,
    parse_api_key,
)
from xalora_client.config import DEFAULT_WORKFLOW_URL, Credentials, may_have_key
from xalora_client.key_file import login_file


@pytest.mark.parametrize(
    ("combined", "consumer_id", "api_key"),
    [
        ("alice#s3cret", "alice", "s3cret"),
        ("alice-s3cret", "alice", "s3cret"),
        ("alice#s3-cr#et", "alice", "s3-cr#et"),
        ("a-b#key", "a-b", "key"),
        ("alice-s3-cret", "alice", "s3-cret"),
        ("  alice#s3cret\n", "alice", "s3cret"),
    ],
)
def test_a_key_is_split_once_at_the_first_separator(combined: str, consumer_id: str, api_key: str) -> None:
    credentials = parse_api_key(combined)
    assert (credentials.consumer_id, credentials.api_key) == (consumer_id, api_key)


@pytest.mark.parametrize("combined", ["", "nokey", "#key", "alice#", "alice-", "-key"])
def test_a_malformed_key_is_refused_without_being_repeated(combined: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_api_key(combined)
    assert "nokey" not in str(caught.value)
    assert "XALORA_API_KEY" in str(caught.value)


def test_the_key_is_in_no_repr() -> None:
    loaded = load_settings(api_key="alice#s3cret", store_secret_access_key="hush")
    for text in (repr(loaded), str(loaded.settings), repr(loaded.settings.credentials())):
        assert "s3cret" not in text
        assert "hush" not in text


@pytest.mark.parametrize("given", [{}, {"api_key": ""}, {"api_key": " "}])
def test_a_missing_key_says_what_to_set(given: dict[str, str]) -> None:
    settings = load_settings(**given).settings
    assert settings.api_key is None
    with pytest.raises(MissingKeyError, match="XALORA_API_KEY"):
        settings.credentials()


def test_argument_beats_environment_beats_env_file_beats_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first.env", tmp_path / "second.env"
    first.write_text("XALORA_MAX_RETRIES=3\nXALORA_REQUEST_TIMEOUT=30\n")
    second.write_text("XALORA_MAX_RETRIES=2\nXALORA_OUTAGE_LIMIT=20\nUNRELATED=1\n")
    monkeypatch.setenv("XALORA_MAX_IN_FLIGHT", "5")
    monkeypatch.setenv("XALORA_REQUEST_TIMEOUT", "40")
    loaded = load_settings(
        env_files=(first, second, tmp_path / "missing.env"),
        stored={"settings": {"outage_limit": 10, "queue_limit": 9, "max_in_flight": 1}},
        max_in_flight=7,
    )
    settings = loaded.settings
    assert (settings.max_in_flight, loaded.sources["max_in_flight"]) == (7, "argument")
    assert (settings.request_timeout, loaded.sources["request_timeout"]) == (40, "environment")
    assert (settings.max_retries, loaded.sources["max_retries"]) == (3, str(first))
    assert (settings.outage_limit, loaded.sources["outage_limit"]) == (20, str(second))
    assert (settings.queue_limit, loaded.sources["queue_limit"]) == (9, "settings")
    assert loaded.sources["workflow_url"] == "default"
    assert settings.workflow_url == "https://sequencer-v2.xalora.xyz"


def test_the_env_file_of_the_working_directory_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("XALORA_API_KEY=bob#fromfile\n")
    assert load_settings().settings.credentials().consumer_id == "bob"


def test_a_key_in_an_env_file_is_what_is_written_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLDER", "here")
    lines = "XALORA_API_KEY='bob#s3${FOLDER}cret'\nXALORA_STORE_REGION=${FOLDER}-1\n"
    (tmp_path / ".env").write_text(lines)
    settings = load_settings().settings
    assert settings.credentials().api_key == "s3${FOLDER}cret"
    assert settings.store_region == "here-1"


@pytest.mark.parametrize("quote", ['"', "'"])
def test_quotes_around_a_variable_are_not_part_of_it(monkeypatch: pytest.MonkeyPatch, quote: str) -> None:
    monkeypatch.setenv("XALORA_API_KEY", f'{quote}bob#it\'s"so"{quote}')
    monkeypatch.setenv("XALORA_STATE_DIR", f"{quote}/data/x{quote}")
    settings = load_settings().settings
    assert settings.credentials() == Credentials("bob", 'it\'s"so"')
    assert settings.state_dir == Path("/data/x").absolute()


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_blank_variables_count_as_unset(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    monkeypatch.setenv("XALORA_API_KEY", blank)
    monkeypatch.setenv("XALORA_WORKFLOW_URL", blank)
    loaded = load_settings()
    assert loaded.settings.api_key is None
    assert loaded.sources["workflow_url"] == "default"


def test_a_bad_value_is_told_in_parts_too() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(env_files=[], stored={"a dialog": {"prices": "upscaler", "max_in_flight": 0}})
    assert {(name, source) for name, source, _ in caught.value.problems} == {
        ("prices", "a dialog"),
        ("max_in_flight", "a dialog"),
    }
    assert all(message and message in str(caught.value) for *_, message in caught.value.problems)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("request_timeout", -1),
        ("workflow_url", "sequencer.example"),
        ("fallback", "sometimes"),
        ("inline_limit", "lots"),
        ("store_url", "gs://bucket"),
    ],
)
def test_a_bad_value_names_the_setting_and_its_source(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"XALORA_{name.upper()}", str(value))
    with pytest.raises(ConfigurationError, match=rf"XALORA_{name.upper()}, from environment"):
        load_settings(api_key="alice#s3cret")


def test_sizes_are_read_in_words() -> None:
    assert int(load_settings(inline_limit="2MiB").settings.inline_limit) == 2 * 1024**2


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_retrys"):
        load_settings(max_retrys=1)


@pytest.mark.parametrize(
    "url",
    ["https://seq.example", "https://seq.example/", " https://seq.example// ", "https://a:b@seq.example/"],
)
def test_a_network_has_one_spelling(url: str) -> None:
    assert load_settings(workflow_url=url).settings.sequencer_url == "https://seq.example"


def test_the_default_network_is_known_with_a_slash_at_its_end() -> None:
    assert (
        load_settings(workflow_url=f"{DEFAULT_WORKFLOW_URL}/").settings.workflow_url == DEFAULT_WORKFLOW_URL
    )


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///",
        "http://host:70000",
        "http://bob:s3/cret@host",
        "http://[::1",
        "http://host/api?token=s3",
        "http://host/#s3",
    ],
)
def test_an_address_without_a_proper_host_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigurationError, match="XALORA_WORKFLOW_URL") as caught:
        load_settings(workflow_url=url)
    assert "s3" not in str(caught.value)


def test_a_login_in_an_address_is_used_and_not_shown() -> None:
    settings = load_settings(workflow_url="https://bob:s3cret@seq.example:8/base").settings
    assert settings.workflow_url == "https://bob:s3cret@seq.example:8/base"
    assert settings.sequencer_url == "https://seq.example:8/base"
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(settings)


@pytest.mark.parametrize("name", ["state_dir", "workflows_dir", "upscale_model"])
def test_paths_are_absolute_and_know_the_home_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("XALORA_STATE_DIR", raising=False)
    for text, expected in (("~/x", tmp_path / "home" / "x"), ("a/../b", tmp_path / "b")):
        Path(".env").write_text(f"XALORA_{name.upper()}={text}\n")
        settings = load_settings().settings
        monkeypatch.chdir(tmp_path.parent)
        assert getattr(settings, name) == expected
        monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("release", ["raises", "leaves the ~"])
def test_a_user_without_a_home_is_told_to_name_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str
) -> None:
    """As in a container under a uid of its own; releases of platformdirs differ in what they do then."""

    def folder(*_: object, **__: object) -> Path:
        if release == "raises":
            raise RuntimeError("could not determine the home directory")
        return Path("~/.local/state/xalora")

    monkeypatch.setattr("xalora_client.config.user_state_path", folder)
    monkeypatch.delenv("XALORA_STATE_DIR")
    with pytest.raises(ConfigurationError, match="Set XALORA_STATE_DIR"):
        load_settings()
    monkeypatch.setenv("XALORA_STATE_DIR", str(tmp_path))
    assert load_settings().settings.state_dir == tmp_path
    # Nor is there a place for the key of `xalora login`, which nobody then needs.
    monkeypatch.setattr("xalora_client.key_file.user_config_path", folder)
    monkeypatch.delenv("XALORA_CONFIG_DIR")
    assert load_settings().settings.api_key is None
    with pytest.raises(ConfigurationError, match="Set XALORA_CONFIG_DIR"):
        login_file()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-bom"])
def test_an_env_file_may_be_as_windows_writes_it(encoding: str) -> None:
    text = "XALORA_API_KEY=bob#fromfile\r\nXALORA_STORE_REGION=zürich\r\n"
    is_big_endian = encoding == "utf-16-be-bom"
    data = b"\xfe\xff" + text.encode("utf-16-be") if is_big_endian else text.encode(encoding)
    Path(".env").write_bytes(data)
    settings = load_settings().settings
    assert settings.credentials().consumer_id == "bob"
    assert settings.store_region == "zürich"


def test_an_env_file_that_is_no_text_is_named_and_not_repeated(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"XALORA_API_KEY=bob#s3cr\xe9t\n")
    with pytest.raises(ConfigurationError, match="can't be read: it is not UTF-8") as caught:
        load_settings()
    assert str(tmp_path / ".env") in str(caught.value)
    assert "s3cr" not in str(caught.value)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that nobody can read")
def test_an_env_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").symlink_to("/proc/self/mem")
    with pytest.raises(ConfigurationError, match="can't be read") as caught:
        load_settings()
    assert str(tmp_path / ".env") in str(caught.value)


@pytest.mark.parametrize("own", ["", "XALORA_API_KEY=eve#own\n"])
@pytest.mark.parametrize("url", ["https://bob:pass@elsewhere.example/", "http://127.0.0.1:8080"])
def test_an_env_file_of_the_working_directory_redirects_no_other_key(
    own: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(f"XALORA_WORKFLOW_URL={url}\n{own}")
    assert load_settings().settings.workflow_url == url.rstrip("/")
    monkeypatch.setenv("XALORA_API_KEY", "alice#s3cret")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert str(tmp_path / ".env") in str(caught.value)
    assert "(environment)" in str(caught.value)
    assert not any(secret in str(caught.value) for secret in ("s3cret", "pass@", "own"))
    with pytest.raises(ConfigurationError):
        load_settings(api_key="alice#s3cret")


@pytest.mark.parametrize(
    "lines",
    [
        f"XALORA_WORKFLOW_URL={DEFAULT_WORKFLOW_URL}",
        "XALORA_MAX_RETRIES=1",
        "XALORA_API_KEY=bob#own",
    ],
)
def test_ordinary_files_are_no_redirection(lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XALORA_API_KEY", "alice#s3cret")
    Path(".env").write_text(lines)
    load_settings()
    monkeypatch.setenv("XALORA_WORKFLOW_URL", "https://seq.example")
    Path(".env").write_text("XALORA_WORKFLOW_URL=https://elsewhere.example")
    assert load_settings().settings.workflow_url == "https://seq.example"


def test_a_file_with_address_and_key_is_no_redirection() -> None:
    Path(".env").write_text("XALORA_WORKFLOW_URL=https://seq.example\nXALORA_API_KEY=bob#own")
    assert load_settings().settings.credentials().api_key == "own"


def test_a_file_that_a_program_names_is_no_redirection(tmp_path: Path) -> None:
    (tmp_path / "my.env").write_text("XALORA_WORKFLOW_URL=https://seq.example\n")
    load_settings(env_files=[tmp_path / "my.env"], api_key="alice#s3cret")


@pytest.mark.parametrize(
    ("listed", "hosts"),
    [
        ("", ()),
        ("a.example, B:8 ,", ("a.example", "b:8")),
        ("[fd00::1]:9,10.0.0.1", ("[fd00::1]:9", "10.0.0.1")),
    ],
)
def test_hosts_are_a_list(listed: str, hosts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XALORA_RESULT_HOSTS", listed)
    assert load_settings().settings.result_hosts == hosts


@pytest.mark.parametrize("listed", ["http://a.example", "a b", "a/b", "fd00::1", "a:x", "*"])
def test_what_is_no_host_is_refused(listed: str) -> None:
    with pytest.raises(ConfigurationError, match="XALORA_RESULT_HOSTS"):
        load_settings(result_hosts=listed)


@pytest.mark.parametrize(
    ("url", "listed", "may"),
    [
        ("https://seq.example", "", True),
        ("http://seq.example", "", False),
        ("HTTP://seq.example", "", False),
        ("http://seq.example:80", "seq.example", True),
        ("http://SEQ.example", "seq.example:80", True),
        ("http://seq.example:8000", "seq.example:80", False),
        ("http://other.example", "seq.example", False),
        ("http://127.0.0.1:8", "", True),
        ("http://localhost:8", "", True),
        ("http://[::1]:8", "", True),
        ("http://10.0.0.1:8", "", False),
        ("http://[fd00::1]:8", "[fd00::1]", True),
        ("http://localhost.example", "", False),
        ("http://127.0.0.1.example", "", False),
    ],
)
def test_a_key_travels_in_the_open_to_this_machine_alone_and_where_it_may(
    url: str, listed: str, may: bool
) -> None:
    settings = load_settings(workflow_url=url, allow_http=listed).settings
    assert may_have_key(settings.workflow_url, settings.allow_http) is may


def test_waits_and_retries_are_given_as_one_object() -> None:
    client = AsyncXalora(timeouts=Timeouts(request=5, outage=7, retries=0), wait_timeout=9)
    settings = client.settings
    assert (settings.request_timeout, settings.outage_limit, settings.max_retries) == (5, 7, 0)
    assert settings.wait_timeout == 9
    with pytest.raises(ConfigurationError, match="request_timeout"):
        AsyncXalora(timeouts=Timeouts(request=-1))
    with pytest.raises(ConfigurationError, match=r"came request_timeout\. .*load_settings\(request_t"):
        AsyncXalora(settings=settings, timeouts=Timeouts(request=5))


@pytest.mark.parametrize(
    ("url", "unpriced", "is_unpriced"),
    [
        ("http://head:8100", "head:8100", True),
        ("http://head:8100", "head", True),
        ("https://head.example", "other, head.example:443", True),
        ("http://[fd00::1]:8100", "[fd00::1]:8100", True),
        ("http://head:8100", "head:8101", False),
        ("http://head:8100", "", False),
        (DEFAULT_WORKFLOW_URL, "head:8100", False),
    ],
)
def test_no_price_and_no_limit_applies_where_the_user_says_so(
    url: str, unpriced: str, is_unpriced: bool
) -> None:
    limits = {"prices": "upscaler=0.02", "daily_tasks": 5, "daily_cost": 1}
    settings = load_settings(workflow_url=url, unpriced=unpriced, **limits).settings
    assert (settings.prices == {}) == is_unpriced
    assert settings.daily_limit.is_set != is_unpriced
