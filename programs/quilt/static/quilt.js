// The page of one quilt: the cloth, the numbers beside it, and the announcements for screen readers.

import { Cloth } from "./cloth.js";
import { Feed } from "/_ah/static/feed.js";
import { duration, element, quarter, roughly, say, write } from "/_ah/static/text.js";

const RATE_WINDOW_MS = 3000;
const CLOCK_MS = 200;
const BUCKET_MS = 100; // the chart counts the squares of each tenth of a second, as pace.py does
const MAX_BARS = 60;
const CHART_HEIGHT = 20;

const box = document.getElementById("quilt");
const rows = Number(box.dataset.rows);
const columns = Number(box.dataset.columns);
const total = rows * columns;
const loadedAt = performance.now();
const elapsedAtLoad = Number(box.dataset.elapsed);

let state = box.dataset.state;
let failed = Number(box.dataset.failed);
let eta = null;
let recent = [];

// --- numbers -----------------------------------------------------------------------------

function headline(percent) {
  if (state === "ready" && cloth.count === 0) return "Waiting for the first square.";
  if (state === "ready" || state === "running") {
    return percent > 0 ? `${percent} % done.` : "Under way.";
  }
  return finalHeadline;
}

let finalHeadline = element("headline").textContent;

function showNumbers() {
  const percent = Math.floor((100 * cloth.count) / total);
  const text = `${cloth.count} of ${total} ${total === 1 ? "square" : "squares"} done`;
  write("count", text);
  write("percent", `${percent} %`);
  write("headline", headline(percent));
  showHealing();
  say(headline(percent), `${state} ${cloth.count > 0} ${quarter(percent)}`);
  write("failed", String(failed));
  element("failed-box").hidden = failed === 0;
  element("bar").value = cloth.count;
  cloth.describe(text);
  const name = `Quilt ${rows} × ${columns} – Last Across`;
  const mark = { done: "Done", failed: "Failed", cancelled: "Cancelled" }[state] ?? `${percent} %`;
  document.title = `${mark} – ${name}`;
}

function showTimes() {
  if (document.hidden) cloth.flush();
  const now = performance.now();
  write("elapsed", duration(elapsedAtLoad + (now - loadedAt) / 1000));
  showWorkers();
  showPace();
  recent.push([now, cloth.count]);
  while (recent.length > 2 && now - recent[0][0] > RATE_WINDOW_MS) recent.shift();
  const seconds = (now - recent[0][0]) / 1000;
  if (seconds < 1) return; // keep the server's numbers for the first second
  const rate = (cloth.count - recent[0][1]) / seconds;
  write("rate", rate >= 10 ? String(Math.round(rate)) : rate.toFixed(1));
  const left = total - cloth.count - failed;
  const isKnown = cloth.count >= 3 && cloth.count >= total / 20 && left > 0;
  const seen = isKnown ? (rate > 0 ? left / rate : eta) : null;
  element("remaining-box").hidden = seen === null;
  write("remaining", seen === null ? "" : roughly(seen));
}

// --- workers and pace --------------------------------------------------------------------

const buckets = new Map(
  box.dataset.buckets.split(" ").filter(Boolean).map((pair) => pair.split(":").map(Number)),
);
const workers = new Map();
for (const item of document.querySelectorAll("#workers li")) {
  workers.set(Number(item.dataset.worker), Number(item.querySelector("b").textContent));
}

function sew(row, column, color, worker, afterMs) {
  if (!cloth.sew(row, column, color, worker)) return;
  if (worker) workers.set(worker, (workers.get(worker) ?? 0) + 1);
  if (afterMs === null || afterMs === undefined) return;
  const bucket = Math.floor(afterMs / BUCKET_MS);
  buckets.set(bucket, (buckets.get(bucket) ?? 0) + 1);
}

function showWorkers() {
  for (const number of [...workers.keys()].sort((one, other) => one - other)) {
    let item = document.querySelector(`#workers [data-worker="${number}"]`);
    if (!item) {
      item = document.createElement("li");
      item.dataset.worker = number;
      item.append(`worker ${number}: `, document.createElement("b"));
      element("workers").append(item);
    }
    item.querySelector("b").textContent = String(workers.get(number));
  }
  element("workers-box").hidden = workers.size === 0;
}

function showPace() {
  element("pace").hidden = buckets.size === 0;
  if (buckets.size === 0) return;
  const length = [...buckets.keys()].reduce((most, bucket) => Math.max(most, bucket), 0) + 1;
  const width = Math.ceil(length / MAX_BARS);
  const bars = new Array(Math.ceil(length / width)).fill(0);
  for (const [bucket, count] of buckets) bars[Math.floor(bucket / width)] += count;
  const most = Math.max(...bars);
  const step = MAX_BARS / bars.length;
  const path = bars.map((bar, at) => {
    const top = (CHART_HEIGHT - (CHART_HEIGHT * bar) / most).toFixed(2);
    const [left, right] = [at * step, (at + 0.85) * step].map((place) => place.toFixed(2));
    return bar ? `M${left} ${CHART_HEIGHT}V${top}H${right}V${CHART_HEIGHT}Z` : "";
  });
  element("pace-path").setAttribute("d", path.join(""));
  write("pace-most", Math.round((most * 1000) / (width * BUCKET_MS)).toLocaleString("en"));
}

// --- a killed worker ---------------------------------------------------------------------

let killed = null;

function showKill({ killed: worker, squares }) {
  const cut = squares.filter(([row, column]) => cloth.cutOff(row, column));
  killed = { worker, cut };
  element("heal").hidden = false;
  showHealing();
}

function showHealing() {
  if (killed === null) return;
  const { worker, cut } = killed;
  const left = cut.filter(([row, column]) => !cloth.isSewn(row, column)).length;
  const begin = `Worker ${worker} was killed in the middle of ${cut.length} squares.`;
  const end = left > 0 ? `${left} of them are still missing.` : "All of them came back: their tasks ran again.";
  write("heal", cut.length > 0 ? `${begin} ${end}` : `Worker ${worker} was killed between two squares.`);
}

element("kill")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  await fetch(event.target.action, { method: "POST" }).catch(() => {});
});

// --- news --------------------------------------------------------------------------------

function onState(operation) {
  cloth.flush(); // before the state changes, because that is announced once, with its own headline
  failed = operation.metadata.failed;
  eta = operation.metadata.eta_seconds;
  state = operation.metadata.state;
  if (operation.done) showEnd(operation);
  showNumbers();
}

function showEnd({ metadata }) {
  clearInterval(clock);
  showWorkers();
  showPace();
  finalHeadline = metadata.message;
  box.className = `quilt is-${state}`;
  const seconds = (Date.parse(metadata.finished_at) - Date.parse(metadata.created_at)) / 1000;
  const rate = metadata.step / Math.max(seconds, 0.001);
  write("elapsed", duration(seconds));
  write("rate", rate >= 10 ? String(Math.round(rate)) : rate.toFixed(1));
  element("remaining-box").hidden = true;
  element("cancel")?.remove();
  element("kill")?.remove();
  element("again").classList.remove("quiet");
  write("mode", "This quilt is kept for up to 30 days: bookmark the page, or share its address.");
}

const MODES = {
  stream: "Live: squares appear as they are done. Bookmark the page: the work continues if you close it, and anybody with the address may watch.",
  poll: "The page updates every few seconds. Bookmark it: the work continues if you close it, and anybody with the address may watch.",
};

// Squares are numbered in the order of colouring, from 1; the stream may deliver them out of order.
class QuiltFeed extends Feed {
  ahead = new Set();

  hear(news) {
    if (news.complete) {
      this.ask();
      return;
    }
    if (news.killed) {
      showKill(news);
      return;
    }
    sew(news.row, news.column, news.color, news.worker, news.after_ms);
    if (news.position > this.after) this.ahead.add(news.position);
    while (this.ahead.delete(this.after + 1)) this.after += 1;
  }

  hasGap() {
    return this.ahead.size > 0;
  }

  take(operation) {
    const { squares = [], painters = [] } = operation.response ?? {};
    squares.forEach((square, index) => sew(...square, ...(painters[index] ?? [])));
    this.after = Math.max(this.after, operation.metadata.step);
    this.ahead = new Set([...this.ahead].filter((position) => position > this.after));
    onState(operation);
  }

  onMode(mode) {
    box.dataset.mode = mode;
    if (MODES[mode]) write("mode", MODES[mode]);
  }
}

const cloth = new Cloth(box.querySelector(".board"), rows, columns, showNumbers);
let clock = null;

if (["ready", "running"].includes(state)) {
  clock = setInterval(showTimes, CLOCK_MS);
  showTimes();
  new QuiltFeed(box.dataset).start();
}
