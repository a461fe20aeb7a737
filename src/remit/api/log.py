"""The transparency log as static files (C2SP tlog-tiles), for monitors and witnesses.

Full tiles and bundles never change and may be cached for ever; partial ones and the checkpoint may
not. The entries hold digests, not payloads, so they need no token.
"""

from __future__ import annotations

import re
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from remit.api.answers import guarded
from remit.model.errors import NotFoundError

_PATH = re.compile(
    r"(?:checkpoint|tile/(?:entries|[0-9]{1,2})/(?:x[0-9]{3}/){0,5}[0-9]{3}(?:\.p/[0-9]{1,3})?)\Z"
)


def routes(folder: Path) -> list[Route]:
    """Return the log's route over the folder that the publisher writes."""

    async def serve(request: Request) -> Response:
        path = request.path_params["path"]
        file = folder / path
        if not _PATH.match(path) or not file.is_file():
            raise NotFoundError("the log has no such file (yet)")
        if path == "checkpoint":
            return FileResponse(
                file, media_type="text/plain", headers={"cache-control": "no-cache"}
            )
        headers = {
            "cache-control": "no-cache" if ".p/" in path else "public, max-age=31536000, immutable"
        }
        return FileResponse(file, media_type="application/octet-stream", headers=headers)

    return [Route("/log/{path:path}", guarded(serve), methods=["GET"])]
