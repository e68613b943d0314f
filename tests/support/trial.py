"""`python -m tests.support.trial ROOT [OVERRIDE…]`: compose.yaml, started as processes, with our image in the folder ROOT: the services in our image's root with their own commands, users, networks and health checks.

Brokers, balancer, Postgres, SeaweedFS and Prometheus are those of this machine, started by the commands and files of compose.yaml.
ClickHouse has a stand-in (the engine of `chdb`), and so has SeaweedFS (moto) where its binary is not in the environment; Grafana, Tempo,
Loki and the collector are left out. With own-warehouse.yaml the stores are there too, as machines that others look after.

The trial applies examples/cluster, sends events through the balancer, kills brokers and services meanwhile, restarts each of them in
turn, then kills all at once and starts all at once, as a machine that lost its power does, and compares the ids that were acknowledged
with the rows in Postgres and ClickHouse and with the archive.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import boto3
import zstandard

from tests.support.batches import Sender
from tests.support.compose import ROOT, combined, interpolated
from tests.support.containers import Container, Machine
from tests.support.postgres import find_binaries

APART = "PENSTOCK_TRIAL_APART"
BATCHES = 20
"""That must be acknowledged before the next blow."""
STORES = ("postgres", "clickhouse", "s3", "bucket")
SERVICES = ("router", "ingest-1", "ingest-2", "functions-runtime", "loader", "connector-runner")
HERE = Path("/")
"""The root of what this machine brings along."""


def asks(url: str) -> list[str]:
    """Returns the health check of a stand-in."""
    return ["wget", "-q", "-O", "/dev/null", url]


def certificates(folder: Path) -> Path:
    """Returns the folder of certificates that tls.yaml mounts, made as its page says; the edge's is signed by itself."""
    script = folder / "deploy/compose/make-certificates"
    script.write_bytes((ROOT / "deploy/compose/make-certificates").read_bytes())
    subprocess.run(["sh", script], check=True, capture_output=True)
    made, pem = folder / "certificates", folder / "certificates/edge/edge.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=balancer"]
    subprocess.run(
        ["openssl", "req", "-x509", *curve, "-keyout", folder / "key.pem", "-out", pem], check=True, capture_output=True
    )
    pem.write_text(pem.read_text() + (folder / "key.pem").read_text())
    pem.chmod(0o644)
    return made


def passwords(folder: Path) -> dict[str, str]:
    """Returns what make-env makes."""
    (folder / "deploy/compose").mkdir(parents=True)
    script = folder / "deploy/compose/make-env"
    script.write_bytes((ROOT / "deploy/compose/make-env").read_bytes())
    subprocess.run(["sh", script], check=True, capture_output=True)
    return dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())


class Trial:
    """The cluster, started in the order that compose.yaml gives."""

    def __init__(self, image: Path, folder: Path, overrides: list[Path]) -> None:
        self.environment = passwords(folder)
        # with own-warehouse.yaml, an operator's own
        dsn = f"postgresql://warehouse:{self.environment['WAREHOUSE_PASSWORD']}@postgres:5432/warehouse"
        given = self.environment | {"PUBLIC_URL": "https://balancer:8443", "PG_DSN": dsn}
        self.project: dict[str, Any] = interpolated(combined(*overrides), given)
        self.own_stores = "postgres" in self.project["services"]
        for name in STORES:
            others = interpolated(combined()["services"][name], given) | {"networks": ["out"]}
            self.project["services"].setdefault(name, others)
        ours = {name for name, each in self.project["services"].items() if each["image"].startswith("penstock:")}
        self.machine = Machine(
            self.project,
            {name: image if name in ours else HERE for name in self.project["services"]},
            folder,
            {"./certificates": certificates(folder)},
        )
        self.folder = folder

    def start(self) -> None:
        """Starts what there is, each when what it waits for is healthy."""
        done = self._start("volumes", once=True)
        assert done.process is not None
        server = str(ROOT / ".venv/bin/nats-server")
        brokers = {name: each for name, each in self.project["services"].items() if name.startswith("nats-")}
        first = [self.machine.make(name, command=[server, *each["command"][1:]]) for name, each in brokers.items()]
        for each in first:
            each.start()
        stores: list[tuple[Container, list[str] | None]] = [
            (self.machine.make("postgres", command=["sh", "-ec", self._postgres_script()]), None),
            (self.machine.make("clickhouse", command=self._clickhouse(), user="0:0"), asks("http://127.0.0.1:8123/ping")),
            self._s3(),
        ]
        os.chown(self.machine.volume("clickhouse"), 0, 0)  # this Python may be readable for root only
        for store, _ in stores:
            store.start()
        for each in first:
            print(f"{each.name} is healthy after {self.machine.wait_healthy(each):.1f} s", flush=True)
        for container, test in stores:
            print(f"{container.name} is healthy after {self.machine.wait_healthy(container, test=test):.1f} s", flush=True)
        clickhouse = self.machine.containers["clickhouse-1"]
        made = clickhouse.ask(self._query("CREATE DATABASE warehouse"))
        assert made.stdout == "", made.stdout + clickhouse.log.read_text()
        self._start("bucket", once=True)
        for name in (each for each in SERVICES if each in self.project["services"]):
            replicas = self.project["services"][name]["deploy"].get("replicas", 1)
            containers = [self.machine.make(name, number) for number in range(1, replicas + 1)]
            for each in containers:
                each.start()
            for each in containers:
                print(f"{each.name} is healthy after {self.machine.wait_healthy(each):.1f} s", flush=True)
        for name in ("balancer", "prometheus"):
            # fewer places, because this machine may lack the descriptors that compose.yaml asks for
            more = ["-n", "2000"] if name == "balancer" else []
            own = [] if name == "balancer" else ["prometheus"]  # its image begins with the program
            container = self.machine.make(name, command=[*own, *self.project["services"][name]["command"], *more])
            container.start()
            print(f"{container.name} is healthy after {self.machine.wait_healthy(container):.1f} s", flush=True)
        self._checks = {container.name: test for container, test in stores}
        self.command = self.machine.make("penstock")

    def _start(self, name: str, *, once: bool) -> Container:
        container = self.machine.make(name)
        container.start()
        assert container.process is not None
        if once and container.process.wait(120) != 0:
            raise SystemExit(f"{name} failed: {container.log.read_text()}")
        return container

    def _postgres_script(self) -> str:
        """Does what the image's entrypoint does with an empty folder: initialize, run the scripts, and begin."""
        folder, initdb = find_binaries(), self.project["services"]["postgres"]["environment"]["POSTGRES_INITDB_ARGS"]
        return f"""
export PATH={folder}:$PATH
if [ ! -e "$PGDATA/PG_VERSION" ]; then
  printf '%s\\n' "$POSTGRES_PASSWORD" >/tmp/password
  initdb --username "$POSTGRES_USER" --pwfile /tmp/password {initdb} >/dev/null
  echo 'host all all all scram-sha-256' >>"$PGDATA/pg_hba.conf"
  pg_ctl -w -o '-c listen_addresses=' start >/dev/null
  for script in /docker-entrypoint-initdb.d/*.sh; do "$script"; done
  pg_ctl -w stop >/dev/null
fi
exec postgres -c 'listen_addresses=*'"""

    def _s3(self) -> tuple[Container, list[str] | None]:
        service, weed = self.project["services"]["s3"], ROOT / ".venv/bin/weed"
        if weed.exists():
            return self.machine.make("s3", command=[str(weed), *service["entrypoint"][1:], *service["command"]]), None
        print("no SeaweedFS here, moto stands in for it and forgets all when it ends", flush=True)
        moto = [f"{ROOT}/.venv/bin/moto_server", "-H", "0.0.0.0", "-p", "8333"]
        return self.machine.make("s3", command=moto, user="0:0"), asks("http://127.0.0.1:8333/moto-api/")

    def _clickhouse(self) -> list[str]:
        return [
            f"{ROOT}/.venv/bin/python", "-m", "tests.support.clickhouse_server", "--path", "/var/lib/clickhouse/engine", "--host", "0.0.0.0",
            "--port", "8123", "--user", "warehouse", "--password", self.environment["CLICKHOUSE_PASSWORD"],
        ]  # fmt: skip

    def _query(self, text: str) -> list[str]:
        login = ["-H", "X-ClickHouse-User: warehouse", "-H", f"X-ClickHouse-Key: {self.environment['CLICKHOUSE_PASSWORD']}"]
        return ["curl", "-sS", *login, "http://127.0.0.1:8123/", "-d", text]

    def penstock(self, *words: str) -> str:
        """Runs the command, as `docker compose run --rm penstock` does."""
        done = self.command.ask(["penstock", *words])
        if done.returncode:
            raise SystemExit(f"penstock {' '.join(words)} ends with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def rows(self) -> set[str]:
        """Returns the ids in Postgres; fails at one that is there twice."""
        address = self.address("postgres-1")
        done = subprocess.run(
            ["psql", "-h", address, "-U", "warehouse", "-d", "warehouse", "-Atc", "SELECT id FROM shop.tracks"],
            check=False,
            capture_output=True,
            text=True,
            env={"PGPASSWORD": self.environment["WAREHOUSE_PASSWORD"], "PATH": "/usr/bin:/bin"},
        )
        found = done.stdout.split()
        if len(found) != len(set(found)):
            raise SystemExit(f"{len(found) - len(set(found))} rows are there twice")
        return set(found)

    def others(self) -> list[str]:
        """Returns the ids in ClickHouse."""
        done = self.machine.containers["clickhouse-1"].ask(self._query("SELECT message_id FROM warehouse.events FORMAT TSV"))
        return [each for each in done.stdout.split() if each.startswith("m-")]

    def archived(self) -> set[str]:
        """Returns the ids in the archive; fails at one that is there twice."""
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{self.address('s3-1')}:8333",
            region_name="us-east-1",
            aws_access_key_id=self.environment["S3_KEY_ID"],
            aws_secret_access_key=self.environment["S3_SECRET"],
        )
        found: list[str] = []
        for each in client.list_objects_v2(Bucket="events", Prefix="archive/raw/site=shop/").get("Contents", []):
            if each["Key"].endswith(".ndjson.zst"):
                packed = client.get_object(Bucket="events", Key=each["Key"])["Body"].read()
                with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
                    found += [json.loads(line)["messageId"] for line in reader.read().splitlines()]
        if len(found) != len(set(found)):
            raise SystemExit(f"{len(found) - len(set(found))} events are twice in the archive")
        return set(found)

    def address(self, name: str) -> str:
        """Returns the first address of a container."""
        return next(iter(self.machine.containers[name].addresses.values()))

    def cannot_reach(self, who: str, host: str, port: int) -> None:
        """Fails if a container can connect to another."""
        code = f"import socket; socket.create_connection(({host!r}, {port}), 2)"
        done = self.machine.containers[who].ask(["python3", "-c", code])
        if done.returncode == 0:
            raise SystemExit(f"{who} reaches {host}:{port}")

    def restart(self, name: str, number: signal.Signals | None = None) -> None:
        """Stops a container as Docker does, or by a signal; starts it again and waits until it is healthy."""
        container = self.machine.containers[name]
        if number is None:
            number = signal.Signals[self.project["services"][container.service].get("stop_signal", "SIGTERM")]
        took = container.stop(number, 60)
        container.start()
        back = self.machine.wait_healthy(container)
        print(f"{name}: {number.name}, ended after {took:.1f} s, healthy {back:.1f} s later", flush=True)

    def lose_power(self) -> None:
        """Kills everything at once, and starts everything at once: Docker's restart policies know no order."""
        running = [each for each in self.machine.containers.values() if each.process is not None and each.process.poll() is None]
        if not (ROOT / ".venv/bin/weed").exists():
            running = [each for each in running if each.service != "s3"]
        for each in running:
            each.stop(signal.SIGKILL, 60)
        for each in reversed(running):
            each.start()
        began = time.monotonic()
        for each in running:
            self.machine.wait_healthy(each, test=self._checks.get(each.name))
        print(f"all {len(running)} killed and started at once: healthy after {time.monotonic() - began:.1f} s", flush=True)


def try_out(image: Path, folder: Path, overrides: list[Path]) -> None:
    """Runs the trial.

    Raises:
        SystemExit: something is not as it should be; says what.
    """
    trial = Trial(image, folder, overrides)
    with trial.machine.running():
        began = time.monotonic()
        trial.start()
        print(trial.penstock("apply", "penstock.yaml").strip(), flush=True)
        print(f"up and applied after {time.monotonic() - began:.0f} s", flush=True)
        for who, host, port in (
            ("ingest-1-1", "postgres", 5432),
            *((("functions-runtime-1", "clickhouse", 8123),) if trial.own_stores else ()),
            ("balancer-1", "nats-1", 4222),
            ("loader-1", "ingest-1", 8080),
            # only S3 itself, which asks for a password
            *((("loader-1", "s3", port) for port in (8888, 9333, 8080, 18888)) if trial.own_stores else ()),
        ):
            address = next(iter(trial.machine.names.addresses[host]))
            trial.cannot_reach(who, address, port)
        port = trial.project["services"]["balancer"]["ports"][0].rpartition(":")[2]
        scheme = {"8080": "http", "8443": "https"}[port]
        sender = Sender(f"{scheme}://{trial.machine.containers['balancer-1'].addresses['front']}:{port}")
        sender.start()
        sender.wait_for(BATCHES)
        brokers = [name for name in trial.machine.containers if name.startswith("nats-")]
        for name in (brokers[-1], "ingest-1-1", "router-1", "loader-1"):
            trial.restart(name, signal.SIGKILL)
            sender.wait_for(BATCHES)
            print(f"acknowledgements stopped for {sender.gap():.1f} s at most", flush=True)
        for name in (*brokers, *(name for name, each in trial.machine.containers.items() if each.service in SERVICES)):
            trial.restart(name)
        sender.wait_for(BATCHES)
        print(f"acknowledgements stopped for {sender.gap():.1f} s at most", flush=True)
        trial.lose_power()
        sender.wait_for(BATCHES)
        print(f"acknowledgements stopped for {sender.gap():.1f} s", flush=True)
        wanted, end = sender.end(), time.monotonic() + 240
        while trial.rows() != wanted or set(trial.others()) != wanted:
            if time.monotonic() > end:
                raise SystemExit(
                    f"{len(wanted - trial.rows())} of {len(wanted)} ids are missing in Postgres; {trial.penstock('status')}"
                )
            time.sleep(1)
        twice = trial.others()
        assert len(twice) == len(set(twice)), f"{len(twice) - len(set(twice))} rows are twice in ClickHouse"
        print(
            f"{len(wanted)} events acknowledged, as many rows in Postgres and ClickHouse; {sender.repeats} requests were repeated",
            flush=True,
        )
        while trial.archived() != wanted:
            if time.monotonic() > end:
                raise SystemExit(f"{len(wanted - trial.archived())} of {len(wanted)} ids are missing in the archive")
            time.sleep(2)
        print("all of them are in the archive", flush=True)
        print(trial.penstock("status"), flush=True)
        leaks(trial)


def leaks(trial: Trial) -> None:
    """Fails if a password stands in a log, or the broker denied something."""
    for log in trial.folder.glob("*.log"):
        text = log.read_text(errors="replace")
        # the id of a key is no secret, and SeaweedFS logs it
        found = {name for name, value in trial.environment.items() if value in text and not name.endswith("_ID")}
        if found:
            raise SystemExit(f"{log.name} tells {', '.join(sorted(found))}")
    for log in trial.folder.glob("*.log"):
        denied = [line for line in log.read_text(errors="replace").splitlines() if "permissions violation" in line.lower()]
        if denied:
            raise SystemExit(f"{log.name}: {denied[0]}")


def main() -> None:
    """Runs the trial in namespaces that end with it; nothing of this machine's network sees its bridges."""
    if APART not in os.environ:
        apart = [
            "unshare",
            "--net",
            "--mount",
            "--propagation",
            "private",
            sys.executable,
            "-m",
            "tests.support.trial",
            *sys.argv[1:],
        ]
        raise SystemExit(subprocess.run(apart, check=False, env=os.environ | {APART: "1"}).returncode)
    with tempfile.TemporaryDirectory(prefix="penstock-trial-", dir="/var/tmp") as folder:  # on a disk that syncs
        try_out(Path(sys.argv[1]), Path(folder), [Path(each) for each in sys.argv[2:]])


if __name__ == "__main__":
    main()
