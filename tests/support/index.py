"""An index of packages of the tests' own: small wheels made on the spot, served as PEP 503 wants it."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

PROGRAM = "def main():\n    print('hello of {version}')\n"


@dataclass
class Index:
    """The index. `files`: of each package, its files by name. `yanked`: names of files."""

    url: str = ""
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    yanked: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def wheel(self, package: str, version: str, *, needs: str = "", python: str = ">=3.9", scripts: str = "") -> None:
        """Adds a wheel with a program named as the package. `needs`: a requirement; `scripts`: its entry points."""
        module = package.replace("-", "_")
        metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\nRequires-Python: {python}\n"
        metadata += f"Requires-Dist: {needs}\n" if needs else ""
        info = f"{module}-{version}.dist-info"
        content = {
            f"{module}.py": PROGRAM.format(version=version),
            f"{info}/METADATA": metadata,
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": f"[console_scripts]\n{scripts or f'{package} = {module}:main'}\n",
        }
        content[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in (*content, f"{info}/RECORD"))
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as archive:
            for name, text in content.items():
                archive.writestr(name, text)
        self.files.setdefault(package, {})[f"{module}-{version}-py3-none-any.whl"] = data.getvalue()

    def source(self, package: str, version: str) -> None:
        """Adds a source distribution, whose build would tell all that it sees."""
        data, module = io.BytesIO(), package.replace("-", "_")
        setup = b"raise SystemExit('built')\n"
        with tarfile.open(fileobj=data, mode="w:gz") as archive:
            for name, text in (
                ("setup.py", setup),
                ("PKG-INFO", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n".encode()),
            ):
                member = tarfile.TarInfo(f"{module}-{version}/{name}")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text))
        self.files.setdefault(package, {})[f"{module}-{version}.tar.gz"] = data.getvalue()

    async def answer(self, request: web.Request) -> web.Response:
        """Answers one request."""
        self.asked.append(request.path)
        match request.path.strip("/").split("/"):
            case ["simple", package] if package in self.files:
                links = "".join(
                    f'<a href="/files/{package}/{name}#sha256={hashlib.sha256(data).hexdigest()}"'
                    f"{' data-yanked=broken' if name in self.yanked else ''}>{name}</a>\n"
                    for name, data in self.files[package].items()
                )
                return web.Response(text=f"<!DOCTYPE html><html><body>{links}</body></html>", content_type="text/html")
            case ["files", package, name]:
                return web.Response(body=self.files[package][name])
        return web.Response(status=404)


@asynccontextmanager
async def index() -> AsyncIterator[tuple[Index, web.AppRunner]]:
    """Serves an index while the context is open; clean the runner up to take it away earlier."""
    found = Index()
    app = web.Application()
    app.router.add_get("/{path:.*}", found.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/simple"
    try:
        yield found, runner
    finally:
        await runner.cleanup()
