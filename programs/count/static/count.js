// The page of one counting run: updates intervals, queues and the backend's log.

import { Feed } from "/_ah/static/feed.js";
import { duration, element, quarter, roughly, say, write } from "/_ah/static/text.js";

const CLOCK_MS = 200;
const ASK_MS = 250; // the stream announces changes; one request fetches several
const LINES_SHOWN = 500; // the number that the server keeps
const LAST_CHANGE = 999999999; // no change comes after it
const REST_MS = 1500; // after the end, when the task that announced it has left its queue

const box = element("run");
const shownNumbers = Number(box.dataset.shownNumbers);
const loadedAt = performance.now();
const elapsedAtLoad = Number(box.dataset.elapsed);

// --- intervals ---------------------------------------------------------------------------

function showInterval(interval) {
  const item = element("intervals").querySelector(`[data-place="${interval.place}"]`);
  const text = item.querySelector(".text");
  if (text.textContent !== interval.text) text.textContent = interval.text;
  item.className = interval.numbers ? "is-counted" : interval.instance ? "is-counting" : "";
  const bar = item.querySelector("progress");
  if (!interval.numbers) {
    bar.value = interval.counted;
  } else if (bar) {
    bar.replaceWith(result(interval.numbers));
  }
}

function result(numbers) {
  const all = document.createElement("p");
  all.textContent = numbers.join(", ");
  if (numbers.length <= shownNumbers) {
    all.className = "result";
    return all;
  }
  const details = document.createElement("details");
  details.className = "result";
  const summary = document.createElement("summary");
  summary.textContent = `${numbers.slice(0, 8).join(", ")}, …, ${numbers.slice(-2).join(", ")}`;
  details.append(summary, all);
  return details;
}

// --- queues ------------------------------------------------------------------------------

function showQueues(queues) {
  element("queues-away").hidden = queues !== null;
  element("queues").hidden = queues === null;
  for (const queue of queues ?? []) {
    const place = element("queues").querySelector(`[data-queue="${queue.queue}"]`);
    const texts = {
      ...queue,
      oldest_eta: queue.oldest_eta?.slice(11, 19),
      enforced_rate: queue.enforced_rate === null ? null : `${queue.enforced_rate}/s`,
    };
    for (const number of place.querySelectorAll("[data-of]")) {
      const text = String(texts[number.dataset.of] ?? "-");
      if (number.textContent !== text) number.textContent = text;
    }
  }
}

async function showQueuesAtRest() {
  try {
    const headers = { Accept: "application/json" };
    const response = await fetch(`${box.dataset.url}?after=${LAST_CHANGE}`, { headers, cache: "no-store" });
    if (response.ok) showQueues((await response.json()).metadata.queues);
  } catch {
    // The server is unavailable: keep the last values.
  }
}

// --- the log -----------------------------------------------------------------------------

function showLines(lines) {
  if (lines.length === 0) return;
  const log = element("log");
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  for (const line of lines) {
    const item = document.createElement("li");
    const time = document.createElement("time");
    time.dateTime = line.at;
    time.textContent = line.at.slice(11, 19);
    const instance = document.createElement("span");
    instance.className = "instance";
    instance.textContent = line.instance;
    const text = document.createElement("span");
    text.textContent = line.text;
    item.append(time, " ", instance, " ", text);
    log.append(item);
  }
  while (log.children.length > LINES_SHOWN) log.firstElementChild.remove();
  element("log-empty").hidden = true;
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

// --- the numbers beside them -------------------------------------------------------------

function showNumbers({ metadata, done }) {
  const { counted, total } = metadata.numbers;
  const percent = Math.floor((100 * counted) / total);
  const word = metadata.total_steps === 1 ? "interval" : "intervals";
  write("count", `${metadata.step} of ${metadata.total_steps} ${word} counted`);
  write("percent", `${percent} %`);
  write("counted", `${counted.toLocaleString("en")} of ${total.toLocaleString("en")}`);
  write("headline", metadata.headline);
  say(metadata.headline, `${metadata.state} ${quarter(percent)}`);
  write("failed", String(metadata.failed));
  element("failed-box").hidden = metadata.failed === 0;
  element("bar").value = counted;
  const eta = done ? null : metadata.eta_seconds;
  element("remaining-box").hidden = !eta;
  write("remaining", eta ? roughly(eta) : "");
  const mark = done ? metadata.state[0].toUpperCase() + metadata.state.slice(1) : `${percent} %`;
  document.title = `${mark} – ${box.dataset.name} – Last Across`;
}

function showTime() {
  write("elapsed", duration(elapsedAtLoad + (performance.now() - loadedAt) / 1000));
}

function showEnd({ metadata }) {
  clearInterval(clock);
  if (metadata.finished_at) {
    write("elapsed", duration((Date.parse(metadata.finished_at) - Date.parse(metadata.created_at)) / 1000));
  }
  element("cancel")?.remove();
  element("again").classList.remove("quiet");
  setTimeout(showQueuesAtRest, REST_MS);
  write("mode", "This run is kept for up to 30 days: bookmark the page, or share its address.");
}

// --- news --------------------------------------------------------------------------------

const MODES = {
  stream: "Live: numbers and log lines appear immediately. Bookmark the page: the work continues if you close it.",
  poll: "The page updates every few seconds. Bookmark it: the work continues if you close it.",
};

// The stream only announces changes; a request then fetches several of them together.
class RunFeed extends Feed {
  hear({ change }) {
    if (change <= this.after || this.isAskingSoon) return;
    this.isAskingSoon = true;
    setTimeout(() => {
      this.isAskingSoon = false;
      this.ask();
    }, ASK_MS);
  }

  take(operation) {
    const { metadata, response } = operation;
    for (const interval of response?.intervals ?? []) showInterval(interval);
    showLines((response?.log ?? []).filter((line) => line.number > this.after));
    this.after = Math.max(this.after, metadata.change);
    box.className = `run is-${metadata.state}`;
    showQueues(metadata.queues);
    showNumbers(operation);
    if (operation.done) showEnd(operation);
  }

  onMode(mode) {
    box.dataset.mode = mode;
    if (MODES[mode]) write("mode", MODES[mode]);
  }
}

element("log").scrollTop = element("log").scrollHeight;
let clock = null;

if (["ready", "running"].includes(box.dataset.state)) {
  clock = setInterval(showTime, CLOCK_MS);
  showTime();
  new RunFeed(box.dataset).start();
}
