"""The `understudy` command: what it prints, what it refuses, and how it says so."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer

from gateway import __version__, cli, replicas, settings
from gateway.assembly import open_gateway
from gateway.cli.doctor import _cpu_flags
from gateway.errors import SettingsError
from gateway.settings import Settings
from gateway.types import Instance
from tests.factories import CONFIDENT, UNSURE, settings_file, tiny_bundle


class Ran:
    """What a command printed, and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


class Command:
    """Runs `understudy` as a shell would, errors and exit status included."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Ran:
        """Run it; no command may ever show a traceback."""
        self._capsys.readouterr()  # what was logged before is not what the command prints
        with pytest.raises(SystemExit) as leaving:
            cli.main([str(each) for each in arguments])
        printed = self._capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        code = leaving.value.code
        return Ran(code if isinstance(code, int) else 0, printed.out, printed.err)


@pytest.fixture
def understudy(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def test_version_is_the_packages(understudy: Command) -> None:
    assert understudy("version").out == f"{__version__}\n"


def test_no_arguments_show_the_commands(understudy: Command) -> None:
    ran = understudy()
    for name in ("serve", "check", "bundle", "records", "doctor", "key", "version"):
        assert name in ran.out + ran.err


def test_a_command_that_is_not_there_is_a_usage_error(understudy: Command) -> None:
    ran = understudy("srve")
    assert ran.status == 2
    assert "srve" in ran.err


def test_check_shows_settings_and_what_would_serve(understudy: Command, tmp_path: Path) -> None:
    ran = understudy("check", "--config", settings_file(tmp_path, server={"port": 8099}))
    assert ran.status == 0
    assert "server.port" in ran.out
    assert "8099" in ran.out
    assert "scripted" in ran.out
    assert "tickets: with 95% confidence, at most 5% of requests" in ran.out
    assert "next: understudy serve" in ran.out
    assert not (tmp_path / "records.db").exists()


def test_check_as_json_is_one_document(understudy: Command, tmp_path: Path) -> None:
    found = json.loads(understudy("check", "--json", "--config", settings_file(tmp_path)).out)
    assert found["settings"]["server"]["port"] == 8080
    assert found["tasks"]["tickets"]["threshold"] == 0.9
    assert found["tasks"]["tickets"]["certificate"]["alpha"] == 0.05


@pytest.mark.parametrize(
    ("certified", "policy", "said"),
    [
        (None, {}, "everything goes to the teacher"),
        (0.9, {"threshold": 0.5}, "nothing is guaranteed"),
    ],
)
def test_check_says_where_nothing_is_guaranteed(
    understudy: Command, tmp_path: Path, certified: float | None, policy: Any, said: str
) -> None:
    student = tiny_bundle(tmp_path / "b", threshold=certified)
    ran = understudy("check", "--config", settings_file(tmp_path, student=student, policy=policy))
    assert said in ran.out


def test_check_names_every_wrong_key_of_the_settings(understudy: Command, tmp_path: Path) -> None:
    path = settings_file(tmp_path, server={"prot": 8080, "max_inputs": 0})
    ran = understudy("check", "--config", path)
    assert ran.status == 2
    assert "server.prot: unknown key; did you mean 'port'?" in ran.err
    assert "server.max_inputs" in ran.err
    assert "->" in ran.err


def test_check_finds_a_bundle_that_is_not_there(understudy: Command, tmp_path: Path) -> None:
    ran = understudy("check", "--config", settings_file(tmp_path, student=tmp_path / "none"))
    assert ran.status == 2
    assert "there is no bundle" in ran.err


def test_check_finds_settings_that_are_not_there(understudy: Command, tmp_path: Path) -> None:
    ran = understudy("check", "--config", tmp_path / "none.yaml")
    assert ran.status == 2
    assert "none.yaml" in ran.err


def test_serve_refuses_to_be_reached_without_keys(understudy: Command, tmp_path: Path) -> None:
    ran = understudy("serve", "--config", settings_file(tmp_path), "--host", "0.0.0.0")  # noqa: S104  refused
    assert ran.status == 2
    assert "there are no keys" in ran.err


def test_serve_takes_host_and_port_from_the_command_line(tmp_path: Path) -> None:
    found = cli._settings(settings_file(tmp_path), host="127.0.0.2", port=0)
    assert (found.server.host, found.server.port) == ("127.0.0.2", 0)
    assert found.tasks == settings.load(tmp_path / "understudy.yaml").tasks


def test_bundle_show_tells_what_a_person_asks(understudy: Command, tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path)
    ran = understudy("bundle", "show", path)
    assert ran.status == 0
    for wanted in (
        path.name, "refund, fraud, other", "at most 5% of requests", "intent.macro_f1",
        "label_flips", "microseconds", "p50_ms", "2026-01-01T00:00:00Z",
    ):  # fmt: skip
        assert wanted in ran.out
    assert f"next: understudy bundle verify {path}" in ran.out


def test_bundle_show_as_json_is_one_document(understudy: Command, tmp_path: Path) -> None:
    path = tiny_bundle(tmp_path)
    found = json.loads(understudy("bundle", "show", path, "--json").out)
    assert path.name == f"tickets-{found['id'][:12]}"
    assert found["manifest"]["task"]["name"] == "tickets"


def test_bundle_verify_runs_the_golden_vectors(understudy: Command, tmp_path: Path) -> None:
    first, second = tiny_bundle(tmp_path), tiny_bundle(tmp_path, seed=1)
    ran = understudy("bundle", "verify", first, second)
    assert ran.status == 0
    assert ran.out == "".join(
        f"ok  {path.name}  3 files, 3 golden vectors\n" for path in (first, second)
    )


def test_bundle_verify_finds_one_changed_byte_and_goes_on(
    understudy: Command, tmp_path: Path
) -> None:
    broken, sound = tiny_bundle(tmp_path), tiny_bundle(tmp_path, seed=1)
    model = bytearray((broken / "model.onnx").read_bytes())
    model[100] ^= 1
    (broken / "model.onnx").write_bytes(model)
    ran = understudy("bundle", "verify", broken, sound)
    assert ran.status == 2
    assert "model.onnx" in ran.err
    assert sound.name in ran.out


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings whose database holds one student's and one teacher's answer."""
    path = settings_file(tmp_path)

    async def answer() -> None:
        async with open_gateway(settings.load(path)) as gateway:
            await gateway.cascade(None).answer([Instance(CONFIDENT), Instance(UNSURE)])

    asyncio.run(answer())
    return path


def test_records_are_listed(understudy: Command, config: Path) -> None:
    ran = understudy("records", "query", "--config", config)
    assert ran.status == 0
    assert "2 records" in ran.out
    assert "intent=refund flags=-" in ran.out
    assert "low_confidence" in ran.out


@pytest.mark.parametrize(
    ("options", "routes"),
    [
        ([], ["student", "teacher"]),
        (["--route", "teacher"], ["teacher"]),
        (["--reason", "confident"], ["student"]),
        (["--task", "mail"], []),
    ],
)
def test_records_can_be_chosen_and_printed_as_json(
    understudy: Command, config: Path, options: list[str], routes: list[str]
) -> None:
    found = json.loads(understudy("records", "query", "--config", config, "--json", *options).out)
    assert sorted(record["route"] for record in found) == routes


def test_the_limit_of_records_is_kept(understudy: Command, config: Path) -> None:
    assert "1 records" in understudy("records", "query", "--config", config, "--limit", "1").out


def test_a_route_that_does_not_exist_is_named_with_those_that_do(
    understudy: Command, config: Path
) -> None:
    ran = understudy("records", "query", "--config", config, "--route", "nobody")
    assert ran.status == 2
    assert "student, teacher, fallback, abstain" in ran.err


def test_records_before_the_first_serve_are_missed(understudy: Command, tmp_path: Path) -> None:
    ran = understudy("records", "query", "--config", settings_file(tmp_path))
    assert ran.status == 2
    assert "there are no records" in ran.err
    assert not (tmp_path / "records.db").exists()


def test_doctor_tells_what_this_machine_has(understudy: Command) -> None:
    ran = understudy("doctor", "--port", "0")
    assert ran.status == 0
    for wanted in ("python", "cores allowed", "avx512_vnni", "onnxruntime", "sqlite", "disk free"):
        assert wanted in ran.out
    assert "free" in ran.out


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_doctor_refuses_what_is_no_port(understudy: Command, port: str) -> None:
    ran = understudy("doctor", "--port", port)
    assert ran.status == 2
    assert "--port" in ran.err


def test_doctor_reads_cpu_flags(tmp_path: Path) -> None:
    source = tmp_path / "cpuinfo"
    source.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\n")
    assert _cpu_flags(source) == {"fpu", "avx2", "avx512_vnni"}
    assert _cpu_flags(tmp_path / "none") == frozenset()


def test_a_new_key_is_printed_with_the_lines_that_let_it_in(
    understudy: Command, tmp_path: Path
) -> None:
    out = understudy("key", "shop").out
    key = next(word for word in out.split() if word.startswith("us_shop_"))
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert f"    - name: shop\n      sha256: {digest}\n" in out
    assert f"UNDERSTUDY_API_KEYS=shop:{digest}" in out
    path = settings_file(tmp_path, keys=[{"name": "shop", "sha256": digest}])
    assert settings.load(path).keys[0].sha256 == digest


def test_a_key_needs_a_plain_name(understudy: Command) -> None:
    ran = understudy("key", "my shop")
    assert ran.status == 2
    assert "name" in ran.err


@pytest.fixture(autouse=True)
def _the_real_commands_after() -> Iterator[None]:
    """What has joined is looked up once; the next test looks again."""
    yield
    cli._joined.cache_clear()


def join(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Let one command join, as an installed package would."""
    entry = EntryPoint(name=name, value=value, group="understudy.commands")
    monkeypatch.setattr(cli, "entry_points", lambda group: [entry] if group else [])
    cli._joined.cache_clear()


def register(app: typer.Typer) -> None:
    """What another package's entry point names."""

    @app.command()
    def greet(name: str) -> None:
        """Say hello."""
        print(f"hello {name}")  # noqa: T201  a command prints

    @app.command()
    def learn() -> None:
        """Needs a library that is not there."""
        raise ModuleNotFoundError("No module named 'torch'", name="torch")


def test_commands_of_other_packages_are_listed_and_run(
    understudy: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(monkeypatch, "greetings", f"{__name__}:register")
    assert "Say hello." in understudy("--help").out
    assert understudy("greet", "you").out == "hello you\n"


def test_a_command_whose_package_cannot_be_loaded_says_what_to_install(
    understudy: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(monkeypatch, "distill", "no_such_package.cli:register")
    assert "understudy[distill]" in understudy("--help").out
    ran = understudy("distill", "--any", "thing")
    assert ran.status == 2
    assert "no_such_package" in ran.err
    assert "pip install 'understudy[distill]'" in ran.err
    assert understudy("version").status == 0


def test_a_library_that_is_missing_when_a_command_runs_says_what_to_install(
    understudy: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(monkeypatch, "greetings", f"{__name__}:register")
    ran = understudy("learn")
    assert ran.status == 2
    assert "torch" in ran.err
    assert "pip install 'understudy[distill]'" in ran.err


def raising(error: BaseException) -> Any:
    def register_failing(app: typer.Typer) -> None:
        @app.command()
        def fail() -> None:
            raise error

        @app.command()
        def other() -> None:
            """A second command."""

    return register_failing


def test_a_mistake_of_ours_is_one_line_and_debug_shows_where(
    understudy: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "failing", raising(KeyError("x")), raising=False)
    join(monkeypatch, "failing", f"{__name__}:failing")
    ran = understudy("fail")
    assert ran.status == 1
    assert "KeyError" in ran.err
    assert "--debug" in ran.err
    with pytest.raises(KeyError):
        cli.main(["--debug", "fail"])


def test_debug_raises_what_a_person_did_wrong_too(tmp_path: Path) -> None:
    with pytest.raises(SettingsError):
        cli.main(["--debug", "check", "--config", str(tmp_path / "none.yaml")])


def test_an_interrupt_is_one_line_and_130(
    understudy: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys.modules[__name__], "stopped", raising(KeyboardInterrupt()), raising=False
    )
    join(monkeypatch, "stopped", f"{__name__}:stopped")
    ran = understudy("fail")
    assert (ran.status, ran.err) == (130, "understudy: interrupted\n")


@pytest.mark.acceptance
def test_the_gateways_commands_import_nothing_of_the_offline_side(tmp_path: Path) -> None:
    path = settings_file(tmp_path)
    program = (
        "import sys\nfrom gateway.cli import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'onnx', 'distill', 'exporters'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "check", "--config", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines()[-1] == "[]"


def test_replicas_run_nothing_of_the_working_folder(
    understudy: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command that starts them, asked for its version where another numpy lies."""
    started: list[Sequence[str]] = []

    def serve(_settings: Settings, command: Sequence[str]) -> int:
        started.append(command)
        return 0

    monkeypatch.setattr(replicas, "serve", serve)
    config = settings_file(tmp_path, records={"enabled": False})
    assert understudy("serve", "--config", config, "--replicas", "2").status == 0
    python, _, rest = " ".join(started[0]).partition(" -m gateway serve ")
    assert rest.startswith(f"--config {config}")
    (tmp_path / "typer.py").write_text("raise SystemExit(9)")
    done = subprocess.run(
        [*python.split(), "-m", "gateway", "version"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")
