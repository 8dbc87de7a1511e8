// Updates the page of a run until the run ends. Without JavaScript the page reloads every ten seconds.
"use strict";
(() => {
  const INTERVAL = 1000; // milliseconds between two updates
  const PAGE_EVERY = 3; // updates of the log per update of the rest of the page
  const MAX_LINES = 5000; // kept in the page
  const log = document.getElementById("lines");
  let live = document.getElementById("live");
  if (!log || !live || live.dataset.final === "yes" || log.dataset.more === "yes") return;
  const run = live.dataset.run;
  let cursor = log.dataset.cursor;
  let section = [...log.querySelectorAll(".where")].map((header) => header.dataset.section).pop() || "";
  let updates = 0;

  const paragraph = (kind, ...parts) => {
    const element = document.createElement("p");
    element.className = kind;
    element.append(...parts);
    return element;
  };

  const add = (line) => {
    const at = `${line.step} ${line.attempt}`;
    if (at !== section) {
      section = at;
      log.append(paragraph("where", line.attempt > 1 ? `${line.step}, attempt ${line.attempt}` : line.step));
    }
    const time = document.createElement("time");
    time.dateTime = line.at;
    time.textContent = new Date(line.at).toISOString().slice(11, 23);
    const stream = document.createElement("span");
    stream.className = "stream";
    stream.textContent = line.stream;
    // textContent and append insert text, never markup: a job may print anything.
    log.append(paragraph(`from-${line.stream}`, time, " ", ...(line.stream === "log" ? [] : [stream, " "]), line.text));
  };

  const readLog = async () => {
    const after = cursor ? `&after=${encodeURIComponent(cursor)}` : "";
    const response = await fetch(`/api/v1/runs/${run}/log?limit=1000${after}`);
    if (!response.ok) return false;
    const page = await response.json();
    if (page.lines.length) {
      const followed = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      log.querySelector(".empty")?.remove();
      page.lines.forEach(add);
      while (log.children.length > MAX_LINES) log.firstElementChild.remove();
      if (followed) log.scrollTop = log.scrollHeight;
      cursor = page.cursor;
    }
    return page.final;
  };

  const readPage = async () => {
    const response = await fetch(`/runs/${run}`);
    if (!response.ok) return;
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    const part = fresh.getElementById("live");
    if (!part) return;
    document.title = fresh.title;
    const open = [...live.querySelectorAll("details")].map((item) => item.open);
    const focused = live.contains(document.activeElement);
    if (!focused || part.dataset.final === "yes") {
      const replacement = document.importNode(part, true);
      [...replacement.querySelectorAll("details")].forEach((item, index) => (item.open = open[index] || false));
      live.replaceWith(replacement);
      live = replacement;
    }
  };

  const update = async () => {
    let final = false;
    try {
      final = await readLog();
      if (final || ++updates % PAGE_EVERY === 0) await readPage();
    } catch {
      // The daemon does not answer; the next update tries again.
    }
    if (!final) setTimeout(update, INTERVAL);
  };

  setTimeout(update, INTERVAL);
})();
