"""The dashboard over HTTP: what is told to whom."""

import asyncio
import re

import pytest
from openinference_router.keys import Key

DIGEST = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"  # of "secret"
NAMED = re.compile(r"""(?:href|src)="([^"#]+)"|from "\./([^"]+)"|ask\("(\w+\.json)"\)""")
SECRET = {"Authorization": "Bearer secret"}


@pytest.mark.parametrize("path", ["/", "/dashboard"])
async def test_the_page_is_found_from_the_root(make_bench, path):
    bench = await make_bench()
    async with bench.client.get(bench.url + path) as response:
        assert (response.status, response.content_type) == (200, "text/html")
        assert response.url.path == "/dashboard/"


async def test_every_file_that_the_page_names_is_served_and_none_is_foreign(make_bench):
    bench = await make_bench()
    seen, wanted = set(), {""}
    while wanted - seen:
        name = (wanted - seen).pop()
        seen.add(name)
        async with bench.client.get(f"{bench.url}/dashboard/{name}") as response:
            assert response.status == 200, name
            policy = response.headers["Content-Security-Policy"]
            text = await response.text()
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), name
        wanted |= {next(filter(None, groups)) for groups in NAMED.findall(text)}
    assert {"main.js", "chart.js", "style.css", "reasons.json", "icon.svg"} <= seen


async def test_an_unchanged_file_is_not_sent_again(make_bench):
    bench = await make_bench()
    url = f"{bench.url}/dashboard/main.js"
    async with bench.client.get(url) as response:
        etag = response.headers["ETag"]
    async with bench.client.get(url, headers={"If-None-Match": etag}) as response:
        assert response.status == 304


async def test_an_unknown_file_is_an_error_of_the_usual_shape(make_bench):
    bench = await make_bench()
    async with bench.client.get(f"{bench.url}/dashboard/absent.js") as response:
        assert response.status == 404
        assert "absent.js" in (await response.json())["error"]["message"]


@pytest.mark.parametrize("name", ["overview", "history"])
async def test_data_wants_the_key_and_files_do_not(make_bench, name):
    bench = await make_bench()
    bench.keys.replace({"alice": Key(sha256=DIGEST, requests_per_minute=1)})
    async with bench.client.get(f"{bench.url}/dashboard/") as response:
        assert response.status == 200
    for headers, status in [({}, 401), ({"Authorization": "Bearer wrong"}, 401), (SECRET, 200)]:
        url = f"{bench.url}/dashboard/api/{name}"
        async with bench.client.get(url, headers=headers) as response:
            assert response.status == status


async def test_looking_uses_up_nothing_of_a_key(make_bench):
    bench = await make_bench()
    bench.keys.replace({"alice": Key(sha256=DIGEST, requests_per_minute=1)})
    for _ in range(3):
        async with bench.client.get(f"{bench.url}/dashboard/api/history", headers=SECRET) as seen:
            assert seen.status == 200
    async with bench.chat(headers=SECRET) as response:
        assert response.status == 404  # no such model; but not 429


async def test_a_withdrawn_key_sees_no_more(make_bench):
    bench = await make_bench()
    bench.keys.replace({"alice": Key(sha256=DIGEST)})
    url = f"{bench.url}/dashboard/api/overview"
    async with asyncio.timeout(60), bench.client.get(url, headers=SECRET) as response:
        await response.content.readuntil(b"\n\n")
        bench.keys.replace({})
        assert b"data:" not in await response.content.read()


async def test_a_draining_router_sends_its_viewers_elsewhere(make_bench):
    bench = await make_bench()
    url = f"{bench.url}/dashboard/api/overview"
    async with asyncio.timeout(60), bench.client.get(url) as response:
        await response.content.readuntil(b"\n\n")
        bench.router.drain()
        assert b"data:" not in await response.content.read()  # and it ends
    async with asyncio.timeout(60), bench.client.get(url) as response:
        assert await response.content.read() == b"", "another viewer is told nothing here"


# Prometheus, played: it answers each range query with one series of two points.
