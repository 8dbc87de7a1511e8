"""Request and response bodies of the API, apart from the types of `maintd.model`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field
from starlette.responses import Response

from maintd.model.access import Caller, Role
from maintd.model.base import Model
from maintd.operations import TriggerRequest
from maintd.redaction import mask_tokens
from maintd.units import Instant


def _encodable(value: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, ValueError, RecursionError) as error:
        raise ValueError("cannot be encoded as JSON in UTF-8") from error
    return value


Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=2000), AfterValidator(mask_tokens)]
Key = Annotated[str, Field(min_length=1, max_length=200)]


class TriggerBody(Model):
    """A request for a run of an entry or a job."""

    name: Name
    params: Annotated[dict[str, Any], AfterValidator(_encodable)] = {}
    at: Instant | None = None
    why: Text = ""
    by: Text = ""
    dry_run: bool = False
    emergency: bool = False
    idempotency_key: Key | None = None

    def to_request(self, by: Caller) -> TriggerRequest:
        """Convert to the request that the operator service takes; `by` is who sent it."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return TriggerRequest(
            **fields | {"by": by.name, "origin": by.origin, "as_admin": by.role is Role.ADMIN and not by.entries}
        )


class CancelBody(Model):
    """Who cancels a run, and why."""

    by: Text = ""
    why: Text = ""


class TickBody(Model):
    """Which items of a gate's checklist are ticked, by whom; without `gate`, those of the gate where the run waits."""

    items: Annotated[tuple[int, ...], Field(min_length=1, max_length=100)]
    gate: Text = ""
    note: Text = ""
    by: Text = ""


class ApproveBody(Model):
    """Who passes a gate. `emergency`, with `why`: although they requested the run themselves."""

    gate: Text = ""
    note: Text = ""
    emergency: bool = False
    why: Text = ""
    by: Text = ""


class RejectBody(Model):
    """Who rejects at a gate, and why."""

    why: Text
    gate: Text = ""
    by: Text = ""


class ResumeBody(Model):
    """Who resumes a run and why, from which step, and which steps run again although that may repeat an effect."""

    by: Text = ""
    why: Text = ""
    from_step: Annotated[str, Field(max_length=200)] = ""
    redo: Annotated[tuple[Name, ...], Field(max_length=100)] = ()


class UndoBody(Model):
    """Who undoes a run and why, and which undo steps run again although that may repeat an effect."""

    why: Text
    by: Text = ""
    redo: Annotated[tuple[Name, ...], Field(max_length=100)] = ()


class ReleaseBody(Model):
    """Who releases a held run, and why."""

    why: Text
    by: Text = ""


class PauseBody(Model):
    """Who pauses an entry, why, and until when."""

    why: Text
    by: Text = ""
    until: Instant | None = None


class UnpauseBody(Model):
    """Who unpauses an entry, and why."""

    by: Text = ""
    why: Text = ""


class ReloadBody(Model):
    """Who reloads, and why."""

    by: Text = ""
    why: Text = ""


class TokenBody(Model):
    """A token to create, and why; without `expires_at` it expires after 90 days. `person` is who holds it; without
    one it is a program's, which decides at no gate."""

    name: Name
    role: Role
    person: Annotated[str, Field(max_length=64)] = ""
    expires_at: Instant | None = None
    entries: Annotated[tuple[Name, ...], Field(max_length=100)] = ()
    by: Text = ""
    why: Text = ""


class MuteBody(Model):
    """Which entries to silence, by name or pattern; who, why, and until when."""

    entries: Name
    why: Text
    until: Instant
    by: Text = ""


class UnmuteBody(Model):
    """Which mute to end, as it was written; who does it, and why."""

    entries: Name
    by: Text = ""
    why: Text = ""


class FreezeBody(Model):
    """Which entries to freeze, by name or pattern; who, why, and until when."""

    entries: Name = "*"
    why: Text
    until: Instant
    by: Text = ""


class UnfreezeBody(Model):
    """Which freeze to end, as it was written; who does it, and why."""

    entries: Name = "*"
    by: Text = ""
    why: Text = ""


class ChannelTestBody(Model):
    """The channel to try, and who does it."""

    channel: Name
    by: Text = ""


class RevokeBody(Model):
    """Who revokes a token, and why."""

    by: Text = ""
    why: Text = ""


class AcknowledgeBody(Model):
    """Who acknowledges a finding, why, and until when."""

    why: Text
    until: Instant
    by: Text = ""


class NoteBody(Model):
    """A note about a run, and who writes it."""

    text: Text
    by: Text = ""


class WithdrawBody(Model):
    """Who withdraws an acknowledgement, and why."""

    by: Text = ""
    why: Text = ""


class ErrorDetail(Model):
    """`code` names the kind of error; `hint` is what to do, or null."""

    code: str
    message: str
    hint: str | None


class ErrorResponse(Model):
    """The body of every error."""

    error: ErrorDetail


def json_response(model: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A model as a response, serialized once; FastAPI would validate and serialize it again."""
    return Response(model.model_dump_json(), status, headers, media_type="application/json")
