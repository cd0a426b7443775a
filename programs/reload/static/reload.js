// The page of one reload: updates its numbers, and its failing and slowest accounts.

import { Feed } from "/_ah/static/feed.js";
import { duration, element, quarter, say, write } from "/_ah/static/text.js";

const CLOCK_MS = 200;
const ASK_MS = 250; // the stream announces changes; one request fetches several

const box = element("run");
const loadedAt = performance.now();
const elapsedAtLoad = Number(box.dataset.elapsed);

// --- the tables --------------------------------------------------------------------------

function cell(kind, text, className, label) {
  const made = document.createElement(kind);
  made.textContent = text;
  if (label) made.dataset.label = label; // shown on a phone, where each row is a card
  if (className) made.className = className;
  if (kind === "th") made.scope = "row";
  return made;
}

function row(result) {
  const made = document.createElement("tr");
  const answer = result.http_status === null ? result.answer : `${result.http_status}: ${result.answer}`;
  made.append(
    cell("th", result.account),
    cell("td", `${result.duration_ms.toLocaleString("en")} ms`, "number", "Took"),
    cell("td", String(result.attempts), "number", "Attempts"),
    cell("td", answer, "goods", "Response"),
  );
  return made;
}

function showTable(id, results) {
  element(id).replaceChildren(...results.map(row));
  element(`${id}-box`).hidden = results.length === 0;
  element(`${id}-none`).hidden = results.length > 0;
}

// A next page may appear in the meantime, and may begin elsewhere while accounts are still failing.
function showPages(after) {
  const next = element("failing-next");
  next.hidden = !after;
  if (!after) return;
  element("failing-pages").hidden = false;
  const address = new URL(next.href);
  address.searchParams.set("after", after);
  next.href = address;
}

// --- the numbers -------------------------------------------------------------------------

function showNumbers({ metadata }) {
  const { numbers, texts } = metadata;
  for (const name of ["done", "failed", "remaining"]) write(name, numbers[name].toLocaleString("en"));
  write("retrying", metadata.retrying.toLocaleString("en"));
  element("retrying-box").hidden = metadata.retrying === 0;
  write("rate", texts.rate);
  write("count", texts.count);
  write("percent", `${metadata.percent} %`);
  write("headline", metadata.headline);
  say(metadata.headline, `${metadata.state} ${quarter(metadata.percent)}`);
  element("bar").value = numbers.done + numbers.failed;
  element("eta-box").hidden = texts.remaining === "";
  write("eta", texts.remaining);
  const retry = element("retry"); // only for visitors who may retry
  if (retry) retry.hidden = !metadata.can_retry;
  document.title = `${metadata.mark} – ${box.dataset.name} – Last Across`;
}

function showTime() {
  write("duration", duration(elapsedAtLoad + (performance.now() - loadedAt) / 1000));
}

function showEnd({ metadata }) {
  clearInterval(clock);
  write("duration", metadata.texts.duration);
  write("mode", "This reload is kept for up to 30 days: bookmark the page, or share its address.");
}

// --- news --------------------------------------------------------------------------------

const MODES = {
  stream: "Live: numbers appear immediately. Bookmark the page: the work continues if you close it.",
  poll: "The page updates every few seconds. Bookmark it: the work continues if you close it.",
};

// The stream only announces changes; a request then fetches several of them together.
class ReloadFeed extends Feed {
  address() {
    return this.url;
  }

  hear(news) {
    if ((news.change <= this.after && !news.complete) || this.isAskingSoon) return;
    this.isAskingSoon = true;
    setTimeout(() => {
      this.isAskingSoon = false;
      this.ask();
    }, ASK_MS);
  }

  take(operation) {
    const { metadata, response } = operation;
    this.after = Math.max(this.after, metadata.change);
    box.className = `run is-${metadata.state}`;
    showTable("failing", response?.failing ?? []);
    showPages(response?.failing_after);
    showTable("slowest", response?.slowest ?? []);
    showNumbers(operation);
    if (operation.done) showEnd(operation);
  }

  onMode(mode) {
    box.dataset.mode = mode;
    if (MODES[mode]) write("mode", MODES[mode]);
  }
}

let clock = null;

if (["ready", "running"].includes(box.dataset.state)) {
  clock = setInterval(showTime, CLOCK_MS);
  showTime();
  new ReloadFeed(box.dataset).start();
}
