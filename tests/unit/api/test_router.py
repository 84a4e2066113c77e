from __future__ import annotations

import pytest

from sampan.api.messages import AnyResponse, Request, Response, Route
from sampan.api.router import API_VERSION, Router
from sampan.errors import Invalid, NotFound


async def first(engine: object, request: Request) -> AnyResponse:
    return Response()


async def second(engine: object, request: Request) -> AnyResponse:
    return Response()


ROUTER = Router(
    [
        Route("GET", "/containers/json", first),
        Route("GET", "/containers/{id}/json", second),
        Route("GET", "/images/{name*}/json", second),
    ]
)


def test_the_version_prefix_is_taken_off() -> None:
    assert ROUTER.split_version("/v1.40/info") == ("1.40", "/info")
    assert ROUTER.split_version("/info") == (API_VERSION, "/info")


@pytest.mark.parametrize(("path", "words"), [("/v9.99/info", "is too new"), ("/v1.12/info", "is too old")])
def test_a_version_that_is_not_spoken_is_refused(path: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        ROUTER.split_version(path)


def test_names_with_slashes_and_escapes_are_found() -> None:
    assert ROUTER.resolve("GET", "/containers/json")[0] is first
    assert ROUTER.resolve("GET", "/containers/a%20b/json")[1] == {"id": "a b"}
    assert ROUTER.resolve("GET", "/images/host:5000/team/app/json")[1] == {"name": "host:5000/team/app"}


def test_head_is_answered_by_the_handler_of_get() -> None:
    assert ROUTER.resolve("HEAD", "/containers/json")[0] is first


def test_an_unknown_path_is_not_found_in_dockers_words() -> None:
    with pytest.raises(NotFound, match="page not found"):
        ROUTER.resolve("GET", "/nowhere")
