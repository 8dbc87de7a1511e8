"""Text for terminals: 80 columns by default, colour on request, a word beside every symbol.

Pure. The daemon renders `maintd status` with it; the commands render everything else.
"""

from __future__ import annotations

from maintd.present.findings import acknowledgement_text, finding_text, findings_text
from maintd.present.lists import due_text, job_text, jobs_text, log_line_text, settings_text, tokens_text
from maintd.present.live import LiveRun, progress_text, report_lines
from maintd.present.runs import exit_code_of, run_text, runs_text, skip_text, start_text
from maintd.present.status import entry_text, headline, status_text
from maintd.present.text import ago, from_now, utc_minute

__all__ = [
    "LiveRun",
    "acknowledgement_text",
    "ago",
    "due_text",
    "entry_text",
    "exit_code_of",
    "finding_text",
    "findings_text",
    "from_now",
    "headline",
    "job_text",
    "jobs_text",
    "log_line_text",
    "progress_text",
    "report_lines",
    "run_text",
    "runs_text",
    "settings_text",
    "skip_text",
    "start_text",
    "status_text",
    "tokens_text",
    "utc_minute",
]
