// Updates the front page's numbers while somebody watches.

const FRESH_MS = 5000;

async function refresh() {
  if (document.hidden) return;
  try {
    const response = await fetch("/", { headers: { Accept: "application/json" }, cache: "no-store" });
    if (!response.ok) return;
    const numbers = await response.json();
    for (const place of document.querySelectorAll("[data-number]")) {
      place.textContent = numbers[place.dataset.number].toLocaleString("en");
    }
  } catch {
    // The server is unavailable: keep the last numbers.
  }
}

setInterval(refresh, FRESH_MS);
