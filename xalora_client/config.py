"""The settings of the client: meaning and default of each, and the order of their sources.

Precedence, highest first: an explicit argument, an environment variable ``XALORA_<NAME>``, ``.env`` files,
values stored by a host application (ComfyUI's key file and settings), the key of ``xalora login``, the
default.

One file, so that a setting is added, read and explained in one place.
"""

from __future__ import annotations

import codecs
import io
import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypedDict
from urllib.parse import urlsplit, urlunsplit

from dotenv import dotenv_values
from platformdirs import user_state_path
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from typing_extensions import Unpack

from .errors import ConfigurationError, MissingKeyError, SettingProblem
from .key_file import login_file
from .media.limits import PixelLimits
from .prices import DailyLimit, Prices, PriceTable
from .text import suggested

ENV_PREFIX = "XALORA_"
DEFAULT_WORKFLOW_URL = "https://sequencer-v2.xalora.xyz"

LOGIN = "xalora login"
"""The source of a key, and of its network, that ``xalora login`` has stored."""

FallbackPolicy: TypeAlias = Literal["never", "when_unavailable", "on_any_failure", "local_only"]
TimeoutAction: TypeAlias = Literal["detach", "cancel"]
IfUnknown: TypeAlias = Literal["stop", "resend", "forget"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
UpscaleModelName: TypeAlias = Literal["realesrgan-x4plus", "realesr-animevideov3", "waifu2x-photo", "lanczos"]


def names_host(url: str) -> bool:
    """Whether an address has a host, and no invalid port."""
    try:
        parts = urlsplit(url)
        # What a resolver would raise, as a UnicodeError, for a label that is empty or too long.
        (parts.hostname or "").rstrip(".").encode("idna")
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _base_url(url: str) -> str:
    """Normalize a URL: addresses are compared as text."""
    url = url.strip().rstrip("/")
    if not re.match(r"https?://", url, re.IGNORECASE):
        raise ValueError("it must begin with http:// or https://")
    if not names_host(url) or re.search(r"\s", url):
        raise ValueError("the address has no host, or no valid port")
    if "?" in url or "#" in url:
        raise ValueError("paths are added to the address, so it can't have a ? or a #")
    return url


def _store_url(url: str) -> str:
    if not re.match(r"s3://[^/]", url):
        raise ValueError("it must have the form s3://bucket/prefix")
    return url


def _absolute(path: Path) -> Path:
    try:
        return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100  # resolve() would follow links
    except RuntimeError:
        raise ValueError("the home folder (~) is not known") from None


def _state_folder() -> Path:
    try:
        folder = user_state_path("xalora", appauthor=False)
    except RuntimeError:  # older releases of platformdirs leave the ~ in the path
        folder = Path("~")
    if not folder.is_absolute():
        raise ConfigurationError(
            "This user has no home folder, in which the journal and results would be",
            next_step="Set XALORA_STATE_DIR to a folder that can be written.",
        )
    return folder


def _listed(hosts: Any) -> Any:
    return (
        tuple(each.strip() for each in hosts.split(",") if each.strip()) if isinstance(hosts, str) else hosts
    )


def _host_names(hosts: tuple[str, ...]) -> tuple[str, ...]:
    for host in hosts:
        if not re.fullmatch(r"[A-Za-z0-9._-]+(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?", host):
            raise ValueError(f"{host!r} is not host or host:port; an IPv6 address stands in [ ]")
    return tuple(host.lower() for host in hosts)


ProxyUrl: TypeAlias = Annotated[
    str,
    BeforeValidator(lambda url: f"http://{url}" if isinstance(url, str) and "://" not in url else url),
    AfterValidator(_base_url),
]
# A program that reads a variable by `os.environ.get(name, "")` has no key.
ApiKey: TypeAlias = Annotated[
    SecretStr | None, AfterValidator(lambda key: key if key and key.get_secret_value().strip() else None)
]
HttpUrl: TypeAlias = Annotated[str, AfterValidator(_base_url)]
Hosts: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_listed), AfterValidator(_host_names)]
StoreUrl: TypeAlias = Annotated[str, AfterValidator(_store_url)]
AbsolutePath: TypeAlias = Annotated[Path, AfterValidator(_absolute)]


@dataclass(frozen=True)
class Credentials:
    """The two halves of ``XALORA_API_KEY``: who pays, and the key, which ``repr`` hides."""

    consumer_id: str
    api_key: str = field(repr=False)


def parse_api_key(combined: str) -> Credentials:
    """Split ``<consumer_id>#<api_key>``, or ``<consumer_id>-<api_key>`` where there is no ``#``.

    Split once, at the first separator: what follows is the key, whatever it contains (protocol,
    "Configuration").

    Raises:
        ConfigurationError: There is no separator, or one of the halves is empty.
    """
    halves = _halves(combined)
    if halves is None:
        # In no local variable of this frame: error reporters send those along with a traceback.
        del combined
        raise ConfigurationError(
            "The API key does not have the form <consumer_id>#<api_key> (or <consumer_id>-<api_key>)",
            next_step="Copy the whole key, both halves, into XALORA_API_KEY.",
        )
    return halves


def _halves(combined: str) -> Credentials | None:
    text = combined.strip()
    consumer_id, _, api_key = text.partition("#" if "#" in text else "-")
    return Credentials(consumer_id, api_key) if consumer_id and api_key else None


class Settings(BaseModel):
    """Every setting of the client. All can be set as environment variables with the prefix ``XALORA_``."""

    model_config = ConfigDict(extra="ignore", frozen=True, validate_default=True, hide_input_in_errors=True)

    api_key: ApiKey = Field(None, description="Key of the network: <consumer_id>#<api_key>.")
    workflow_url: HttpUrl = Field(DEFAULT_WORKFLOW_URL, description="Base URL of the sequencer.")
    result_base_url: HttpUrl | None = Field(
        None,
        description="Base URL for results that arrive as a bare storage key; none: the sequencer's.",
    )
    result_hosts: Hosts = Field(
        (),
        description="Hosts that results may come from although they are not public: host or host:port, "
        "separated by commas. The sequencer's own address needs no entry.",
    )
    max_result_bytes: ByteSize = Field(
        ByteSize(512 * 1024**2), gt=0, description="Largest result that is fetched, all its files together."
    )
    max_result_files: int = Field(256, ge=1, description="Most files of one result.")
    max_image_bytes: ByteSize = Field(
        ByteSize(512 * 1024**2),
        gt=0,
        le=2 * 1024**3,
        description="Most pixels of one result's images, in bytes at their stored depth; up to 2 GiB.",
    )
    max_video_bytes: ByteSize = Field(
        ByteSize(2 * 1024**3),
        gt=0,
        description="The same of a video's frames that are decoded at once, and of an animation.",
    )
    allow_http: Hosts = Field(
        (),
        description="Hosts besides this machine that the key is sent to over http:// (unencrypted): host or "
        "host:port, separated by commas.",
    )
    proxy: ProxyUrl | None = Field(
        None,
        description="HTTP proxy for the sequencer, results and store; unset: HTTPS_PROXY and HTTP_PROXY.",
    )
    ca: AbsolutePath | None = Field(
        None,
        description="CA bundle (PEM) for sequencer, results and store; unset: SSL_CERT_FILE or the system's.",
    )
    request_timeout: float = Field(
        60.0, gt=0, description="Seconds for the sequencer to answer a request, once it has been sent."
    )
    max_retries: int = Field(
        4, ge=0, le=20, description="How often a request that costs nothing is sent again."
    )
    wait_timeout: float = Field(
        1800.0, gt=0, description="Seconds to wait for a task; the task itself is not bound by it."
    )
    on_timeout: TimeoutAction = Field(
        "detach", description="When the waiting time ends: detach (the task runs on) or cancel."
    )
    outage_limit: float = Field(
        60.0, gt=0, description="Seconds the sequencer may stay unreachable while a task is waited for."
    )
    max_in_flight: int = Field(8, ge=1, le=256, description="Tasks of one batch in flight at the same time.")
    inline_limit: ByteSize = Field(
        ByteSize(20 * 1024**2), description="Largest input image sent inside the request, in bytes."
    )
    store_url: StoreUrl | None = Field(
        None, description="Your S3-compatible store for input images: s3://bucket/prefix."
    )
    store_endpoint: HttpUrl | None = Field(None, description="Endpoint of a store that is not AWS's own.")
    store_region: str | None = Field(None, description="Region of the store.")
    store_access_key_id: str | None = Field(None, description="Access key id of the store (else AWS_*).")
    store_secret_access_key: SecretStr | None = Field(
        None, description="Secret key of the store (else AWS_*)."
    )
    state_dir: AbsolutePath = Field(
        default_factory=_state_folder,
        description="Folder of the journal and of kept results.",
    )
    results_limit: ByteSize = Field(
        ByteSize(4 * 1024**3),
        description="Size of the kept-results folder, in bytes; least recently used out first.",
    )
    reuse: bool = Field(
        True,
        description="Answer an equal task by a result that was given out before. In the library: where set.",
    )
    fallback: FallbackPolicy = Field(
        "when_unavailable",
        description="never | when_unavailable | on_any_failure | local_only (nodes and CLI).",
    )
    queue_limit: float | None = Field(
        None, gt=0, description="Seconds in the network's queue before the fallback takes over; unset: never."
    )
    prices: PriceTable = Field(
        default_factory=dict,
        description="What a task costs you, by workflow id or task type: upscaler=0.02, 3=0.05.",
    )
    daily_tasks: int | None = Field(
        None, ge=1, description="Tasks that may be sent a day; unset: any number."
    )
    daily_cost: Decimal | None = Field(
        None, gt=0, description="What may be spent a day by your prices; unset: any sum."
    )
    unpriced: Hosts = Field(
        (),
        description="Hosts of networks whose tasks cost you nothing, such as your own cluster: no price and "
        "no limit of a day applies there; host or host:port, separated by commas.",
    )
    workflows_dir: AbsolutePath | None = Field(
        None, description="Folder with workflow definitions of your own."
    )
    comfyui_url: HttpUrl | None = Field(None, description="ComfyUI server that runs workflows locally.")
    upscale_model: UpscaleModelName | AbsolutePath | None = Field(
        None,
        description="Model for upscaling on this machine: a file for torch, a .param file for ncnn, or "
        "realesrgan-x4plus (default), realesr-animevideov3, waifu2x-photo, or lanczos, which is no model.",
    )
    log: LogLevel | None = Field(
        None,
        description="Write the log to standard error from this level on; debug tells each request (library).",
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, without_login(value) if isinstance(value, str) else value

    @property
    def sequencer_url(self) -> str:
        """``workflow_url`` without a login and in one spelling, for display and for the journal."""
        return one_spelling(without_login(self.workflow_url))

    @property
    def files_url(self) -> str:
        """The base URL of results that arrive as a bare storage key."""
        return self.result_base_url or f"{self.workflow_url.rstrip('/')}/files"

    @property
    def pixel_limits(self) -> PixelLimits:
        """What the pixels of a result may take."""
        return PixelLimits(int(self.max_image_bytes), int(self.max_video_bytes))

    def prices_on(self, network: str) -> Prices:
        """The prices of tasks of a network, by its address; none where it is one of ``unpriced``."""
        return {} if names_listed_host(network, self.unpriced) else self.prices

    @property
    def daily_limit(self) -> DailyLimit:
        """How much may be sent a day."""
        return DailyLimit(self.daily_tasks, self.daily_cost, self.prices, self.unpriced)

    def credentials(self) -> Credentials:
        """The parsed key.

        Raises:
            MissingKeyError: No key is set anywhere.
            ConfigurationError: The key is malformed.
        """
        if self.api_key is None:
            raise no_key(self.workflow_url)
        return parse_api_key(self.api_key.get_secret_value())


class SettingArguments(TypedDict, total=False):
    """Every setting but the key and the sequencer as an argument; None counts as not given."""

    result_base_url: str | None
    result_hosts: str | Sequence[str] | None
    max_result_bytes: int | str | None
    max_result_files: int | None
    max_image_bytes: int | str | None
    max_video_bytes: int | str | None
    allow_http: str | Sequence[str] | None
    proxy: str | None
    ca: Path | str | None
    request_timeout: float | None
    max_retries: int | None
    wait_timeout: float | None
    on_timeout: TimeoutAction | None
    outage_limit: float | None
    max_in_flight: int | None
    inline_limit: int | str | None
    store_url: str | None
    store_endpoint: str | None
    store_region: str | None
    store_access_key_id: str | None
    store_secret_access_key: SecretStr | str | None
    state_dir: Path | str | None
    results_limit: int | str | None
    reuse: bool | None
    fallback: FallbackPolicy | None
    queue_limit: float | None
    prices: Mapping[str, Decimal | float | str] | str | None
    daily_tasks: int | None
    daily_cost: Decimal | float | str | None
    unpriced: str | Sequence[str] | None
    workflows_dir: Path | str | None
    comfyui_url: str | None
    upscale_model: Path | str | None
    log: LogLevel | None


class AllArguments(SettingArguments, total=False):
    """Every setting as an argument."""

    api_key: SecretStr | str | None
    workflow_url: str | None


@dataclass(frozen=True)
class Timeouts:
    """The waits and retries of a client in one object; None leaves the setting as it is.

    Attributes:
        request: Seconds for the sequencer to answer a request (``request_timeout``).
        wait: Seconds to wait for a task (``wait_timeout``); :meth:`AsyncXalora.run` has its own.
        outage: Seconds the sequencer may stay unreachable while a task is waited for (``outage_limit``).
        retries: How often a request that costs nothing is sent again (``max_retries``). A create is repeated
            only where it surely created no task.
    """

    request: float | None = None
    wait: float | None = None
    outage: float | None = None
    retries: int | None = None

    def settings(self) -> SettingArguments:
        """As settings."""
        return {
            "request_timeout": self.request,
            "wait_timeout": self.wait,
            "outage_limit": self.outage,
            "max_retries": self.retries,
        }


@dataclass(frozen=True)
class LoadedSettings:
    """Settings together with where each value came from (``argument``, ``environment``, a file, ...)."""

    settings: Settings
    sources: Mapping[str, str]


def load_settings(
    *,
    env_files: Iterable[Path | str] = (".env",),
    stored: Mapping[str, Mapping[str, Any]] | None = None,
    **arguments: Unpack[AllArguments],
) -> LoadedSettings:
    """Read the settings from all their sources.

    Args:
        env_files: ``.env`` files, the first wins. Missing files are skipped.
        stored: Values of a host application by the name of their source, the first wins.
        **arguments: Explicit values; None means "not given".

    Relative paths among the values count from the working directory of this call.

    Raises:
        ConfigurationError: A value does not fit; the message names the setting and its source, never a key.
            Or a ``.env`` file is there and can't be read.
    """
    hide_secrets(arguments)
    _refuse_options_object(arguments)
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("argument", {name: value for name, value in arguments.items() if value is not None}),
        ("environment", _variables(os.environ)),
    ]
    found_here: set[str] = set()
    for path in env_files:
        variables = _env_variables(Path(path))
        if variables is not None:
            layers.append((str(path), variables))
            if not Path(path).is_absolute():
                found_here.add(str(path))
    layers += list((stored or {}).items())

    values: dict[str, Any] = {}
    sources = dict.fromkeys(Settings.model_fields, "default")
    for source, layer in layers:
        for name, value in layer.items():
            if name not in Settings.model_fields:
                if source == "argument":
                    raise ConfigurationError(
                        f"There is no setting called {name!r}",
                        next_step=suggested(name, list(Settings.model_fields)),
                    )
                continue
            if name not in values:
                values[name] = value
                sources[name] = source
    if "api_key" not in values:
        for name, value in _login_for(values.get("workflow_url")).items():
            values[name], sources[name] = value, LOGIN
    try:
        settings = Settings(**values)
    except ValidationError as error:
        problems = tuple(_problem(found, sources) for found in error.errors(include_input=False))
        invalid = ConfigurationError(
            "; ".join(
                f"Setting {name} ({ENV_PREFIX}{name.upper()}, from {source}): {message}"
                for name, source, message in problems
            ),
            next_step="Correct the setting or leave it out to get its default.",
        )
        invalid.problems = problems
        raise invalid from None
    settings = _without_prices(settings, sources)
    # A key of `xalora login` is used with its own network only.
    if sources["workflow_url"] in found_here and sources["api_key"] not in (
        sources["workflow_url"],
        LOGIN,
        "default",
    ):
        _refuse_redirection(settings, sources)
    return LoadedSettings(settings, sources)


def _without_prices(settings: Settings, sources: dict[str, str]) -> Settings:
    """The settings without prices and limits of a day, where the network is one of ``unpriced``."""
    if not names_listed_host(settings.workflow_url, settings.unpriced):
        return settings
    none: dict[str, Any] = {"prices": {}, "daily_tasks": None, "daily_cost": None}
    sources.update(dict.fromkeys(none, "unpriced"))
    return settings.model_copy(update=none)


def _refuse_options_object(arguments: Mapping[str, Any]) -> None:
    if isinstance(arguments.get("api_key"), Mapping):
        raise ConfigurationError(
            "A dict was given where the API key is expected",
            next_step="Name each setting: Xalora(api_key=..., workflow_url=...).",
        )


def _login_for(url: str | None) -> dict[str, Any]:
    """The key of ``xalora login``, if it is for this network; where none was chosen, with its own.

    Raises:
        ConfigurationError: The key file can't be read.
    """
    try:
        stored = login_file()
    except ConfigurationError:
        # Without a home folder nobody has logged in.
        return {}
    key = stored.read_key()
    if key is None:
        return {}
    own = stored.read_endpoint()
    if url is None:
        return {"api_key": key} if own is None else {"api_key": key, "workflow_url": own}
    same = _same_network(str(url), own or DEFAULT_WORKFLOW_URL)
    return {"api_key": key} if same else {}


def no_key(url: str) -> MissingKeyError:
    """The error where no key is set for a network; it names the network whose key is there."""
    known = ""
    try:
        stored = login_file()
        other = stored.read_endpoint() or DEFAULT_WORKFLOW_URL if stored.read_key() is not None else url
        if not _same_network(url, other):
            known = f" for {without_login(url)}; that of `xalora login` is for {without_login(other)}"
    except ConfigurationError:
        pass
    return MissingKeyError(
        f"No API key is set{known}",
        next_step="Enter it by `xalora login`, or set XALORA_API_KEY. Without one: `xalora demo`.",
    )


def _same_network(url: str, other: str) -> bool:
    spellings = {one_spelling(without_login(each.strip().rstrip("/"))) for each in (url, other)}
    return len(spellings) == 1


def _env_text(path: Path) -> str | None:
    """The text of a ``.env`` file, None where there is none; Windows PowerShell writes UTF-16."""
    try:
        if not path.is_file():
            return None
        data = path.read_bytes()
        is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return data.decode("utf-16" if is_utf16 else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigurationError(
            f"The settings file {path.absolute()} can't be read: {reason}",
            next_step="Save it as UTF-8, make it readable, or move it away.",
        ) from None


def _refuse_redirection(settings: Settings, sources: Mapping[str, str]) -> None:
    """Stop where a ``.env`` file of the working directory chooses the sequencer that gets another's key.

    A downloaded folder may hold such a file, to collect keys. It is not skipped: the key's own network would
    charge for what was meant for a network on this machine.
    """
    if settings.sequencer_url == DEFAULT_WORKFLOW_URL:
        return
    raise ConfigurationError(
        f"{Path(sources['workflow_url']).absolute()} sets the sequencer to {settings.sequencer_url}, and the "
        f"key comes from another place ({sources['api_key']}), so it is not sent there",
        next_step="If this file is yours, set XALORA_API_KEY there and nowhere else, or set both elsewhere; "
        "if not, remove it.",
    )


def _env_variables(path: Path) -> dict[str, Any] | None:
    """The settings in a ``.env`` file, None where there is no file."""
    text = _env_text(path)
    if text is None:
        return None
    values = _variables(dotenv_values(stream=io.StringIO(text)))
    as_written = _variables(dotenv_values(stream=io.StringIO(text), interpolate=False))
    return values | {name: as_written[name] for name in _SECRETS if name in as_written}


_SECRETS = ("api_key", "store_secret_access_key")
_QUOTED = re.compile(r"""\s*(["'])(.+)\1\s*""", re.DOTALL)


def hide_secrets(arguments: Any) -> None:
    """Wrap what must not be seen in the local variables of a traceback, in a dict of settings."""
    values: dict[str, Any] = arguments
    for name in _SECRETS:
        if isinstance(values.get(name), str):
            values[name] = SecretStr(values[name])


def _variables(environment: Mapping[str, str | None]) -> dict[str, Any]:
    """The fields of :class:`Settings` among the variables; case is ignored, blank values count as unset.

    Quotes around a value are not part of it: ``docker run --env-file`` leaves them there.
    """
    found: dict[str, Any] = {}
    for name, value in environment.items():
        if name.upper().startswith(ENV_PREFIX) and value and value.strip():
            quoted = _QUOTED.fullmatch(value)
            found[name[len(ENV_PREFIX) :].lower()] = quoted[2] if quoted else value
    hide_secrets(found)
    return found


def _problem(found: Any, sources: Mapping[str, str]) -> SettingProblem:
    name = str(found["loc"][0])
    return SettingProblem(name, sources.get(name, "argument"), found["msg"].removeprefix("Value error, "))


_LOGIN = re.compile(r"(?<=://)[^/?#]*@")


def without_login(url: str) -> str:
    """``https://user:password@host/path`` as ``https://host/path``, for display and comparison."""
    return _LOGIN.sub("", url, count=1)


def one_spelling(url: str) -> str:
    """An address with scheme and host in lower case, without the scheme's own port and a slash at the end."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    try:
        port = parts.port
    except ValueError:
        return url
    if port is not None and port != {"http": 80, "https": 443}.get(parts.scheme):
        host += f":{port}"
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), parts.query, ""))


def may_have_key(url: str, allow_http: Iterable[str]) -> bool:
    """Whether a key may be sent to a URL: over TLS, to this machine, or where the user allows it."""
    is_safe = urlsplit(url).scheme.lower() == "https" or is_loopback(url)
    return is_safe or names_listed_host(url, allow_http)


def names_listed_host(url: str, hosts: Iterable[str]) -> bool:
    """Whether the host of an address, or the host with its port, is among these."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    host = f"[{host}]" if ":" in host else host
    port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
    return not {host, f"{host}:{port}"}.isdisjoint(hosts)


def is_loopback(url: str) -> bool:
    """Whether an address names this machine; no DNS lookup."""
    return is_this_machine((urlsplit(url).hostname or "").rstrip("."))


def is_this_machine(host: str) -> bool:
    """Whether a host in lower case, an IPv6 address without brackets, is this machine by its name."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
