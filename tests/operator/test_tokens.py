"""The Secret of a namespace's token against an API server over real HTTP (a small model of one)."""

import pytest
from openinference_operator import names
from openinference_operator.errors import Conflict, NameConflict, NotFound
from openinference_operator.resources import RESOURCES
from openinference_operator.spec import parse
from openinference_operator.tokens import Tokens


async def test_a_token_is_made_once_and_read_by_all(cluster, service):
    await Tokens(cluster).ensure([service])
    first = await Tokens(cluster).token_of("team-a")
    await Tokens(cluster).ensure([service])
    assert len(first) > 30
    assert await Tokens(cluster).token_of("team-a") == first


async def test_a_token_belongs_to_every_service_of_the_namespace(cluster, server, raw_service):
    first, second = parse(raw_service()), parse(raw_service(name="other"))
    await Tokens(cluster).ensure([first])
    await Tokens(cluster).ensure([first, second])
    secret = server.objects[RESOURCES["Secret"].path("team-a", names.TOKEN_SECRET)]
    owners = {owner["name"] for owner in secret["metadata"]["ownerReferences"]}
    assert owners == {"demo", "other"}
    assert "token" in secret["data"]


async def test_a_token_that_is_deleted_meanwhile_does_not_come_back_empty(
    cluster, server, raw_service
):
    """Its new owners were applied to a Secret that had gone with the old ones.

    That made one without a token, which nothing ever mended: routers and engines did not start.
    """
    first, second = parse(raw_service()), parse(raw_service(name="other"))
    tokens, path = Tokens(cluster), RESOURCES["Secret"].path("team-a", names.TOKEN_SECRET)
    await tokens.ensure([first])
    token = server.objects[path]["data"]
    server.vanishing = path
    with pytest.raises(Conflict):
        await tokens.ensure([first, second])
    assert path not in server.objects
    await tokens.ensure([first, second])
    assert server.objects[path]["data"] == token


async def test_a_secret_without_its_token_is_told_with_the_remedy(cluster, server, service):
    labels = {names.LABEL_MANAGED_BY: names.FIELD_MANAGER}
    server.put("Secret", names.TOKEN_SECRET, metadata={"labels": labels})
    with pytest.raises(NotFound, match="has no 'token'; delete it, and it is made anew"):
        await Tokens(cluster).token_of("team-a")


async def test_a_secret_of_somebody_else_is_left_alone(cluster, server, service):
    server.put("Secret", names.TOKEN_SECRET, data={"token": "eA=="})
    with pytest.raises(NameConflict):
        await Tokens(cluster).ensure([service])


async def test_no_token_yet_is_not_found(cluster):
    with pytest.raises(NotFound):
        await Tokens(cluster).token_of("team-a")
