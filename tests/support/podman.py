"""Stands in for `podman`, where there is no engine: takes its command line strictly, and runs the program that an image stands for.

`HOME/images/<name>` holds the program's command, one word a line; `HOME/calls` gets each command line; `HOME/containers/<name>` is a container:
the id of its process and its labels. As in a real engine, the process does not see our environment nor the client's folder, and does not
hear SIGTERM (the first process of a container has no handler of its own).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

HOME = Path(os.environ["HOME"])
FLAGS = {"--rm", "--read-only"}
VALUES = {
    "--name", "--label", "--pull", "--log-driver", "--network", "--tmpfs", "--volume", "--memory", "--memory-swap", "--pids-limit",
    "--ulimit", "--cap-drop", "--security-opt", "--env",
}  # fmt: skip


def fail(words: str) -> None:
    sys.exit(f"Error: {words}")


def file_of(image: str) -> Path:
    return HOME / "images" / image.replace("/", "_")


def run(arguments: list[str]) -> int:
    given: dict[str, list[str]] = {}
    while arguments and arguments[0].startswith("-"):
        option = arguments.pop(0)
        if option in FLAGS:
            given[option] = []
        elif option in VALUES:
            given.setdefault(option, []).append(arguments.pop(0))
        else:
            fail(f"unknown flag: {option}")
    image, *words = arguments
    source, target, how = given["--volume"][0].split(":")
    assert how == "ro,Z", how
    assert os.stat(source).st_mode & 0o777 == 0o755, "the user of the container reads it"
    assert os.stat(Path(source).parent).st_mode & 0o777 == 0o700, "others of this machine do not"
    words = [word.replace(target, source, 1) if word.startswith(target) else word for word in words]
    environment = dict(each.split("=", 1) for each in given["--env"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    process = subprocess.Popen([*file_of(image).read_text().splitlines(), *words], env=environment, start_new_session=True)
    container = HOME / "containers" / given["--name"][0]
    container.write_text(json.dumps({"pid": process.pid, "labels": dict(each.split("=", 1) for each in given["--label"])}))
    code = process.wait()
    container.unlink(missing_ok=True)
    return code if code >= 0 else 128 - code


def main() -> int:
    with (HOME / "calls").open("a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    match sys.argv[1:]:
        case ["image", "inspect", image]:
            return 0 if file_of(image).exists() else 125
        case ["pull", "--quiet", image]:
            remote = HOME / "registry" / image.replace("/", "_")
            if not remote.exists():
                fail(f"initializing source docker://{image}: manifest unknown")
            remote.rename(file_of(image))
            return 0
        case ["run", *arguments]:
            return run(arguments)
        case ["ps", "--all", "--filter", label, "--format", "{{.Names}}"]:
            name, value = label.removeprefix("label=").split("=", 1)
            for each in (HOME / "containers").iterdir():
                if json.loads(each.read_text())["labels"].get(name) == value:
                    print(each.name)
            return 0
        case ["inspect", "--format", '{{index .Config.Labels "penstock.run"}}', name]:
            print(json.loads((HOME / "containers" / name).read_text())["labels"]["penstock.run"])
            return 0
        case ["rm", "--force", name]:
            container = HOME / "containers" / name
            if not container.exists():
                fail(f"no container with name {name}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(json.loads(container.read_text())["pid"], signal.SIGKILL)
            container.unlink(missing_ok=True)
            return 0
    fail(f"unknown command {sys.argv[1:]}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
