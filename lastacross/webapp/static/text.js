// Writes into a page: elements by their id, and durations as people write them, in the server's format.

export const element = (id) => document.getElementById(id);

// Writing the same text again would repeat a screen reader's announcement, and cost layout.
export function write(id, text) {
  const target = element(id);
  if (target.textContent !== text) target.textContent = text;
}

let saidMark = null;

// Announces a text to screen readers, but only when the mark has changed, such as the quarter that is done.
export function say(text, mark) {
  if (mark === saidMark) return;
  saidMark = mark;
  write("said", text);
}

export const quarter = (percent) => Math.min(3, Math.floor(percent / 25));

export function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
}

// Round the time, because one that jumps around is worse than none.
export function roughly(seconds) {
  if (seconds < 10) return "a few seconds";
  if (seconds < 55) return `about ${Math.ceil(seconds / 10) * 10} s`;
  return `about ${Math.round(seconds / 60)} min`;
}
