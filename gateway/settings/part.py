"""What every section of the settings is: frozen, without unknown keys, with finite numbers."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$")]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}$")]  # in a path


class Part(BaseModel):
    """A section of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
