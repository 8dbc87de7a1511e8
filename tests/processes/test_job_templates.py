"""Templates of single jobs: used when they make no difference to an attempt, and only then."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from support.nodes import Node, is_alive, node, only
from support.servers.base import wait_for

from maintd.executor.fork_server import USUAL_SPARES
from maintd.executor.opening import LooksAroundError, open_for_many
from maintd.job.description import load_job
from maintd.model.run import RunState

pytestmark = pytest.mark.slow

SEEN = """
    with open(params.into, "a") as file:
        file.write(f"{os.getppid()} {VALUE}\\n")
"""


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Node]:
    with node(tmp_path) as made:
        yield made


def write(here: Node, name: str, value: str, body: str = SEEN, more: str = "") -> str:
    """A job whose module has VALUE, worked out while it is loaded; its name."""
    path = here.jobs_dir / f"{name}.py"
    source = f'"""A job of a test."""\n\nimport os, sys, time\nfrom maintd.job import Context, JobParams, job\n{more}\n'
    source += f"VALUE = {value}\n\n\nclass Params(JobParams):\n    into: str = ''\n\n\n"
    source += f'@job(timeout="1m")\ndef run(ctx: Context, params: Params) -> None:\n{body}\n'
    path.write_text(source, encoding="utf-8")
    here.jobs[name] = load_job(path).description
    return name


def expect(here: Node, name: str, times: int = 1) -> None:
    """As the daemon does shortly before the job is due."""
    here.executor.expect(None)
    here.executor.expect(here.store.now(), lambda: {name: times})


def have_template(here: Node, name: str) -> int:
    """Wait until the job has a template of its own; its number."""
    expect(here, name)
    wait_for(lambda: here.executor.is_warm_for(name), f"a template of {name}")
    return number_of(here, name)


def number_of(here: Node, name: str) -> int:
    path = here.jobs[name].path
    found = here.executor._warm._job_templates._of[path].pid
    assert found is not None
    return found


def seen(here: Node, name: str, times: int = 1) -> list[tuple[int, str]]:
    """What so many runs, one after the other, wrote down: their parent and VALUE."""
    into = here.folder / f"{name}.seen"
    into.unlink(missing_ok=True)
    for _ in range(times):
        run = here.ended(here.queue(here.step(name, {"into": str(into)})))
        assert run.state is RunState.SUCCEEDED, run.reason
    lines = [line.split(" ", 1) for line in into.read_text().splitlines()]
    return [(int(parent), value) for parent, value in lines]


def test_an_expected_job_is_forked_from_a_template_that_has_it_loaded(here: Node) -> None:
    name = write(here, "plain", "6 * 7")

    own = have_template(here, name)

    assert seen(here, name, 3) == [(own, "42")] * 3
    assert psutil.Process(own).ppid() == here.executor._warm.pid


def test_as_many_children_wait_as_will_be_due_at_once_and_are_not_replaced(tmp_path: Path) -> None:
    with node(tmp_path, slots=12) as here:
        name = write(here, "crowd", "1")
        expect(here, name, 30)
        wait_for(lambda: here.executor.is_warm_for(name), "a template")
        own = psutil.Process(number_of(here, name))
        wait_for(lambda: len(own.children()) == 12, "a child for each slot")

        here.executor.expect(None)
        seen(here, name, 10)
        wait_for(lambda: len(own.children()) == USUAL_SPARES, "the usual number")

        expect(here, name, 30)
        wait_for(lambda: len(own.children()) == 12, "as many again")


def test_a_job_that_runs_often_gets_one_by_itself(here: Node) -> None:
    name = write(here, "often", "1")
    template = seen(here, name)[0][0]

    parents = {parent for parent, _ in seen(here, name, 12)}

    assert parents - {template}


def test_no_attempt_finds_what_another_left_in_the_module(here: Node) -> None:
    body = "    VALUE.append(len(VALUE))\n" + SEEN
    name = write(here, "grows", "[]", body)
    own = have_template(here, name)

    assert seen(here, name, 4) == [(own, "[0]")] * 4


def test_an_edited_job_is_live_at_its_next_run(here: Node) -> None:
    name = write(here, "edited", "'old'")
    have_template(here, name)
    assert seen(here, name)[0][1] == "old"

    write(here, name, "'new'")

    assert {value for _, value in seen(here, name, 3)} == {"new"}
    have_template(here, name)
    assert seen(here, name)[0][1] == "new"


def test_a_module_of_its_own_that_is_edited_counts_too(here: Node) -> None:
    helper = here.jobs_dir / "its_helper_module.py"
    helper.write_text("SAID = 'old'\n")
    more = "sys.path.insert(0, os.path.dirname(__file__)); import its_helper_module"
    name = write(here, "helped", "its_helper_module.SAID", more=more)
    have_template(here, name)
    assert seen(here, name)[0][1] == "old"

    helper.write_text("SAID = 'renewed'\n")

    assert seen(here, name)[0][1] == "renewed"


LOOKS = {
    "time": ("time.time()", "time is called"),
    "date": ("__import__('datetime').date.today()", "today is called"),
    "datetime": ("__import__('datetime').datetime.now()", "now is called"),
    "environment": ("os.environ.get('HOME')", "os.environ is called"),
    "getenv": ("os.getenv('HOME')", "os.environ is called"),
    "mapping": ("'HOME' in os.environ", "os.environ is called"),
    "process": ("os.getpid()", "getpid is called"),
    "file": ("__import__('pathlib').Path(__file__).read_text()[:3]", "open"),
    "path": ("__import__('pathlib').Path(__file__).exists()", "stat is called"),
    "chance": ("__import__('random').random()", "random is called"),
    "uuid": ("__import__('uuid').uuid4()", "urandom is called"),
    "host": ("__import__('socket').gethostname()", "gethostname is called"),
    "program": ("__import__('subprocess').run(['true']).returncode", "is called"),
    "left open": ("os.open(os.devnull, os.O_RDONLY)", "open is called"),
    "thread": ("__import__('threading').Thread(target=time.sleep, args=(0.3,)).start()", "start_new_thread is called"),
    "print": ("print('hello')", "print is called"),
    "output": ("sys.stdout.write('hello')", "write is called"),
    "logging": ("__import__('logging').warning('hello')", "is called"),
    "by a library": ("__import__('maintd.clock').clock.SystemClock().now()", "now is called"),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_module_that_looks_at_the_world_is_not_loaded_for_many(tmp_path: Path, look: str) -> None:
    path = tmp_path / "looking.py"
    expression, why = LOOKS[look]
    source = f"import os, sys, time\nfrom maintd.job import job\nVALUE = {expression}\n"
    path.write_text(source + "@job()\ndef run(ctx, params): ...\n")

    with pytest.raises(LooksAroundError, match=why):
        open_for_many(path)


def test_one_that_only_defines_is_fit_for_it(tmp_path: Path) -> None:
    path = tmp_path / "defining.py"
    path.write_text(
        "import re, threading\nfrom dataclasses import dataclass\nfrom datetime import timedelta\n"
        "from enum import Enum\nfrom pathlib import Path\nfrom typing import Literal\nimport structlog\n"
        "from pydantic import BaseModel, Field, field_validator\nfrom maintd.job import JobParams, job\n"
        "log = structlog.get_logger()\nLOCK = threading.Lock()\nEVENT = threading.Event()\n"
        "HERE = Path(__file__).parent / 'x'\nWORDS = re.compile(r'\\\\w+')\nDAY = timedelta(days=1)\n"
        "class Kind(Enum):\n    A = 'a'\n"
        "@dataclass\nclass Thing:\n    name: str\n    size: int = 0\n"
        "class Inner(BaseModel):\n    kind: Kind = Kind.A\n"
        "class Params(JobParams):\n    inner: Inner = Inner()\n    mode: Literal['x', 'y'] = Field('x')\n"
        "    @field_validator('mode')\n    def check(cls, value): return value\n"
        "@job()\ndef run(ctx, params): ...\n"
    )

    assert open_elsewhere([path]).split() == [str(path)]


def test_a_library_that_leaves_a_thread_behind_makes_it_unfit(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/starts_a_thread.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(0.5,)).start()\n"
    )
    (tmp_path / "jobs").mkdir()
    path = tmp_path / "jobs/threaded.py"
    path.write_text("from maintd.job import job\nimport starts_a_thread\n@job()\ndef run(ctx, params): ...\n")

    told = open_elsewhere([path], PYTHONPATH=str(tmp_path / "elsewhere"))

    assert "a thread was started" in told


def test_the_shipped_jobs_are_all_fit_for_it() -> None:
    jobs = [path for path in (Path(__file__).parents[2] / "jobs").glob("*.py") if not path.name.startswith("_")]

    told = open_elsewhere(jobs)

    assert len(jobs) >= 15
    assert told.split() == [str(path) for path in jobs]


def open_elsewhere(jobs: Sequence[Path], **environ: str) -> str:
    """Open these in a process that has no other threads, as a template has none: what it prints, errors too."""
    code = (
        "import sys; from pathlib import Path; from maintd.executor import template\n"
        "from maintd.job.description import imports_of\n"
        "from maintd.executor.opening import open_for_many\n"
        "for path in map(Path, sys.argv[1:]): template._load(imports_of(path)); print(open_for_many(path).path)\n"
    )
    words = [sys.executable, "-c", code, *map(str, jobs)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | environ)
    return done.stdout + done.stderr


def test_what_a_module_works_out_is_as_fresh_as_ever_when_it_looks(here: Node) -> None:
    name = write(here, "dated", "time.time()")
    expect(here, name)
    first = seen(here, name, 4)

    assert len({value for _, value in first}) == 4
    assert {parent for parent, _ in first} == {here.executor._warm.pid}
    assert not here.executor.is_warm_for(name)


def test_a_module_that_cannot_be_loaded_fails_its_run_and_nothing_else(here: Node) -> None:
    name = write(here, "broken", "1")
    here.jobs[name].path.write_text("raise RuntimeError('not today')\n")
    expect(here, name)

    run = here.ended(here.queue(here.step(name)))

    assert run.state is RunState.FAILED
    assert "not today" in run.reason
    assert seen(here, write(here, "fine", "1"))[0][1] == "1"


def test_a_module_that_hangs_while_it_is_loaded_leaves_no_process(here: Node) -> None:
    name = write(here, "hanging_module", "1")
    source = here.jobs[name].path.read_text()
    here.jobs[name].path.write_text(source + "while True: pass\n")
    expect(here, name)
    template = psutil.Process(wait_for(lambda: here.executor._warm.pid, "a template"))
    session = os.getsid(template.pid)

    def loading() -> list[int]:
        return [child.pid for child in template.children() if os.getsid(child.pid) == session]

    wait_for(loading, "it is loaded")
    wait_for(lambda: not loading(), "it is given up", seconds=40)
    assert not here.executor.is_warm_for(name)
    expect(here, name)
    time.sleep(0.5)
    assert not loading()


SLEEPS = "    open(params.into, 'w').write(str(os.getppid()))\n    time.sleep(1.5)"


def running_below(here: Node, name: str) -> tuple[int, int, int]:
    """A run of SLEEPS under way: its id, its process, the process that forked it."""
    into = here.folder / f"{name}.parent"
    run_id = here.queue(here.step(name, {"into": str(into)}))
    wait_for(lambda: into.exists() and into.read_text(), "it runs")
    return run_id, here.running(run_id).pid or 0, int(into.read_text())


def test_a_killed_job_template_takes_its_attempts_with_it_and_that_is_said(here: Node) -> None:
    name = write(here, "orphaned", "1", SLEEPS)
    own = have_template(here, name)
    run_id, pid, parent = running_below(here, name)
    assert parent == own

    os.kill(own, signal.SIGKILL)

    run = here.ended(run_id)
    assert run.state is RunState.FAILED
    assert not is_alive(pid)
    assert only(run).reason
    assert here.ended(here.queue(here.step(name, {"into": str(here.folder / "x")}))).state is RunState.SUCCEEDED


def test_a_killed_template_leaves_its_jobs_templates_to_do_what_they_do(here: Node) -> None:
    name = write(here, "survivor", "1", SLEEPS)
    own = have_template(here, name)
    run_id, _, _ = running_below(here, name)
    template = here.executor._warm.pid
    assert template is not None

    os.kill(template, signal.SIGKILL)

    assert here.ended(run_id).state is RunState.SUCCEEDED
    assert seen(here, write(here, "next_one", "1"))[0][0] not in (own, template)
    wait_for(lambda: not psutil.pid_exists(own), "it ends and is reaped", seconds=30)


def test_one_that_is_out_of_date_ends_with_its_last_attempt(here: Node) -> None:
    name = write(here, "outdated", "1", SLEEPS)
    own = have_template(here, name)
    run_id, pid, _ = running_below(here, name)

    write(here, name, "2")
    assert seen(here, name)[0][1] == "2"
    assert is_alive(pid)

    assert here.ended(run_id).state is RunState.SUCCEEDED
    wait_for(lambda: not is_alive(own), "it ends")


def test_none_grows_old(here: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    name = write(here, "aging", "1")
    own = have_template(here, name)

    monkeypatch.setattr("maintd.executor.jobtemplates.MOST_AGE", 0.0)

    assert seen(here, name)[0][0] != own
    wait_for(lambda: not is_alive(own), "it ends")


def test_they_are_few_and_those_that_nobody_uses_go_first(here: Node) -> None:
    names = [write(here, f"job{number}", str(number)) for number in range(6)]
    numbers = [have_template(here, name) for name in names]

    alive = [number for number in numbers if is_alive(number)]

    assert 1 <= len(alive) <= 4
    assert numbers[-1] in alive


def test_nothing_is_left_when_the_executor_stops(tmp_path: Path) -> None:
    with node(tmp_path) as made:
        own = have_template(made, write(made, "last", "1"))
        processes = [own, *(child.pid for child in psutil.Process(own).children())]
        deadline = time.monotonic() + 2
        while len(processes) < 2 and time.monotonic() < deadline:
            processes = [own, *(child.pid for child in psutil.Process(own).children())]
    assert not [number for number in processes if is_alive(number)]
