"""The tools of `enflow mcp`, called by the client of the SDK over standard input and output, and over HTTP."""

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from rdkit.Chem.rdchem import Mol
from rdkit.Chem.rdmolfiles import MolFromXYZBlock

from enflow.service.schemas.examples import METHANE as METHANE_XYZ
from tests.ports import free_port
from tests.service.conftest import Api, eventually

mcp = pytest.importorskip("mcp", reason="the SDK of MCP is not installed: pip install 'enflow[mcp]'")
PNG = b"\x89PNG\r\n\x1a\n"
TOOLS = {"sample", "score", "variations", "limits", "start_job", "show_job", "job_results", "delete_job"}


def command(api: Api, *options: str) -> list[str]:
    return [sys.executable, "-m", "enflow.service", "mcp", "--url", str(api.http.base_url), *options]


def over_stdio(api: Api) -> Any:
    words = command(api)
    return mcp.stdio_client(mcp.StdioServerParameters(command=words[0], args=words[1:], env=dict(os.environ)))


@contextmanager
def over_http(api: Api) -> Iterator[str]:
    """Start `enflow mcp --port`, and yield its address."""
    port = free_port()
    process = subprocess.Popen(command(api, "--port", str(port)), stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/mcp"

    def listens() -> bool:
        assert process.poll() is None
        try:
            httpx.get(address, timeout=60)
        except httpx.TransportError:
            return False
        return True

    try:
        eventually(listens)
        yield address
    finally:
        process.terminate()
        process.wait()


def call(server: Any, work: Callable[[Any], Awaitable[None]]) -> None:
    """Run `work` with a client of a server."""

    async def run() -> None:
        async with mcp.Client(server) as client:
            await work(client)

    asyncio.run(run())


def read(result: Any) -> tuple[Any, list[bytes]]:
    """Return the document and the pictures of a result."""
    assert not result.is_error, result.content[0].text
    text, *images = result.content
    assert all(each.mime_type == "image/png" for each in images)
    return json.loads(text.text), [base64.b64decode(each.data) for each in images]


async def use_every_tool(client: Any) -> None:
    assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
    progress: list[tuple[float, float | None]] = []

    async def reported(done: float, total: float | None, _: str | None) -> None:
        progress.append((done, total))

    request = {"n_molecules": 3, "n_atoms": 5, "seed": 7, "with_nll": True}
    answer = await client.call_tool("sample", {"request": request}, progress_callback=reported)
    found, (picture,) = read(answer)
    assert picture.startswith(PNG)
    assert [(each["index"], each["smiles"], each["nll"]) for each in found["results"]] == [
        (i, "C", -0.5) for i in range(3)
    ]
    molecule: Mol = MolFromXYZBlock(found["results"][0]["xyz"])
    assert molecule.GetNumAtoms() == 5
    assert (3, 3) in progress

    structures = [{"format": "xyz", "data": METHANE_XYZ}, {"format": "xyz", "data": "1\nxenon\nXe 0 0 0\n"}]
    scores, _ = read(await client.call_tool("score", {"request": {"structures": structures, "seed": 0}}))
    assert scores["results"][0]["nll"] == -0.5
    assert (scores["results"][1]["name"], "error" in scores["results"][1]) == ("xenon", True)

    request = {"structures": structures[:1], "n_molecules": 2}
    near, (picture,) = read(await client.call_tool("variations", {"request": request, "picture": "3d"}))
    assert [each["kept"] for each in near["results"]] == ["graph"] * 2
    assert picture.startswith(PNG)

    job, _ = read(await client.call_tool("start_job", {"request": {"sample": {"n_molecules": 70, "n_atoms": 5}}}))
    while job["ended"] is None:
        await asyncio.sleep(0.05)
        job, _ = read(await client.call_tool("show_job", {"job_id": job["id"]}))
    some = {"job_id": job["id"], "first": 65, "count": 9, "picture": "none"}
    results, pictures = read(await client.call_tool("job_results", some))
    assert [each["index"] for each in results["results"]] == list(range(65, 70))
    assert (results["job"]["state"], pictures) == ("done", [])
    read(await client.call_tool("delete_job", {"job_id": job["id"]}))
    limits, _ = read(await client.call_tool("limits", {}))
    assert (limits["limits"]["max_molecules"], limits["models"][0]["name"]) == (20, "tiny")

    gone = await client.call_tool("show_job", {"job_id": job["id"]})
    assert gone.is_error
    assert "found no job with this id" in gone.content[0].text
    for tool in ("show_job", "job_results", "delete_job"):
        none = await client.call_tool(tool, {"job_id": "../models"})
        assert none.is_error
        assert "found no job '../models', expected an id of 32 hexadecimal digits" in none.content[0].text
    wrong = await client.call_tool("sample", {"request": {"colour": "red"}})
    assert wrong.is_error
    assert "colour" in wrong.content[0].text


def test_every_tool_over_standard_input_and_output(api: Api) -> None:
    call(over_stdio(api), use_every_tool)


def test_every_tool_over_http(api: Api) -> None:
    with over_http(api) as address:
        call(address, use_every_tool)


def test_a_call_that_is_cancelled_leaves_the_service(api: Api) -> None:
    api.client.steps, api.client.pause = 10**6, 0.01

    async def cancel(client: Any) -> None:
        task = asyncio.create_task(client.call_tool("sample", {"request": {"n_molecules": 1}}))
        while not api.client.submitted:
            await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.to_thread(eventually, lambda: len(api.client.aborted) > 0)

    call(over_stdio(api), cancel)


def test_without_the_sdk_one_sentence_names_the_command(api: Api) -> None:
    hide = (
        "import sys; sys.modules['mcp'] = None; sys.argv[0] = 'enflow'; import enflow.service.__main__ as m; m.main()"
    )
    done = subprocess.run([sys.executable, "-c", hide, "mcp"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "enflow: the SDK of MCP is not installed: pip install 'enflow[mcp]'\n"
