// Keeps the console's page current: fetches it again, copies what has changed, and keeps counting ages.
// Every page works without this script, but its ages and numbers are then those from when it was loaded.

const FETCH_MS = 5000;
const page = document.getElementById("page");
const toggle = document.getElementById("live");
const liveText = document.getElementById("live-text");
let offset = 0;
let etag = "";
let isPaused = false;

function duration(seconds) {
  const parts = [];
  let left = Math.max(1, Math.floor(seconds));
  if (left < 10) return `${left} s`;
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) {
    const count = Math.floor(left / size);
    left %= size;
    if (count || parts.length) parts.push(count ? `${count} ${unit}` : "");
    if (parts.length === 2) break;
  }
  return parts.filter(Boolean).join(" ");
}

function age(instant) {
  const distance = (Date.now() + offset - instant) / 1000;
  if (Math.abs(distance) < 1) return "now";
  return distance > 0 ? `${duration(distance)} ago` : `in ${duration(-distance)}`;
}

function countOn() {
  if (document.hidden) return;
  for (const each of document.querySelectorAll("time[datetime]")) {
    const text = age(Date.parse(each.dateTime));
    if (each.textContent !== text) each.textContent = text;
  }
}

// Copies the new content of an element without disturbing focus, open details or scrolling.
function takeOver(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(document.importNode(fresh, true));
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(old.nodeName)) return;
  for (const { name, value } of [...fresh.attributes]) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  if (old.nodeName === "TIME") return;
  const children = [...old.childNodes];
  const others = [...fresh.childNodes];
  others.forEach((other, index) => {
    if (index < children.length) takeOver(children[index], other);
    else old.append(document.importNode(other, true));
  });
  for (const extra of children.slice(others.length)) extra.remove();
}

async function refresh() {
  if (document.hidden || isPaused) return;
  try {
    const response = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-cache" });
    const text = await response.text();
    if (isPaused) return;
    if (response.redirected || response.status === 401 || response.status === 403) {
      setPaused(true);
      liveText.textContent = "You are signed out. Load the page again.";
      return;
    }
    const fresh = new DOMParser().parseFromString(text, "text/html");
    if (!response.ok || !fresh.getElementById("page")) {
      liveText.textContent = fresh.querySelector("h1")?.textContent ?? "The server has a problem.";
      return;
    }
    noteTime();
    if (response.headers.get("ETag") === etag && etag) return;
    etag = response.headers.get("ETag") ?? "";
    takeOver(page, fresh.getElementById("page"));
    countOn();
  } catch {
    liveText.textContent = "No answer from the server; trying again.";
  }
}

function setPaused(value) {
  isPaused = value;
  toggle.textContent = value ? "Resume updates" : "Pause updates";
}

// Ages are measured by the server's clock, from which the browser's may differ.
const shownAt = liveText?.querySelector("time");
if (shownAt) offset = Date.parse(shownAt.dateTime) - Date.now();

function noteTime() {
  shownAt.dateTime = new Date(Date.now() + offset).toISOString();
  shownAt.textContent = "now";
  liveText.replaceChildren("Updated ", shownAt);
}

if (document.body.hasAttribute("data-live") && toggle) {
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    setPaused(!isPaused);
    refresh();
  });
  setInterval(refresh, FETCH_MS);
  setInterval(countOn, 1000);
}

// The result message belongs to this visit, not to the address that people bookmark or share.
const here = new URL(location.href);
if (here.searchParams.has("said")) {
  here.searchParams.delete("said");
  history.replaceState(null, "", here);
}
