"""Secrets, which come from the environment alone. Nothing else reads it."""

from __future__ import annotations

import os

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from gateway.errors import SettingsError
from gateway.settings.server import KeySettings


class Secrets(BaseSettings):
    """What the environment holds, each under its name with `UNDERSTUDY_` before it."""

    model_config = SettingsConfigDict(env_prefix="UNDERSTUDY_", extra="ignore")

    api_keys: str = ""
    api_key: SecretStr = SecretStr("")
    teacher_keys: SecretStr = SecretStr("")
    records_url: SecretStr | None = None


def environment_without_keys() -> dict[str, str]:
    """The environment for a gateway that must not let in the keys of its parent."""
    prefix = Secrets.model_config["env_prefix"]
    secret = {f"{prefix}{key}".upper() for key in Secrets.model_fields}
    return {name: value for name, value in os.environ.items() if name.upper() not in secret}


def key_of_environment() -> str:
    """The key with which commands ask a gateway that runs; empty where there is none."""
    return Secrets().api_key.get_secret_value()


def teacher_key(name: str) -> SecretStr:
    """The key of that name which a teacher wants to be shown. Raises SettingsError."""
    for pair in Secrets().teacher_keys.get_secret_value().split(","):
        known, _, secret = pair.strip().partition(":")
        if known == name and secret:
            return SecretStr(secret)
    raise SettingsError(
        f"UNDERSTUDY_TEACHER_KEYS holds no key of the name {name!r}",
        mend=f"let it hold {name}:SECRET; several are separated by commas",
    )


def keys_of_environment() -> list[KeySettings]:
    """The API keys of the environment. Raises SettingsError."""
    pairs = [pair.strip() for pair in Secrets().api_keys.split(",") if pair.strip()]
    found = []
    for number, pair in enumerate(pairs, 1):
        name, digest, role = [*pair.split(":", 2), "", ""][:3]
        given = {"name": name, "sha256": digest, "role": role or "client"}
        try:
            found.append(KeySettings.model_validate(given))
        except ValidationError:  # it holds the entry, which may be a key in the clear
            raise SettingsError(
                f"UNDERSTUDY_API_KEYS: entry {number} is not name:sha256 or name:sha256:admin",
                mend="write the line that `understudy key NAME` prints",
            ) from None
    return found
