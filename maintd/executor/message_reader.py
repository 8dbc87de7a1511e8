"""Reads the messages of a child without trusting them: bytes in, valid evidence out, counts for the outcome."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maintd.config.artifact_files import LONGEST_PATH, open_artifact
from maintd.errors import JobError
from maintd.executor.child_protocol import MAX_MESSAGE, ChildStarted, JobEnded, decode
from maintd.executor.evidence_limits import MAX_ITEM_BYTES, EvidenceLimits, shortened
from maintd.model.evidence import (
    Artifact,
    Change,
    ChangeState,
    Check,
    CheckStatus,
    Handed,
    LogLine,
    LogTrim,
    Phase,
    Report,
)
from maintd.redaction import mask_output_values, replace_secrets

LONGEST_PHASE = 500
LONGEST_IN_REASON = 300
"""Characters of each text of a check in the reason of the outcome."""

NAMED = 20
"""Checks of each status that are kept for the reason of the outcome."""

MAX_HANDED, MAX_HANDED_BYTES = 50, 32 * 1024
"""Values that one attempt may hand over, and the size of each as the child sent it."""

NOT_REDACTED = frozenset({"type", "status", "state", "stream", "sha256"})
"""Fields with values of maintd, not of the job: a secret that equals one of them is not replaced there."""

NOT_MASKED = NOT_REDACTED | {"path", "media_type", "at"}
"""Fields whose form means nothing: a file is found by its path."""

_OUTCOMES = frozenset(ChangeState) - {ChangeState.INTENDED, ChangeState.PLANNED}

_SEVERITY = {CheckStatus.OK: 0, CheckStatus.WARN: 1, CheckStatus.UNKNOWN: 2, CheckStatus.FAIL: 3}


class MessageReader:
    """Everything that a child has reported so far. No message raises an error here."""

    def __init__(self, artifacts_root: Path, artifacts_dir: Path | str) -> None:
        self._root = artifacts_root
        self._folder = artifacts_dir
        self._buffer = bytearray()
        self._overlong = False
        self.began: ChildStarted | None = None
        self.ended: JobEnded | None = None
        self.protocol_error = ""
        self.ignored = 0  # messages after the last one
        self.phase = ""
        self.has_effects = False  # any check, change or artifact
        self.worst = CheckStatus.OK
        self.failed: list[Check] = []
        self.failed_count = 0
        self.warned: list[str] = []
        self.warned_count = 0
        self.unobserved: list[str] = []  # required checks that are unknown
        self.unobserved_count = 0
        self.handed: dict[str, Any] = {}  # by name
        self.saved: set[str] = set()  # names of artifacts
        self._limits = EvidenceLimits()
        self._changes_left_out = False
        self._intended: dict[int, Change] = {}  # by number; what became of them was not reported yet

    def feed(self, data: bytes) -> Iterator[Report | ChildStarted | JobEnded]:
        """Add bytes of the child's report; yield the valid messages in them."""
        new = len(self._buffer)  # there is no newline before it
        self._buffer += data
        end = self._buffer.rfind(b"\n", new)
        lines = self._buffer[:end].split(b"\n") if end >= 0 else []
        del self._buffer[: end + 1]
        for line in lines:
            if self._overlong:
                self._overlong = False  # the end of what was thrown away
            elif line:
                yield from self._message(bytes(line))
        if len(self._buffer) > MAX_MESSAGE:
            self._broken(f"a message of more than {MAX_MESSAGE} bytes")
            self._overlong = True
        if self._overlong:
            self._buffer.clear()

    def end(self) -> None:
        """Note that the child has closed its report."""
        if self._buffer and self.ended is None and not self._overlong:
            self._broken("it ended in the middle of a message")
        self._buffer.clear()

    def _broken(self, what: str) -> None:
        if not self.protocol_error:
            self.protocol_error = what

    def _message(self, line: bytes) -> Iterator[Report | ChildStarted | JobEnded]:
        if self.ended is not None:
            self.ignored += 1
            return
        try:
            item = decode(line)
        except JobError as error:
            self._broken(error.message)
            return
        match item:
            case ChildStarted():
                if self.began is not None:
                    self._broken("it reported twice that it began")
                    return
                self.began = item
            case JobEnded():
                self.ended = item
            case LogLine():
                item = item.model_copy(update={"stream": "log"})
            case LogTrim():
                self._broken("it sent a trim of the log")
                return
            case Check():
                self._tally(item)
            case Phase():
                self.phase = item.name[:LONGEST_PHASE]
                item = item.model_copy(update={"name": self.phase})
            case Handed():
                if len(line) > MAX_HANDED_BYTES or len(self.handed.keys() | {item.name}) > MAX_HANDED:
                    self._broken(f'the value "{item.name[:100]}" is too large, or one too many, to be handed over')
                    return
                self.handed[item.name] = item.value
            case Artifact():
                kept = self._kept(item)
                if kept is None:
                    self._broken(f'the artifact "{item.name}" is not a file in the folder of this attempt')
                    return
                item = kept
                self.saved.add(item.name)
        self.has_effects = self.has_effects or isinstance(item, Check | Change | Artifact)
        if isinstance(item, Change) and item.number in self._intended and item.state is not ChangeState.INTENDED:
            if len(line) <= MAX_ITEM_BYTES:  # else it remains uncertain
                del self._intended[item.number]
                yield item
            return
        if self._changes_left_out and isinstance(item, Change) and item.state in _OUTCOMES:
            return  # of a change that was left out and counted when it was intended
        admitted = self._limits.admit(item, len(line))
        if isinstance(item, Change) and item.state is ChangeState.INTENDED:
            if admitted is None:
                self._changes_left_out = True
            else:
                self._intended[item.number] = item
        if admitted is not None:
            yield admitted

    @property
    def left_out(self) -> str:
        """What of the evidence was over a limit, as a clause; empty when nothing was."""
        return self._limits.left_out

    def _tally(self, check: Check) -> None:
        """Count a check, whether it is stored or not. What is kept for the reason is short."""
        check = shortened(check, LONGEST_IN_REASON)
        if check.optional and check.status is CheckStatus.UNKNOWN:
            return
        if _SEVERITY[check.status] > _SEVERITY[self.worst]:
            self.worst = check.status
        if check.status is CheckStatus.FAIL:
            self.failed_count += 1
            # A cause before what follows from it, and otherwise in their order.
            self.failed = sorted([*self.failed, check], key=lambda item: bool(item.because))[:NAMED]
        elif check.status is CheckStatus.UNKNOWN:
            self.unobserved_count += 1
            if len(self.unobserved) < NAMED:
                self.unobserved.append(check.name)
        elif check.status is CheckStatus.WARN:
            self.warned_count += 1
            if len(self.warned) < NAMED:
                self.warned.append(check.name)

    def uncertain_changes(self, cause: str) -> list[Change]:
        """Return the changes whose outcome was not reported, as uncertain, and forget them."""
        left = [
            change.model_copy(update={"state": ChangeState.UNCERTAIN, "cause": cause})
            for change in self._intended.values()
        ]
        self._intended.clear()
        return left

    def _kept(self, artifact: Artifact) -> Artifact | None:
        """Return it with its path made relative; None when that is not a plain file of this attempt."""
        folder, name = os.path.split(artifact.path)
        if len(artifact.path) > LONGEST_PATH or os.path.normpath(folder) != os.path.normpath(self._folder):
            return None
        relative = str(Path(self._folder).relative_to(self._root) / name)
        try:
            file = open_artifact(self._root, relative)
        except OSError:  # also: deleted since it was reported
            return None
        size = os.fstat(file).st_size
        os.close(file)
        return artifact.model_copy(update={"path": relative, "size_bytes": size})


def redacted(item: Any, secrets: tuple[str, ...]) -> Any:
    """Return an item with every secret in the job's texts replaced by `***`, and what `mask_output` masks."""
    values = item.model_dump()
    shown = {name: value if name in NOT_REDACTED else _redacted(value, secrets) for name, value in values.items()}
    shown = {name: value if name in NOT_MASKED else mask_output_values(value) for name, value in shown.items()}
    return item if shown == values else type(item).model_validate(shown)


def _redacted(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        return replace_secrets(value, secrets)
    if isinstance(value, dict):
        return {_redacted(key, secrets): _redacted(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_redacted(item, secrets) for item in value)
    return value
