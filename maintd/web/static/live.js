// Keeps a run's page up to date while the run goes on. Without it the page is loaded anew every ten seconds.
"use strict";
(() => {
  const PAUSE = 1000; // milliseconds between two looks
  const PAGE_EVERY = 3; // looks at the log for one at the rest of the page
  const MOST_LINES = 5000; // kept in the page
  const log = document.getElementById("lines");
  let live = document.getElementById("live");
  if (!log || !live || live.dataset.final === "yes" || log.dataset.more === "yes") return;
  const run = live.dataset.run;
  let cursor = log.dataset.cursor;
  let place = [...log.querySelectorAll(".where")].map((mark) => mark.dataset.place).pop() || "";
  let looks = 0;

  const paragraph = (kind, ...parts) => {
    const made = document.createElement("p");
    made.className = kind;
    made.append(...parts);
    return made;
  };

  const add = (line) => {
    const at = `${line.step} ${line.attempt}`;
    if (at !== place) {
      place = at;
      log.append(paragraph("where", line.attempt > 1 ? `${line.step}, attempt ${line.attempt}` : line.step));
    }
    const time = document.createElement("time");
    time.dateTime = line.at;
    time.textContent = new Date(line.at).toISOString().slice(11, 23);
    const stream = document.createElement("span");
    stream.className = "stream";
    stream.textContent = line.stream;
    // textContent and append never read markup, whatever a job printed.
    log.append(paragraph(`from-${line.stream}`, time, " ", ...(line.stream === "log" ? [] : [stream, " "]), line.text));
  };

  const readLog = async () => {
    const after = cursor ? `&after=${encodeURIComponent(cursor)}` : "";
    const answer = await fetch(`/api/v1/runs/${run}/log?limit=1000${after}`);
    if (!answer.ok) return false;
    const page = await answer.json();
    if (page.lines.length) {
      const followed = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      log.querySelector(".empty")?.remove();
      page.lines.forEach(add);
      while (log.children.length > MOST_LINES) log.firstElementChild.remove();
      if (followed) log.scrollTop = log.scrollHeight;
      cursor = page.cursor;
    }
    return page.final;
  };

  const readPage = async () => {
    const answer = await fetch(`/runs/${run}`);
    if (!answer.ok) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const part = fresh.getElementById("live");
    if (!part) return;
    document.title = fresh.title;
    const open = [...live.querySelectorAll("details")].map((item) => item.open);
    const focused = live.contains(document.activeElement);
    if (!focused || part.dataset.final === "yes") {
      const kept = document.importNode(part, true);
      [...kept.querySelectorAll("details")].forEach((item, index) => (item.open = open[index] || false));
      live.replaceWith(kept);
      live = kept;
    }
  };

  const look = async () => {
    let final = false;
    try {
      final = await readLog();
      if (final || ++looks % PAGE_EVERY === 0) await readPage();
    } catch {
      // The daemon is away; the next look may find it back.
    }
    if (!final) setTimeout(look, PAUSE);
  };

  setTimeout(look, PAUSE);
})();
