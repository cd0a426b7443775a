// Updates the page of a long task while it runs; the server has rendered the initial page completely.

import { Feed } from "./feed.js";
import { duration, element, quarter, say, write } from "./text.js";

const CLOCK_MS = 200;
const ENDS = ["done", "failed", "cancelled"];
const SAID_MS = 1500; // a screen reader must finish an announcement before the page reloads

const box = element("longtask");
// In an application's own frame, its name may follow.
const siteName = document.title.split(`– ${box.dataset.title}`)[1] ?? "";

let state = box.dataset.state;
let status = box.dataset.status; // the state as a sentence from the server
let clockFrom = performance.now() - 1000 * Number(box.dataset.elapsed); // when it began, by this page's clock
let nextTryAt = box.dataset.nextTry === "" ? null : performance.now() + 1000 * Number(box.dataset.nextTry);
let newestAt = 0; // of the displayed messages
let clock = null;

// --- what is shown -----------------------------------------------------------------------

function number(value) {
  return value.toLocaleString("en");
}

function countText({ step, total_steps: total }) {
  if (total) return `Step ${number(step)} of ${number(total)}`;
  if (step) return `Step ${number(step)}`;
  return ENDS.includes(state) ? "" : "Number of steps unknown";
}

// A message from the stream and an operation's metadata both have these.
function showProgress(news) {
  const { step, total_steps: total, percent } = news;
  const bar = element("bar");
  if (state === "done") {
    bar.value = bar.max;
  } else if (percent === null || !total) {
    bar.removeAttribute("value");
  } else {
    bar.max = total;
    bar.value = Math.min(step, total);
  }
  write("count", countText(news));
  write("percent", percent === null ? "" : `${percent} %`);
  write("message", news.message ?? "");
  write("remaining", news.eta_text ?? "");
  element("remaining-box").hidden = !news.eta_text;
  write("attempts", String(news.attempts ?? news.attempt));
  const mark = ENDS.includes(state) || percent === null ? state[0].toUpperCase() + state.slice(1) : `${percent} %`;
  document.title = `${mark} – ${box.dataset.title}${siteName}`;
}

function showHeadline({ percent, attempts, attempt }) {
  const number = state === "running" && percent ? `${percent} % done.` : "";
  const isAgain = (attempts ?? attempt) > 1;
  const text = number === "" ? status : isAgain ? `${status} ${number}` : number;
  write("headline", text);
  say(text, `${status} ${number === "" ? 0 : quarter(percent)}`);
}

function showTrouble(metadata) {
  element("trouble").hidden = !metadata.error;
  write("error", metadata.error);
  const seconds = metadata.next_try_seconds;
  nextTryAt = seconds === null ? null : performance.now() + 1000 * seconds;
  element("next").hidden = nextTryAt === null;
  write("next-attempt", String(metadata.attempts + 1));
  write("next-at", metadata.next_try_text);
  showTimes();
}

function showTimes() {
  write("elapsed", duration(Math.max(0, (performance.now() - clockFrom) / 1000)));
  if (nextTryAt === null) return;
  const seconds = Math.ceil((nextTryAt - performance.now()) / 1000);
  write("next-in", seconds > 0 ? `, in ${seconds} s` : ", any moment now");
}

// The server renders the end, because the result may be anything. Do not disturb a visitor who is typing.
function showEnd(metadata) {
  clearInterval(clock);
  write("elapsed", duration(metadata.elapsed_seconds));
  if (nextTryAt !== null) element("next").hidden = true;
  element("cancel")?.remove();
  if (element("other")?.contains(document.activeElement)) {
    write("mode", "It has ended: reload the page to see more.");
  } else {
    setTimeout(() => location.reload(), SAID_MS);
  }
}

// --- news --------------------------------------------------------------------------------

const MODES = {
  stream: "Live. Bookmark this page and come back whenever you like: the work continues if you close it.",
  poll: "The page updates every few seconds. Bookmark it and come back whenever you like: the work continues if you close it.",
};

class LongTaskFeed extends Feed {
  address() {
    return this.url;
  }

  hear(news) {
    if (news.state !== state || !("step" in news)) {
      this.ask();
    } else if (news.at >= newestAt) {
      newestAt = news.at;
      showProgress(news);
      showHeadline(news);
    }
  }

  take({ metadata }) {
    ({ state, status } = metadata);
    box.className = `longtask is-one is-${state}`;
    clockFrom = performance.now() - 1000 * metadata.elapsed_seconds;
    // The JSON's message is never empty.
    const hasMessage = metadata.message !== metadata.status;
    showProgress({ ...metadata, message: hasMessage ? metadata.message : "" });
    showHeadline(metadata);
    showTrouble(metadata);
    element("blind").hidden = !metadata.is_blind;
    if (metadata.started_at) write("started", `${metadata.started_at.slice(0, 19).replace("T", " ")} UTC`);
    if (ENDS.includes(state)) showEnd(metadata);
  }

  onMode(mode) {
    box.dataset.mode = mode;
    if (MODES[mode]) write("mode", MODES[mode]);
  }
}

element("other")?.removeAttribute("hidden");
clock = setInterval(showTimes, CLOCK_MS);
showTimes();
new LongTaskFeed({ ...box.dataset, after: 0 }).start();
