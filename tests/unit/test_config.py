"""Where settings come from, which source wins, and that keys stay out of sight."""

from __future__ import annotations

from pathlib import Path

import pytest

from xalora_client import ConfigurationError, MissingKeyError, load_settings, parse_api_key


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


def test_a_missing_key_says_what_to_set() -> None:
    with pytest.raises(MissingKeyError, match="XALORA_API_KEY"):
        load_settings().settings.credentials()


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


def test_empty_variables_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XALORA_API_KEY", "")
    monkeypatch.setenv("XALORA_WORKFLOW_URL", "")
    loaded = load_settings()
    assert loaded.settings.api_key is None
    assert loaded.sources["workflow_url"] == "default"


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
