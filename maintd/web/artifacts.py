"""Serve the files that runs saved, without letting their content act with the rights of maintd's page."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import FileResponse, Response

from maintd.errors import RefusedError, UnknownNameError
from maintd.model.evidence import Artifact
from maintd.model.run import Run

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
    """The file as a response. Raises RefusedError when it is outside the folder, UnknownNameError when missing."""
    root = folder.resolve()
    path = (root / artifact.path).resolve()
    if not path.is_relative_to(root):
        raise RefusedError(f'artifact "{artifact.name}" is outside the artifacts folder', f"see: {folder}")
    if not path.is_file():
        error = UnknownNameError("artifact file", artifact.name)
        error.hint = "retention deleted it, or the state directory was moved"
        raise error
    kind = artifact.media_type.partition(";")[0].strip().lower()
    if kind == "text/html":
        return FileResponse(
            path,
            media_type="text/html; charset=utf-8",
            filename=artifact.name,
            content_disposition_type="inline",
            headers={"Content-Security-Policy": SANDBOX},
        )
    if kind in INLINE:
        return FileResponse(path, media_type=INLINE[kind], filename=artifact.name, content_disposition_type="inline")
    return FileResponse(path, media_type="application/octet-stream", filename=artifact.name)
