"""Files that runs left, served so that none of them can act in maintd's name."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import FileResponse, Response

from maintd.errors import RefusedError, UnknownNameError
from maintd.model.evidence import Artifact
from maintd.model.run import Run

PLAIN = {
    "text/plain": "text/plain; charset=utf-8",
    "text/markdown": "text/markdown; charset=utf-8",
    "text/csv": "text/csv; charset=utf-8",
    "application/json": "application/json",
    "image/png": "image/png",
}
"""Media types that a browser shows without running anything of theirs."""

SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:"
"""A report of its own origin: no script, no form, nothing loaded, and maintd's pages out of its reach."""


def find_artifact(run: Run, step: str, attempt: int, name: str) -> Artifact:
    """An artifact of a run by the step's name. Raises UnknownNameError."""
    tries = [found for item in run.steps if item.name == step for found in item.attempts if found.number == attempt]
    kept = [artifact for found in tries for artifact in found.artifacts]
    for artifact in reversed(kept):  # a name that was saved twice is the later file
        if artifact.name == name:
            return artifact
    raise UnknownNameError("artifact", name, [artifact.name for artifact in kept])


def artifact_response(folder: Path, artifact: Artifact) -> Response:
    """The file. Raises RefusedError for one outside the folder, UnknownNameError when it is gone."""
    root = folder.resolve()
    path = (root / artifact.path).resolve()
    if not path.is_relative_to(root):
        raise RefusedError(f'artifact "{artifact.name}" is not in the folder of artifacts', f"see: {folder}")
    if not path.is_file():
        error = UnknownNameError("file of the artifact", artifact.name)
        error.hint = "retention removed it, or the state directory was moved"
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
    if kind in PLAIN:
        return FileResponse(path, media_type=PLAIN[kind], filename=artifact.name, content_disposition_type="inline")
    return FileResponse(path, media_type="application/octet-stream", filename=artifact.name)
