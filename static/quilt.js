// The page of one quilt: the cloth, the numbers beside it, and what is said aloud.

import { Cloth } from "./cloth.js";
import { Feed } from "./feed.js";

const RATE_WINDOW_MS = 3000;
const CLOCK_MS = 200;

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

const element = (id) => document.getElementById(id);

// Writing the same text again would make a screen reader's live region speak again, and costs layout.
function write(id, text) {
  const target = element(id);
  if (target.textContent !== text) target.textContent = text;
}

function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
}

// A rough time only: one that jumps about is worse than none.
function roughly(seconds) {
  if (seconds < 10) return "a few seconds";
  if (seconds < 55) return `about ${Math.ceil(seconds / 10) * 10} s`;
  return `about ${Math.round(seconds / 60)} min`;
}

// --- numbers -----------------------------------------------------------------------------

function headline() {
  if (state === "ready" && cloth.count === 0) return "Waiting for the first square.";
  if (state === "ready" || state === "running") {
    const quarter = Math.min(3, Math.floor((4 * cloth.count) / total)); // the end is the server's to say
    return ["Under way.", "A quarter is done.", "Half is done.", "Three quarters are done."][quarter];
  }
  return finalHeadline;
}

let finalHeadline = element("headline").textContent;

function showNumbers() {
  const percent = Math.floor((100 * cloth.count) / total);
  const text = `${cloth.count} of ${total} ${total === 1 ? "square" : "squares"} done`;
  write("count", text);
  write("percent", `${percent} %`);
  write("headline", headline());
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
  recent.push([now, cloth.count]);
  while (recent.length > 2 && now - recent[0][0] > RATE_WINDOW_MS) recent.shift();
  const seconds = (now - recent[0][0]) / 1000;
  if (seconds < 1) return; // the server's numbers stand until there is a second of our own
  const rate = (cloth.count - recent[0][1]) / seconds;
  write("rate", rate >= 10 ? String(Math.round(rate)) : rate.toFixed(1));
  const left = total - cloth.count - failed;
  const isKnown = cloth.count >= 3 && cloth.count >= total / 20 && left > 0;
  const seen = isKnown ? (rate > 0 ? left / rate : eta) : null;
  element("remaining-box").hidden = seen === null;
  write("remaining", seen === null ? "" : roughly(seen));
}

// --- news --------------------------------------------------------------------------------

function onState(operation) {
  failed = operation.metadata.failed;
  eta = operation.metadata.eta_seconds;
  state = operation.metadata.state;
  cloth.flush();
  if (operation.done) showEnd(operation);
  showNumbers();
}

function showEnd({ metadata }) {
  clearInterval(clock);
  finalHeadline = metadata.message;
  box.className = `quilt is-${state}`;
  const seconds = (Date.parse(metadata.finished_at) - Date.parse(metadata.created_at)) / 1000;
  const rate = metadata.step / Math.max(seconds, 0.001);
  write("elapsed", duration(seconds));
  write("rate", rate >= 10 ? String(Math.round(rate)) : rate.toFixed(1));
  element("remaining-box").hidden = true;
  element("cancel")?.remove();
  element("again").classList.remove("quiet");
  write("mode", "This quilt is kept: bookmark the page, or send its address to somebody.");
}

const MODES = {
  stream: "Live: squares come as they are done. Bookmark the page: the work goes on without it, and anybody with the address may watch.",
  poll: "The page asks every few seconds. Bookmark it: the work goes on without it, and anybody with the address may watch.",
};

function onMode(mode) {
  box.dataset.mode = mode;
  if (MODES[mode]) write("mode", MODES[mode]);
}

const cloth = new Cloth(box.querySelector(".board"), rows, columns, showNumbers);
let clock = null;

if (["ready", "running"].includes(state)) {
  const { url, token, after } = box.dataset;
  const feed = new Feed({ url, token, after: Number(after) }, {
    onSquare: (row, column, color) => cloth.sew(row, column, color),
    onState,
    onMode,
  });
  clock = setInterval(showTimes, CLOCK_MS);
  showTimes();
  feed.start();
}
