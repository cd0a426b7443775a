// Sews a small quilt on the front page; without scripts, its form opens the quilt's own page.

const LIVE_MS = 150; // between two requests for squares
const LIMIT_MS = 60000; // after this, only the quilt's own page goes on
const JSON_ONLY = { headers: { Accept: "application/json" }, cache: "no-store" };

const element = (id) => document.getElementById(id);
const pause = (milliseconds) => new Promise((resume) => setTimeout(resume, milliseconds));

function sew([row, column, color], sewn) {
  // An answer may have squares that were painted after its number was read.
  if (sewn.has(`${row},${column}`)) return;
  sewn.add(`${row},${column}`);
  const patch = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  patch.setAttribute("class", "patch");
  patch.setAttribute("x", column);
  patch.setAttribute("y", row);
  patch.setAttribute("fill", color);
  element("live-patches").append(patch);
}

function tell(text) {
  if (element("live-status").textContent !== text) element("live-status").textContent = text;
}

async function follow(address) {
  let after = 0;
  const sewn = new Set();
  const endsAt = performance.now() + LIMIT_MS;
  while (performance.now() < endsAt) {
    const response = await fetch(`${address}.json?after=${after}`, JSON_ONLY);
    if (!response.ok) throw new Error(response.statusText);
    const operation = await response.json();
    for (const square of operation.response?.squares ?? []) sew(square, sewn);
    after = operation.metadata.step;
    if (operation.done) return tell(operation.metadata.message);
    await pause(LIVE_MS);
  }
  return tell("This quilt is waiting for workers.");
}

async function start(event) {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const body = new URLSearchParams(new FormData(form));
    const response = await fetch(form.action, { ...JSON_ONLY, method: "POST", body });
    const answer = await response.json();
    if (response.ok) {
      element("live-patches").replaceChildren();
      element("live-link").href = `/${answer.name}`;
      element("live-link").hidden = false;
      tell("The workers have it.");
      await follow(`/${answer.name}`);
    } else {
      tell(answer.error?.message ?? "Nothing was started. Please try again later.");
    }
  } catch {
    tell("The server is unavailable. Please try again.");
  }
  button.disabled = false;
}

element("live-form").addEventListener("submit", start);
