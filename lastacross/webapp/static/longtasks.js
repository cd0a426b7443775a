// Keeps the list of a visitor's long tasks up to date while some of them are running. The server renders it,
// and this copies only the changes, so that the scroll position and the focus stay.

const POLL_MS = 2000;
const HIDDEN_MS = 10000;
const ENDS = ["done", "failed", "cancelled"];

const list = document.getElementById("longtasks");

const rows = (root) => [...root.querySelectorAll(".longtask-rows > li")];

function copyText(from, to) {
  if (to.textContent !== from.textContent) to.textContent = from.textContent;
}

function copyBar(from, to) {
  to.max = from.max;
  if (from.hasAttribute("value")) to.value = from.value;
  else to.removeAttribute("value");
}

function update(row, fresh) {
  for (const place of row.querySelectorAll("[data-of]")) {
    const source = fresh.querySelector(`[data-of="${place.dataset.of}"]`);
    if (!source) place.remove();
    else if (place.dataset.of === "bar") copyBar(source, place);
    else copyText(source, place);
    if (source) place.className = source.className;
  }
  if (row.dataset.state === fresh.dataset.state) return null;
  row.dataset.state = fresh.dataset.state;
  return `${row.querySelector(".longtask-name").textContent}: ${fresh.dataset.state}.`;
}

function show(page) {
  const known = new Map(rows(list).map((row) => [row.dataset.id, row]));
  const news = [];
  let previous = null;
  for (const fresh of rows(page)) {
    let row = known.get(fresh.dataset.id);
    if (row) {
      news.push(update(row, fresh));
    } else {
      row = document.importNode(fresh, true); // started in another tab in the meantime
      if (previous) previous.after(row);
      else list.querySelector(".longtask-rows").prepend(row);
    }
    previous = row;
  }
  document.title = page.title;
  copyText(page.getElementById("counts"), document.getElementById("counts"));
  const said = news.filter(Boolean).join(" ");
  if (said) document.getElementById("news").textContent = said;
}

const isOver = () => rows(list).every((row) => ENDS.includes(row.dataset.state));

async function refresh() {
  try {
    const response = await fetch(location.href, { headers: { Accept: "text/html" }, cache: "no-store" });
    if (response.ok) show(new DOMParser().parseFromString(await response.text(), "text/html"));
  } catch {
    // The server is unavailable, perhaps only briefly.
  }
  if (!isOver()) setTimeout(refresh, document.hidden ? HIDDEN_MS : POLL_MS);
}

setTimeout(refresh, POLL_MS);
