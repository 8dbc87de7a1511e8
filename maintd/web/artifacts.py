"""Serve the files that runs saved, without letting their content act with the rights of maintd's page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from maintd.config.artifact_files import open_artifact
from maintd.errors import RefusedError, UnknownNameError
from maintd.model.evidence import Artifact
from maintd.model.run import Run

PART_BYTES = 64 * 1024

INLINE = {
    "text/plain": "text/plain; charset=utf-8",
    "text/markdown": "text/markdown; charset=utf-8",
    "text/csv": "text/csv; charset=utf-8",
    "application/json": "application/json",
    "image/png": "image/png",
}
"""Media types that a browser can display without executing the content."""

SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:"
"""For HTML reports: an origin of their own, no scripts, no forms, no external resources."""


def find_artifact(run: Run, step: str, attempt: int, name: str) -> Artifact:
    """Find an artifact by step, attempt and name. Raises UnknownNameError."""
    attempts = [found for item in run.steps if item.name == step for found in item.attempts if found.number == attempt]
    artifacts = [artifact for found in attempts for artifact in found.artifacts]
    for artifact in reversed(artifacts):  # when a job saved a name twice, the later file counts
        if artifact.name == name:
            return artifact
    raise UnknownNameError("artifact", name, [artifact.name for artifact in artifacts])


def artifact_response(folder: Path, artifact: Artifact) -> Response:
    """The file as a response.

    Raises UnknownNameError when it is missing, RefusedError when it is not a plain file of the folder or has another
    size than was recorded.
    """
    try:
        file = os.fdopen(open_artifact(folder, artifact.path), "rb")
    except FileNotFoundError:
        error = UnknownNameError("artifact file", artifact.name)
        error.hint = "retention deleted it, or the state directory was moved"
        raise error from None
    except OSError as error:
        raise RefusedError(
            f'artifact "{artifact.name}" is not served: {error.strerror or error}', f"see: {folder}"
        ) from error
    size = os.fstat(file.fileno()).st_size
    if size != artifact.size_bytes:
        file.close()
        recorded = f"it had {artifact.size_bytes} bytes when it was recorded, and has {size}"
        raise RefusedError(f'artifact "{artifact.name}" is not served: {recorded}', f"see: {folder}")
    kind = artifact.media_type.partition(";")[0].strip().lower()
    headers = {"Content-Length": str(size)}
    media_type, disposition = "application/octet-stream", "attachment"
    if kind == "text/html":
        media_type, disposition = "text/html; charset=utf-8", "inline"
        headers["Content-Security-Policy"] = SANDBOX
    elif kind in INLINE:
        media_type, disposition = INLINE[kind], "inline"
    headers["Content-Disposition"] = f"{disposition}; filename*=utf-8''{quote(artifact.name, safe='')}"
    return StreamingResponse(_parts(file, size), media_type=media_type, headers=headers)


def _parts(file: BinaryIO, size: int) -> Iterator[bytes]:
    """The file in parts, as many bytes as were announced: the file may grow while it is sent."""
    with file:
        while size > 0 and (part := file.read(min(size, PART_BYTES))):
            size -= len(part)
            yield part
