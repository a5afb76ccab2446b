"""What a site can set: one TOML file, then environment variables, then the command line.

`tomodex.toml` in the working directory, or the file that `TOMODEX_CONFIG` names. A variable is
`TOMODEX_` and the setting's name, such as `TOMODEX_WORKERS=4`. No setting holds a secret itself: it
names a file that does.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from tomodex.admission import Access
from tomodex.doors import Bridge, Receive, Serve
from tomodex.errors import Misconfigured
from tomodex.schedule import read_schedule

#: What a source may be called: it stands on command lines and in logs.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*", re.ASCII)

#: Options of URLs that name where a secret is, and how they do.
SECRET = frozenset({"password", "token", "secret", "client_secret"})
PLACE = re.compile(r"(file|env):.")

Origin = Literal["default", "file", "environment", "command line"]


def config_file() -> Path:
    """The settings file, whether it is there or not."""
    return Path(os.environ.get("TOMODEX_CONFIG", "tomodex.toml"))


class Settings(BaseSettings):
    """Everything that can be set; each field's description is its documentation."""

    model_config = SettingsConfigDict(
        env_prefix="TOMODEX_", extra="forbid", frozen=True, env_ignore_empty=True
    )

    data: Path = Field(
        Path("tomodex-data"), description="Folder for the queue, the index and what sources know."
    )
    queue: str = Field("", description="URL of the queue; empty: a SQLite file in `data`.")
    index: str = Field("", description="URL of the index; empty: a DuckDB file in `data`.")
    sources: dict[str, str] = Field(
        {},
        description="Archives by a name of your choice: their URLs with options, or folders.",
    )
    avoid: tuple[str, ...] = Field(
        (),
        description="Sources whose series workers leave to those of other data folders, by name "
        "or URL.",
    )
    destinations: dict[str, str] = Field(
        {},
        description="Where masks may be put that are ordered over HTTP, by a name of your choice: "
        "URLs with options, or folders.",
    )
    sinks: tuple[str, ...] = Field((), description="URLs of other consumers of the results.")
    delivery: Literal["here", "apart"] = Field(
        "here",
        description="Who brings results to the index and the sinks: `tomodex run` and `index` "
        "themselves, or `tomodex deliver` alone.",
    )
    segmenters: tuple[str, ...] = Field(
        ("dicomseg:", "none:"),
        description="URLs of segmenters; the first that has something to say of a series counts.",
    )
    weights: Path | None = Field(
        None,
        description="Folder with the weights of models; empty: where TotalSegmentator keeps them.",
    )
    reference_python: Path | None = Field(
        None,
        description="Python of the environment with the official TotalSegmentator package; empty: "
        "this one.",
    )
    rules: Path | None = Field(
        None, description="TOML file that overlays the packaged selection rules."
    )
    configuration: str = Field(
        "default",
        description="Name of this way of indexing; a series is indexed once with each name.",
    )
    workers: int = Field(1, ge=1, le=256, description="Worker processes of `tomodex index`.")
    daily_at: str = Field(
        "05:30",
        description="When `tomodex run` looks for new series: local times, or `every 4h`; empty: "
        "never.",
    )
    daily_look_back: int = Field(
        7,
        ge=1,
        le=366,
        description="Days that a daily look goes back at least: images of a day may come in later.",
    )
    lease_s: float = Field(
        300.0, gt=1, description="Seconds after which a silent worker's task is given to another."
    )
    deadline_s: float = Field(
        600.0, gt=0, description="Seconds that any series may take, whatever its size."
    )
    deadline_factor: float = Field(
        10.0,
        ge=0,
        description="A series may take this many times what its size lets expect, and "
        "`deadline_s`; 0: any time.",
    )
    finish_s: float = Field(
        0.0,
        ge=0,
        description="Seconds that workers may finish their series when `tomodex run` is told to "
        "end; then they give them back.",
    )
    memory_gib: float = Field(
        0.0,
        ge=0,
        description="GiB of memory that a worker may take; 0: its share of four fifths of all, "
        "or 4.",
    )
    free_text: bool = Field(
        False,
        description="Index StudyDescription, SeriesDescription and ProtocolName too. People type "
        "names into them.",
    )
    preview: Literal["off", "heads left out", "heads cut off", "heads shown"] = Field(
        "off",
        description="Keep a small picture of each segmented series in `data`. Faces and skulls "
        "tell whose they are.",
    )
    pseudonym_key_file: Path | None = Field(
        None,
        description="File with the secret key of the patient pseudonyms; empty: one is made in "
        "`data`, readable by its owner alone.",
    )
    receive: Receive = Field(
        Receive(), description="`tomodex receive`: where it listens, who may push, what is whole."
    )
    serve: Serve = Field(Serve(), description="`tomodex serve`: where it listens, and who may ask.")
    access: Access = Field(Access(), description="Who may ask, and what they may learn.")
    bridge: Bridge = Field(
        Bridge(), description="`tomodex bridge`: the IMPETUS CT Indexer's topics in Kafka."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="What is written to stderr."
    )
    log_format: Literal["json", "text"] = Field(
        "json", description="How: a JSON object a line, or words for a person."
    )

    @field_validator("sources", "destinations")
    @classmethod
    def _be_named(cls, places: dict[str, str]) -> dict[str, str]:
        for name, url in places.items():
            if not NAME.fullmatch(name):
                raise ValueError("a name has letters, digits, - and _")
            _require_no_secret(url, f"the URL of {name}")
        return places

    @field_validator("queue", "index", "sinks", "segmenters")
    @classmethod
    def _hold_no_secret(cls, urls: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for url in (urls,) if isinstance(urls, str) else urls:
            _require_no_secret(url, "the URL")
        return urls

    @field_validator("daily_at")
    @classmethod
    def _be_a_schedule(cls, text: str) -> str:
        read_schedule(text)
        return text

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())

    @property
    def queue_url(self) -> str:
        return self.queue or f"sqlite://{self.data.absolute() / 'tomodex.db'}"

    @property
    def index_url(self) -> str:
        return self.index or f"duckdb://{self.data.absolute() / 'index.duckdb'}"

    @property
    def key_file(self) -> Path:
        return self.pseudonym_key_file or self.data / "pseudonym.key"


def _require_no_secret(url: str, what: str) -> None:
    """Refuse a secret in a URL, which is shown, logged and kept with results.

    Where it is wrong, it is not said what stands there.
    """
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query)
        password = parts.password
    except ValueError:  # such as an unclosed bracket
        raise ValueError("a place is a URL or a folder") from None
    secret = SECRET | ({"key"} if parts.scheme == "s3" else set())
    said = [name for name, value in options if name in secret and not PLACE.match(value)]
    if password is not None or said:
        raise ValueError(
            f"{what} holds a password; name where it is, as ?password=file:/run/secrets/pacs"
        )


def load_settings(**command_line: Any) -> Settings:
    """Settings of this run; a value of None on the command line was not given.

    Raises:
        Misconfigured: the file cannot be read, or a value is not what its setting takes.
    """
    given = {name: value for name, value in command_line.items() if value is not None}
    if "TOMODEX_CONFIG" in os.environ and not config_file().is_file():
        raise Misconfigured(f"TOMODEX_CONFIG names {config_file()}, which is not a file")
    try:
        return Settings(**given)
    except ValidationError as wrong:
        raise Misconfigured("; ".join(_plain(error) for error in wrong.errors())) from wrong
    except tomllib.TOMLDecodeError as wrong:
        raise Misconfigured(f"cannot read the settings in {config_file()}: {wrong}") from wrong
    except SettingsError as wrong:  # its cause would repeat the value, which might be a secret
        raise Misconfigured(
            f"cannot read the settings: {wrong}; a list is written in JSON"
        ) from None
    except OSError as refused:
        raise Misconfigured(f"cannot read {config_file()}: {refused.strerror}") from refused


def in_force(settings: Settings) -> dict[str, str]:
    """What counts where a setting that names a place was left empty."""
    return {
        "queue": settings.queue_url,
        "index": settings.index_url,
        "pseudonym_key_file": str(settings.key_file),
    }


def origins(settings: Settings, command_line: Mapping[str, Any]) -> dict[str, Origin]:
    """Where each setting's value comes from."""
    in_file = TomlConfigSettingsSource(type(settings), config_file())()
    found: dict[str, Origin] = {}
    for name in type(settings).model_fields:
        if command_line.get(name) is not None:
            found[name] = "command line"
        elif os.environ.get(f"TOMODEX_{name.upper()}"):
            found[name] = "environment"
        else:
            found[name] = "file" if name in in_file else "default"
    return found


def _plain(error: Mapping[str, Any]) -> str:
    """One sentence for one wrong setting, without the value: it might be a secret."""
    where = ".".join(map(str, error["loc"])) or "settings"
    if error["type"] == "extra_forbidden":
        return f"{where} is not a setting; `tomodex config show` lists them"
    return f"{where}: {error['msg']}"
