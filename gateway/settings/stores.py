"""What is kept on disk: records, and the bundles that came while the gateway ran."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr

from gateway.settings.part import Part


class RecordSettings(Part):
    """Where records go, what they keep and for how long, and what a reply waits for."""

    enabled: bool = True
    path: Path = Path("understudy.db")
    url: SecretStr | None = Field(default=None, description="PostgreSQL, in place of the file")
    text: Literal["none", "hash", "full"] = "hash"
    ack: Literal["async", "group", "strict"] = "async"
    group_wait_ms: float = Field(default=50.0, gt=0.0, le=10_000.0)
    strict_wait_ms: float = Field(default=2000.0, gt=0.0, le=60_000.0)
    queue: int = Field(default=20_000, ge=1, description="records that may wait to be written")
    queue_mb: int = Field(default=64, ge=1, description="the same in MiB")
    retention_days: float | None = Field(default=30.0, gt=0.0)

    @property
    def database(self) -> str | Path:
        """The URL, else the file. It may hold a password: it is for opening, never for showing."""
        return self.path if self.url is None else self.url.get_secret_value()

    def anchored(self, folder: Path) -> Self:
        """The same with a path that no longer depends on the current folder."""
        return self.model_copy(update={"path": folder / self.path})


class RegistrySettings(Part):
    """Where bundles lie that came while the gateway ran, and who serves."""

    path: Path = Path("students")
    max_bytes: int = Field(default=2**30, ge=1024, description="of one bundle, packed or not")

    def anchored(self, folder: Path) -> Self:
        """The same with a path that no longer depends on the current folder."""
        return self.model_copy(update={"path": folder / self.path})
