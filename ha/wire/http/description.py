"""``/openapi.yaml``: the API's description. ``/docs``: the same for people, in one page."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from quart import Blueprint, Response

import ha
from ha.wire.http.answers import Answer

_HERE = files(__package__)
_VERSION_LINE = "  version: 0.0.0\n"


@cache
def openapi_yaml() -> str:
    """The description with this version's number."""
    text = (_HERE / "openapi.yaml").read_text("utf-8")
    return text.replace(_VERSION_LINE, f"  version: {ha.__version__}\n", 1)


@cache
def docs_page() -> str:
    """The page, with the description in it: it loads nothing else, from nowhere."""
    import yaml

    document = json.dumps(yaml.safe_load(openapi_yaml()), ensure_ascii=False)
    page = (_HERE / "docs.html").read_text("utf-8")
    # Inside a script element only this sequence could end it.
    return page.replace("{{description}}", document.replace("</", "<\\/"), 1)


def description_blueprint() -> Blueprint:
    blueprint = Blueprint("description", __name__)

    @blueprint.get("/openapi.yaml")
    async def openapi() -> Answer:
        return Response(openapi_yaml(), content_type="application/yaml; charset=utf-8")

    @blueprint.get("/docs")
    async def docs() -> Answer:
        response = Response(docs_page(), content_type="text/html; charset=utf-8")
        response.headers["Content-Security-Policy"] = (
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline';"
            " img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none';"
            " frame-ancestors 'none'"
        )
        return response

    return blueprint
