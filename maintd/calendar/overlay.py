"""The overlay of a calendar, `schedules.local.yaml`: what differs at this site from a calendar that others maintain.

It has the form of a calendar and names only what it changes. The two trees are merged before the calendar is read, so
that the same rules and messages apply; each node keeps the file that it is from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from maintd.calendar.entries import SCHEDULE_KEYS
from maintd.calendar.value_readers import NodeReader, kind, unknown
from maintd.config.yaml_tree import MappingNode, Node, ScalarNode, SequenceNode

TOP_KEYS = ("timezone", "defaults", "entries", "targets", "notify", "freezes")

_Pairs = list[tuple[ScalarNode, Node]]


class OverlayText(NamedTuple):
    """The name and the text of the file."""

    name: str
    text: str


def with_overlay(scope: NodeReader, root: Node, above: Node) -> Node:
    """The calendar's tree with the overlay's changes in it. Adds an error for a name that the calendar does not have.

    1. `timezone`, each key of `defaults` and `notify`, each target and each channel replace that of the calendar, or
       are added.
    2. Each key of an entry replaces that of the entry; any kind of schedule replaces any other.
    3. `steps` as a mapping changes params of single steps, which keep their other params; as a list it replaces them.
       An undo step is `undo-` and the name of the step that it undoes.
    4. In a param that is a mapping, each key replaces that of the calendar, and null removes it.
    """
    if not isinstance(root, MappingNode):
        return root
    changes: _Pairs = []
    for key, value in scope.pairs(above, "an overlay"):
        if key.text.startswith("x-") or (isinstance(value, ScalarNode) and value.empty):
            continue
        base = _value(root, key.text)
        if key.text not in TOP_KEYS:
            scope.error(key, unknown("key", key.text, TOP_KEYS, f"write one of {', '.join(TOP_KEYS)}"))
        elif key.text == "entries":
            changes.append((key, _entries(scope, base, value)))
        elif key.text in ("targets", "notify"):
            changes.append((key, _merged(scope, base, value, levels=2)))
        else:
            changes.append((key, _merged(scope, base, value, levels=1)))
    return _replaced(root, changes)


def removed_by_lists(root: Node, above: Node) -> dict[str, str]:
    """By entry, what a list of steps in the overlay leaves out: steps, and params of those that it keeps."""
    found = {}
    own = dict(_named(_value(root, "entries")))
    for name, (_, entry) in _named(_value(above, "entries")):
        before = own[name][1] if name in own else None
        texts = [text for key in ("steps", "always") for text in _left_out(_value(before, key), _value(entry, key))]
        if texts:
            found[name] = "; ".join(texts)
    return found


def _left_out(before: Node | None, after: Node | None) -> Iterator[str]:
    if not isinstance(before, SequenceNode) or not isinstance(after, SequenceNode):
        return
    kept = dict(_params_of_steps(after))
    removed = [name for name, _ in _params_of_steps(before) if name not in kept]
    if removed:
        yield f"without {', '.join(removed)}"
    for name, params in _params_of_steps(before):
        lost = [param for param in params if param not in kept.get(name, params)]
        if lost:
            yield f"{name} without its {', '.join(lost)}"


def _params_of_steps(steps: SequenceNode) -> Iterator[tuple[str, list[str]]]:
    """The steps of a list by the names that they have in an entry, each with the names of its params."""
    counts: dict[str, int] = {}
    for step in steps.items:
        job = _job_of(step)
        counts[job] = counts.get(job, 0) + 1
        params: Node | None = None
        if _value(step, "job") is not None:
            params = _value(step, "params")
        elif isinstance(step, MappingNode) and step.items:
            params = step.items[0][1]
        names = [key.text for key, _ in (*params.items, *params.merged)] if isinstance(params, MappingNode) else []
        yield job if counts[job] == 1 else f"{job}-{counts[job]}", names


def _entries(scope: NodeReader, base: Node | None, above: Node) -> Node:
    found: _Pairs = []
    known = dict(_named(base))
    for key, value in scope.pairs(above, "entries", "entry"):
        if key.text in known:
            own_key, own = known[key.text]
            found.append((own_key, _entry(scope.within(f'entry "{key.text}"'), own, value)))
        else:
            otherwise = "an overlay changes entries of the calendar; write a new entry into the calendar"
            scope.error(key, unknown("entry", key.text, known, otherwise))
    return _replaced(base, found)


def _entry(scope: NodeReader, base: Node, above: Node) -> Node:
    if not isinstance(base, MappingNode):
        return base
    changes: _Pairs = []
    steps: Node | None = None
    for key, value in scope.pairs(above, "an entry"):
        if key.text == "steps" and isinstance(value, MappingNode):
            steps = value
        elif key.text == "params":
            if _value(base, "job") is None:
                scope.error(key, "the entry has steps; write steps: {NAME: {param: value}}")
            else:
                changes.append((key, _params(scope, _value(base, "params"), value)))
        else:
            changes.append((key, value))
    if any(key.text in SCHEDULE_KEYS for key, _ in changes):
        base = _without(base, SCHEDULE_KEYS)
    base = _replaced(base, changes)
    return base if steps is None else _with_steps(scope, base, steps)


def _with_steps(scope: NodeReader, entry: MappingNode, above: Node) -> MappingNode:
    """The entry, in which each named step has the overlay's params. Steps are named as in `with_unique_names`."""
    given = {key.text: (key, value) for key, value in scope.pairs(above, "steps", "step")}
    counts: dict[str, int] = {}
    known: list[str] = []

    def changed(step: Node) -> Node:
        job = _job_of(step)
        counts[job] = counts.get(job, 0) + 1
        name = job if counts[job] == 1 else f"{job}-{counts[job]}"
        known.append(name)
        if name in given:
            step = _with_params(scope.within(f'step "{name}"'), step, given[name][1])
        undo = _value(step, "undo")
        if undo is None or not isinstance(step, MappingNode):
            return step
        known.append(f"undo-{name}")
        if known[-1] in given:
            changed_undo = _with_params(scope.within(f'step "{known[-1]}"'), _in_full(undo), given[known[-1]][1])
            step = _replaced(step, [(_key(step, "undo"), changed_undo)])
        return step

    if _value(entry, "job") is not None:
        known.append(_job_of(entry))
        if known[0] in given:
            key, value = given[known[0]]
            params = _params(scope.within(f'step "{known[0]}"'), _value(entry, "params"), value)
            entry = _replaced(entry, [(_key(entry, "params", key), params)])
    lists: _Pairs = []
    for name in ("steps", "always"):
        node = _value(entry, name)
        if node is not None:
            items = tuple(changed(step) for step in scope.items(node))
            lists.append((_key(entry, name), SequenceNode(node.line, node.column, items, file=node.file)))
    for name, (key, _) in given.items():
        if name not in known:
            scope.error(key, unknown("step", name, known, f"the steps are {', '.join(known)}"))
    return _replaced(entry, lists)


def _job_of(step: Node) -> str:
    if isinstance(step, MappingNode):
        job = _value(step, "job")
        return _job_of(job) if job is not None else next((key.text for key, _ in step.items), "")
    return step.text.strip() if isinstance(step, ScalarNode) else ""


def _in_full(undo: Node) -> Node:
    """`undo: JOB` as `undo: {job: JOB}`."""
    if not isinstance(undo, ScalarNode):
        return undo
    return MappingNode(undo.line, undo.column, ((ScalarNode(undo.line, undo.column, "job"), undo),), file=undo.file)


def _with_params(scope: NodeReader, step: Node, above: Node) -> Node:
    if isinstance(step, ScalarNode):
        return MappingNode(step.line, step.column, ((step, _params(scope, None, above)),))
    if not isinstance(step, MappingNode) or not step.items:
        return step
    if _value(step, "job") is not None:
        key = _key(step, "params")
        return _replaced(step, [(key, _params(scope, _value(step, "params"), above))])
    name, params = step.items[0]
    return _replaced(step, [(name, _params(scope, params, above))])


def _params(scope: NodeReader, base: Node | None, above: Node) -> Node:
    """The params of a step; the overlay's replace those of the calendar, mappings key by key."""
    if isinstance(above, ScalarNode) and above.empty:
        return above if base is None else base
    if not isinstance(above, MappingNode):
        scope.error(above, f"params must be a mapping of names and values, not {kind(above)}")
        return above
    changes: _Pairs = []
    for key, value in scope.pairs(above, "params", "param"):
        changes.append((key, _param(scope.within(f'param "{key.text}"'), _value(base, key.text), value)))
    # What is required and missing is reported where the calendar has the params.
    return _replaced(base, changes) if isinstance(base, MappingNode) else _like(above, changes)


def _param(scope: NodeReader, base: Node | None, above: Node) -> Node:
    if not isinstance(base, MappingNode) or not isinstance(above, MappingNode):
        return above
    changes: _Pairs = []
    removed: list[str] = []
    for key, value in scope.pairs(above, "a param"):
        own = _value(base, key.text)
        if not (isinstance(value, ScalarNode) and value.empty):
            changes.append((key, _param(scope, own, value)))
        elif own is None:
            names = [name for name, _ in _named(base)]
            scope.error(key, unknown("key to remove", key.text, names, f"the keys are {', '.join(names)}"))
        else:
            removed.append(key.text)
    return _like(above, _replaced(_without(base, removed), changes).items)


def _merged(scope: NodeReader, base: Node | None, above: Node, levels: int) -> Node:
    """The mapping with the overlay's keys in it, down to `levels` levels; below them, values are replaced."""
    if levels == 0 or not isinstance(base, MappingNode) or not isinstance(above, MappingNode):
        return above
    pairs = scope.pairs(above, "a mapping")
    return _replaced(base, [(key, _merged(scope, _value(base, key.text), value, levels - 1)) for key, value in pairs])


def _named(node: Node | None) -> Iterable[tuple[str, tuple[ScalarNode, Node]]]:
    if isinstance(node, MappingNode):
        # Of a key that occurs twice, which is an error, the first.
        yield from ((key.text, (key, value)) for key, value in reversed((*node.items, *node.merged)))


def _value(node: Node | None, name: str) -> Node | None:
    return None if (pair := dict(_named(node)).get(name)) is None else pair[1]


def _key(node: MappingNode, name: str, place: Node | None = None) -> ScalarNode:
    """The key of the mapping; for one that it does not have a new one, at the place of another node."""
    pair = dict(_named(node)).get(name)
    place = place or node
    return ScalarNode(place.line, place.column, name) if pair is None else pair[0]


def _without(node: MappingNode, names: Iterable[str]) -> MappingNode:
    return _like(node, [(key, value) for key, value in (*node.items, *node.merged) if key.text not in names])


def _replaced(node: Node | None, changes: _Pairs) -> MappingNode:
    """The mapping with these pairs in the place of those with the same key; new keys are last."""
    new: Mapping[str, tuple[ScalarNode, Node]] = {pair[0].text: pair for pair in changes}
    base = node if isinstance(node, MappingNode) else MappingNode(1, 1, ())
    own = (*base.items, *base.merged)
    names = {key.text for key, _ in own}
    pairs = [new.get(key.text, (key, value)) for key, value in own]
    return _like(base, [*pairs, *(pair for name, pair in new.items() if name not in names)])


def _like(node: Node, pairs: Iterable[tuple[ScalarNode, Node]]) -> MappingNode:
    """A mapping at the place of a node."""
    return MappingNode(node.line, node.column, tuple(pairs), file=node.file)
