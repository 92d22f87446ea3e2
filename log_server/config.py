"""The server's configuration: ``log.toml`` in the data directory, read once, validated, no secret in it.

Relative paths are relative to the file. An unknown key stops the start: a misspelt limit must not silently
be the default.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from assay.tlog.errors import MalformedError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PcsSection(_Section):
    """A provisioning service to fetch collateral from, Intel's or a cache's; nothing is asked that is not named here.

    ``update`` and ``tcb_evaluation_number`` exclude each other; with neither the service chooses, as a rule
    ``standard``. ``watch_early`` also asks for the early TCB data, only to warn.
    """

    url: str
    root_crl: str | None = None
    thim: str | None = None
    update: Literal["early", "standard"] | None = None
    tcb_evaluation_number: int | None = Field(default=None, ge=1)
    watch_early: bool = False
    max_age_s: int = Field(default=86_400, ge=60, le=7 * 86_400)
    warn_before_s: int = Field(default=7 * 86_400, ge=0, le=29 * 86_400)
    timeout_s: float = Field(default=20.0, ge=1, le=60)

    @model_validator(mode="after")
    def _one_choice_of_tcb_data(self) -> Self:
        if self.update is not None and self.tcb_evaluation_number is not None:
            raise ValueError("update and tcb_evaluation_number exclude each other")
        if self.watch_early and self.update == "early":
            raise ValueError("watch_early compares with early TCB data, which update takes already")
        return self


class RootSection(_Section):
    """A root under which quotes are admitted, and where collateral for them is: in a folder, or at a service."""

    name: str = Field(min_length=1, max_length=64)
    certificate: str
    collateral: str | None = None
    pcs: PcsSection | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.collateral is None) == (self.pcs is None):
            raise ValueError("needs either collateral (a folder) or pcs (a service)")
        return self


class IdentitySection(_Section):
    """Whom a Sigstore certificate must name, and the OIDC issuer that must have vouched for it; both exactly."""

    identity: str = Field(min_length=1, max_length=255)
    issuer: str = Field(min_length=1, max_length=255)


class PublisherSection(_Section):
    """Who may publish for one product: ``threshold`` of ``keys`` (public-key PEM files) and ``identities`` together."""

    threshold: int = Field(ge=1)
    keys: list[str] = []
    identities: list[IdentitySection] = []


class AdmissionSection(_Section):
    """What the log lets in. Without ``publishers`` anyone may publish releases, as in a public log."""

    kinds: list[str] = ["attestation", "enclave", "hashedrekord", "receipt"]
    roots: list[RootSection] = []
    publishers: dict[str, PublisherSection] | None = None


class SigstoreSection(_Section):
    """``roots`` is a pinned file, Sigstore's TrustedRoot or PEM; without it the log admits no certificate."""

    roots: str | None = None


class WitnessSection(_Section):
    """Who cosigns. ``policy`` is a C2SP tlog-policy whose witnesses have URLs; without it, nobody must."""

    policy: str | None = None
    request_timeout_s: float = Field(default=5.0, gt=0, le=60)
    recosign_interval_s: float = Field(default=60.0, ge=1, le=60)
    retry_interval_s: float = Field(default=1.0, gt=0, le=60)
    grace_s: float = Field(default=0.05, ge=0, le=5)
    round_timeout_s: float = Field(default=6.0, gt=0, le=60)


class SequencerSection(_Section):
    """How entries are ordered.

    A batch is what has come when it is the process's turn, up to the caps; nobody waits for a batch to fill. A
    longer queue is pushed back.
    """

    max_batch: int = Field(default=1024, ge=1, le=4096)
    max_batch_bytes: int = Field(default=16 << 20, ge=65_535)
    max_queue: int = Field(default=8192, ge=1)


class AccessSection(_Section):
    """API tokens, which guard the log's capacity and nothing else."""

    tokens: str = "tokens.toml"
    require_token: bool = False


class LimitsSection(_Section):
    """How much one client may ask, 0 for no limit; where a proxy of ours stands in front, how many do."""

    reads_per_minute: int = Field(default=0, ge=0)
    writes_per_minute: int = Field(default=0, ge=0)
    token_writes_per_minute: int = Field(default=0, ge=0)
    trusted_proxies: int = Field(default=0, ge=0, le=8)


class ExportSection(_Section):
    """Where a copy for plain web servers is kept: a folder or ``s3://BUCKET/PREFIX``; without it there is none."""

    to: str | None = None
    interval_s: float = Field(default=1.0, ge=0.05, le=3600)


class LoggingSection(_Section):
    """What is written to stderr, and how: JSON unless that is a terminal."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"
    access: bool = False


class Config(BaseSettings):
    """A log's configuration.

    Values come from the file, then from ``ASSAY_LOG__SECTION__KEY`` in the environment, which wins.
    """

    model_config = SettingsConfigDict(
        env_prefix="ASSAY_LOG__", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    origin: str = Field(min_length=1, max_length=255)
    key: str
    database: str
    anchor: str
    listen: str = "127.0.0.1:8080"
    workers: int = Field(default=1, ge=1, le=64)
    threads: int = Field(default=96, ge=1, le=1024)
    witnessed_timeout_s: float = Field(default=5.0, gt=0, le=60)
    admission: AdmissionSection = AdmissionSection()
    sigstore: SigstoreSection = SigstoreSection()
    witnesses: WitnessSection = WitnessSection()
    sequencer: SequencerSection = SequencerSection()
    access: AccessSection = AccessSection()
    limits: LimitsSection = LimitsSection()
    export: ExportSection = ExportSection()
    logging: LoggingSection = LoggingSection()

    @property
    def path_prefix(self) -> str:
        """Where the log is beside others of its process: the path of its origin, empty for a plain host name."""
        _, slash, path = self.origin.partition("/")
        return slash + path

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file; nothing else is looked at."""
        return env_settings, init_settings


def load(path: Path) -> Config:
    """Read and validate a configuration file.

    Raises:
        MalformedError: not TOML, an unknown key, or a value out of range (code ``config``).
    """
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text("utf-8"))
        return Config(**values)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MalformedError(f"{path}: not TOML: {error}", code="config") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise MalformedError(f"{path}: {faults}", code="config") from error
