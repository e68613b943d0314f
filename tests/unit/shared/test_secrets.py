"""References to secrets: what is read, what is refused, and what hides what was read."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import yaml

from connector_runner.feeds.registry import FEEDS, parse_feed
from connector_runner.opened import opened
from connector_runner.registry import SOURCES
from connector_runner.registry import parse_options as parse_connector
from loader.registry import DESTINATIONS, mask_of
from loader.registry import parse_options as parse_destination
from router.alerts.registry import CHANNELS, parse_alert, with_secrets
from shared.archive.place import with_secrets as archive_with_secrets
from shared.errors import NotConnected, PenstockError, SetupError
from shared.plugins import Plugins, secret_options
from shared.project.archive import ArchiveOptions
from shared.secrets.reading import reveal
from shared.secrets.references import Reference, misplaced, references_in, with_placeholders
from tests.meta.pages import ROOT, fences

_VARIABLE = re.compile(r"\$\{\w+\}")
PLUGINS: Mapping[str, Plugins[Any]] = {"destinations": DESTINATIONS, "connectors": SOURCES, "feeds": FEEDS, "alerts": CHANNELS}
PARSERS: Mapping[str, Callable[[str, dict[str, Any]], object]] = {
    "destinations": parse_destination,
    "connectors": parse_connector,
    "feeds": parse_feed,
    "alerts": parse_alert,
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_SECRETS_FOLDERS", str(tmp_path))
    return tmp_path


class _Vault(BaseHTTPRequestHandler):
    """Answers as the documented API of Vault's KV engines does: version 1 under `kv/`, version 2 under `secret/data/`."""

    secrets: dict[str, str] = {}  # noqa: RUF012 - one server a test

    def do_GET(self) -> None:
        if self.headers["X-Vault-Token"] != "a-token":
            return self._answer(403, {"errors": ["permission denied"]})
        path = self.path.removeprefix("/v1/")
        if path == "secret/data/pg":
            return self._answer(200, {"data": {"data": self.secrets, "metadata": {"version": 3}}})
        if path == "standby":
            return self._answer(307, {}, location=f"http://localhost:{self.server.server_port}/v1/kv/pg")  # type: ignore[attr-defined]
        if path == "kv/pg":
            return self._answer(200, {"data": self.secrets, "lease_duration": 2764800})
        if path == "strange":
            self.wfile.write(b"220 mail.example.com ESMTP\r\n")
            return None
        return self._answer(503 if path == "sealed" else 404, {"errors": []})

    def _answer(self, status: int, body: dict[str, Any], location: str = "") -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Vault]]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Vault) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("VAULT_ADDR", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("VAULT_TOKEN", "a-token")
        _Vault.secrets = {"password": "from-the-vault"}
        yield _Vault
        server.shutdown()


def test_a_file_is_read_each_time(folder: Path) -> None:
    (folder / "pg").write_text("one\n")
    document = {"dsn": f"postgresql://u:${{file:{folder}/pg}}@h/db", "port": 1, "list": [f"${{file:{folder}/pg}}"]}
    assert reveal(document) == {"dsn": "postgresql://u:one@h/db", "port": 1, "list": ["one"]}
    (folder / "pg").write_text("two")
    assert reveal(document)["list"] == ["two"]
    assert references_in(document) == {Reference("file", f"{folder}/pg")}
    assert with_placeholders(document)["list"] == ["0"]


def test_a_file_outside_of_the_folders_or_a_missing_one_is_refused(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "pg"
    outside.write_text("secret")
    (folder / "link").symlink_to(outside)
    for where in (outside, folder / "link", folder / ".." / outside.parent.name / "pg"):
        with pytest.raises(SetupError, match="outside of PENSTOCK_SECRETS_FOLDERS"):
            reveal({"p": f"${{file:{where}}}"})
    with pytest.raises(SetupError, match="No such file"):
        reveal({"p": f"${{file:{folder}/missing}}"})
    (folder / "empty").write_text("\n")
    with pytest.raises(SetupError, match="is empty"):
        reveal({"p": f"${{file:{folder}/empty}}"})


def test_a_command_runs_only_where_an_operator_allows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    document = {"p": "${command:printf %s s3cret}"}
    with pytest.raises(SetupError, match="PENSTOCK_SECRETS_COMMANDS"):
        reveal(document)
    monkeypatch.setenv("PENSTOCK_SECRETS_COMMANDS", "true")
    assert reveal(document) == {"p": "s3cret"}
    with pytest.raises(SetupError, match="ended with 1"):
        reveal({"p": "${command:false}"})
    with pytest.raises(SetupError, match="names no program"):
        reveal({"p": "${command: }"})


def test_a_vault_gives_secrets_of_both_versions_and_its_refusals_are_told_apart(
    vault: type[_Vault], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reveal({"p": "${vault:secret/data/pg#password}"}) == {"p": "from-the-vault"}
    assert reveal({"p": "${vault:kv/pg#password}"}) == {"p": "from-the-vault"}
    vault.secrets = {"password": "rotated"}
    assert reveal({"p": "${vault:kv/pg#password}"}) == {"p": "rotated"}
    for where, error in (("kv/other#password", SetupError), ("kv/pg#user", SetupError), ("sealed#x", NotConnected)):
        with pytest.raises(error):
            reveal({"p": f"${{vault:{where}}}"})
    with pytest.raises(NotConnected, match="does not answer"):  # another service has its port
        reveal({"p": "${vault:strange#x}"})
    monkeypatch.setenv("VAULT_TOKEN", "wrong")
    with pytest.raises(SetupError, match="403"):
        reveal({"p": "${vault:kv/pg#password}"})
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:vault")
    with pytest.raises(SetupError, match="VAULT_ADDR is no address"):
        reveal({"p": "${vault:kv/pg#password}"})
    monkeypatch.setenv("VAULT_ADDR", "")
    with pytest.raises(SetupError, match="VAULT_ADDR"):
        reveal({"p": "${vault:kv/pg#password}"})


@pytest.mark.usefixtures("vault")
def test_a_redirect_of_a_vault_is_not_followed_with_the_token() -> None:
    with pytest.raises(SetupError, match="sends to another address"):
        reveal({"p": "${vault:standby#password}"})


def test_what_a_reference_gave_is_hidden_in_whatever_option_it_stands_and_after_a_change_too(folder: Path) -> None:
    (folder / "token").write_text("first-value")
    document = {"type": "webhook", "url": f"https://x.example?token=${{file:{folder}/token}}"}
    reveal(document)
    (folder / "token").write_text("second-value")
    reveal(document)
    assert mask_of(document).text("first-value, second-value, third-value") == "•••, •••, third-value"


def test_references_elsewhere_are_refused_with_their_place() -> None:
    document = {
        "sites": {"shop": {"keys": [{"id": "k", "kind": "server", "secret": "${file:/run/secrets/k}"}]}},
        "destinations": {"wh": {"type": "postgres", "dsn": "${file:/run/secrets/pg}"}},
        "connectors": {"db": {"type": "postgres", "dsn": "${file:/run/secrets/pg}"}},
        "feeds": {"f": {"type": "nats", "token": "${file:/run/secrets/t}"}},
        "alerts": {"a": {"type": "slack", "url": "${file:/run/secrets/t}"}},
    }
    (problem,) = misplaced(document)
    assert problem.path == "sites.shop"
    assert "${file:/run/secrets/k}" in str(problem)


def test_an_alert_reads_its_secret_at_each_message_and_hides_all_that_it_had(folder: Path) -> None:
    (folder / "hook").write_text("https://hooks.slack.com/services/first-value")
    alert = parse_alert("oncall", {"type": "slack", "url": f"${{file:{folder}/hook}}"})
    assert cast("Any", with_secrets(alert).options).url.endswith("first-value")
    (folder / "hook").write_text("https://hooks.slack.com/services/second-value")
    now = with_secrets(alert)
    assert cast("Any", now.options).url.endswith("second-value")
    assert (now.digest, now.name) == (alert.digest, alert.name)
    told = now.mask.text(
        "no channel at https://hooks.slack.com/services/second-value, https://hooks.slack.com/services/first-value"
    )
    assert "first-value" not in told
    assert "second-value" not in told
    (folder / "hook").unlink()
    with pytest.raises(SetupError, match="hook"):
        with_secrets(alert)


def test_an_archive_reads_its_secret_when_it_is_opened(folder: Path) -> None:
    (folder / "key").write_text("first-value\n")
    document = {"type": "s3", "bucket": "bucket", "access_key_id": "a", "secret_access_key": f"${{file:{folder}/key}}"}
    options: Any = msgspec.convert(document, ArchiveOptions)
    assert list(misplaced({"archive": document})) == []
    assert cast("Any", archive_with_secrets(options)).secret_access_key == "first-value"
    (folder / "key").write_text("second-value\n")
    assert cast("Any", archive_with_secrets(options)).secret_access_key == "second-value"
    (folder / "key").unlink()
    with pytest.raises(SetupError, match="key"):
        archive_with_secrets(options)


def test_a_connection_refers_in_props_and_keys_of_rules_only() -> None:
    secret = "${file:/run/secrets/s}"
    rule = {"field": "userId", "do": "hash", "secret": secret}
    good = {"site": "s", "destination": "d", "functions_env": {"A": secret}, "privacy": [rule]}
    assert list(misplaced({"connections": {"c": good}})) == []
    for bad in ({**good, "table": secret}, {**good, "privacy": [{**rule, "field": secret}]}):
        (problem,) = misplaced({"connections": {"c": bad}})
        assert problem.path == "connections.c"


async def test_a_connector_reads_its_secret_each_time_it_is_opened_and_errors_hide_it(folder: Path) -> None:
    def heard(_: object) -> None:
        """Tells nobody."""

    document = {"type": "postgres", "dsn": f"${{file:{folder}/dsn}}"}
    with pytest.raises(SetupError, match="dsn"):
        async with opened("db", document, folder, heard):
            pass
    (folder / "dsn").write_text("postgresql://reader:planted-Pa55word@127.0.0.1:1/shop")
    with pytest.raises(PenstockError) as raised:
        async with opened("db", document, folder, heard) as source:
            await source.discover()
    assert "planted-Pa55word" not in f"{raised.value} {raised.value.__dict__}"
    assert "127.0.0.1" in str(raised.value)


def secret_options_in_pages() -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yields kind, an entry from the type's page, and an option of it that holds a secret: for each type whose page shows it."""
    for kind, plugins in PLUGINS.items():
        for name in plugins.names():
            secrets = secret_options(plugins.get(name).OPTIONS)
            shown = [entry for entry in entries_in(ROOT / "docs" / kind / f"{name}.md") if entry.get("type") == name]
            for option in sorted(secrets):
                if (entry := next((each for each in shown if isinstance(each.get(option), str)), None)) is not None:
                    yield kind, entry, option


def entries_in(page: Path) -> Iterator[dict[str, Any]]:
    for fence in fences(page):
        document = yaml.safe_load(fence.body) if fence.language == "yaml" else None
        for part in document.values() if isinstance(document, dict) else ():
            yield from (each for each in part.values() if isinstance(each, dict)) if isinstance(part, dict) else ()


CASES = list(secret_options_in_pages())


@pytest.mark.parametrize(
    ("kind", "entry", "option"), CASES, ids=[f"{kind}-{entry['type']}-{option}" for kind, entry, option in CASES]
)
def test_every_option_that_holds_a_secret_takes_a_reference(kind: str, entry: dict[str, Any], option: str) -> None:
    written = {key: _VARIABLE.sub("x1234567", value) if isinstance(value, str) else value for key, value in entry.items()}
    for other in {key for key, value in entry.items() if isinstance(value, str) and _VARIABLE.fullmatch(value)} | {option}:
        written[other] = "${file:/run/secrets/s}"
    assert list(misplaced({kind: {"n": written}})) == []
    PARSERS[kind]("n", with_placeholders(written))


def test_options_of_every_kind_are_tried() -> None:
    assert {kind for kind, _, _ in CASES} == set(PLUGINS)
    assert len(CASES) >= 30
