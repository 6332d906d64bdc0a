"""Keys: who may ask what."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import yaml

from gateway import settings
from gateway.api.auth import new_key
from gateway.errors import SettingsError
from tests.acceptance.command import understudy
from tests.conftest import Opener
from tests.factories import settings_file

KEY, DIGEST = new_key("shop")
OTHER, OTHER_DIGEST = new_key("mail")
KEYS = [{"name": "shop", "sha256": DIGEST}, {"name": "mail", "sha256": OTHER_DIGEST}]


def test_a_new_key_names_its_holder_and_is_known_by_its_hash() -> None:
    assert re.fullmatch(r"us_shop_[A-Za-z0-9_-]{43}", KEY)
    assert hashlib.sha256(KEY.encode()).hexdigest() == DIGEST
    assert new_key("shop")[0] != KEY


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer {OTHER}"},
        {"x-api-key": KEY},
    ],
)
def test_a_known_key_may_ask(serve: Opener, headers: dict[str, str]) -> None:
    client = serve(keys=KEYS)
    assert client.post("/v1/predict", json={"input": "a"}, headers=headers).status_code == 200
    assert client.get("/v1/stats", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer us_shop_wrong"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": "Bearer "},
        {"x-api-key": DIGEST},
    ],
    ids=["none", "wrong", "basic", "empty", "the hash"],
)
def test_any_other_key_may_not(serve: Opener, headers: dict[str, str]) -> None:
    client = serve(keys=KEYS)
    reply = client.post("/v1/predict", json={"input": "a"}, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")
    assert reply.headers["www-authenticate"] == "Bearer"
    assert client.get("/metrics", headers=headers).status_code == 401
    assert client.get("/no/such/path", headers=headers).status_code == 401


@pytest.mark.parametrize("role", ["client", "admin"])
def test_a_key_is_printed_with_its_role(role: str, tmp_path: Path) -> None:
    out = understudy("key", "ops", "--role", role).out
    key = next(word for word in out.split() if word.startswith("us_ops_"))
    document = out.partition("in understudy.yaml:")[2].partition("or in")[0]
    (line,) = yaml.safe_load(document)["keys"]
    (made,) = settings.load(settings_file(tmp_path, keys=[line])).keys
    assert made.sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert made.role == role


def test_a_key_of_the_environment_has_a_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for role in ("client", "admin"):
        out = understudy("key", "ops", "--role", role).out
        name, _, value = out.splitlines()[-1].strip().partition("=")
        monkeypatch.setenv(name, value)
        (made,) = settings.load(settings_file(tmp_path)).keys
        assert made.role == role


def test_another_role_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert understudy("key", "ops", "--role", "king").status == 2
    for value in (f"ops:{DIGEST}:king", f"ops:{DIGEST}:admin:more"):
        monkeypatch.setenv("UNDERSTUDY_API_KEYS", value)
        with pytest.raises(SettingsError, match="entry 1 is not name:sha256") as caught:
            settings.load(settings_file(tmp_path))
        assert DIGEST not in str(caught.value)


def test_probes_need_no_key(serve: Opener) -> None:
    client = serve(keys=KEYS)
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 200


def test_without_keys_everybody_on_this_machine_may_ask(serve: Opener) -> None:
    assert serve().get("/metrics").status_code == 200
