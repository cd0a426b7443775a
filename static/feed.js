// Where news of a quilt comes from: a stream while one can be had, else asking again and again.
//
// Every square has a number, 1 for the first that was coloured. `after` is the highest number below
// which nothing is missing here, so asking for the squares after it fills any gap: one that a lost
// message, a sleeping laptop or an emptied Redis has left.

const POLL_DELAYS_MS = [1000, 2000, 5000]; // nothing new: ask less often
const WATCH_MS = 2500; // a stream that was silent for so long is checked by asking once
const STREAM_AGAIN_MS = 30000; // after a refusal
const HIDDEN_MS = 60000; // a page that nobody sees gives its connection back
const STREAMS_A_BROWSER = 3; // of the six connections that a browser opens to one place

export class Feed {
  // handlers: onSquare(row, column, color), onState(operation), onMode("stream" | "poll" | "over")
  constructor({ url, token, lastId, after }, handlers) {
    this.url = url;
    this.token = token;
    this.lastId = lastId;
    this.after = after;
    this.ahead = new Set();
    this.handlers = handlers;
    this.isOver = false;
    this.mode = null;
    this.step = 0;
    this.etag = null;
    this.heard = 0;
    this.timer = null;
    this.isAsking = false;
  }

  start() {
    document.addEventListener("visibilitychange", () => this.onVisibility());
    this.openStream();
  }

  // --- the stream -----------------------------------------------------------------------

  async openStream() {
    if (this.isOver || this.socket) return;
    const Channel = globalThis.goog?.appengine?.Channel;
    if (!Channel || !this.token || document.hidden || !(await this.takePlace())) {
      this.poll();
      return;
    }
    this.setMode("stream");
    this.socket = new Channel(this.token, { lastEventId: this.lastId }).open({
      onopen: () => this.ask(), // what came before the stream was open
      onmessage: (message) => this.onMessage(message),
      onerror: () => this.loseStream(),
      onclose: () => this.loseStream(),
    });
    this.schedule(() => this.watch(), WATCH_MS);
  }

  onMessage(message) {
    this.heard += 1;
    const news = JSON.parse(message.data);
    if (news.complete) {
      this.ask();
    } else {
      this.handlers.onSquare(news.row, news.column, news.color);
      this.count(news.position);
    }
  }

  count(position) {
    if (position > this.after) this.ahead.add(position);
    while (this.ahead.delete(this.after + 1)) this.after += 1;
  }

  async watch() {
    const wasSilent = this.heard === 0;
    this.heard = 0;
    if (wasSilent || this.ahead.size > 0) await this.ask();
    if (!this.isOver && this.mode === "stream") this.schedule(() => this.watch(), WATCH_MS);
  }

  loseStream() {
    if (!this.socket) return;
    this.closeStream();
    if (this.isOver) return;
    this.lastId = null; // asking fills what a new stream would have to replay
    setTimeout(() => this.openStream(), STREAM_AGAIN_MS);
    this.poll();
  }

  closeStream() {
    const socket = this.socket;
    this.socket = null;
    this.leavePlace?.();
    this.leavePlace = null;
    socket?.close();
  }

  // A seventh tab must still get answers: a browser opens six connections to one place, and each
  // stream keeps one, so the tabs of a browser share a few places. Resolves to false when all are taken.
  async takePlace() {
    if (!navigator.locks) return true;
    for (let place = 0; place < STREAMS_A_BROWSER; place += 1) {
      const isMine = await new Promise((answer) => {
        navigator.locks.request(`lastacross-stream-${place}`, { ifAvailable: true }, (lock) => {
          answer(lock !== null);
          return lock && new Promise((leave) => (this.leavePlace = leave));
        });
      });
      if (isMine) return true;
    }
    return false;
  }

  onVisibility() {
    clearTimeout(this.hiddenTimer);
    if (this.isOver) return;
    if (document.hidden) {
      this.hiddenTimer = setTimeout(() => this.loseStream(), HIDDEN_MS);
    } else {
      this.step = 0;
      this.ask();
      this.openStream();
    }
  }

  // --- asking ---------------------------------------------------------------------------

  async poll() {
    this.setMode("poll");
    const delay = await this.ask();
    if (!this.isOver && this.mode === "poll") this.schedule(() => this.poll(), delay);
  }

  // Ask once for what is new; resolves to the milliseconds to wait before the next time.
  async ask() {
    if (this.isOver) return 0;
    if (this.isAsking) {
      this.mustAskAgain = true;
      return POLL_DELAYS_MS[0];
    }
    this.isAsking = true;
    let delay;
    try {
      delay = await this.fetchNews();
    } catch {
      delay = this.slower(); // the network is away: it may come back
    }
    this.isAsking = false;
    if (this.mustAskAgain) {
      this.mustAskAgain = false;
      return this.ask();
    }
    return delay;
  }

  async fetchNews() {
    const headers = { Accept: "application/json" };
    if (this.etag) headers["If-None-Match"] = this.etag;
    const response = await fetch(`${this.url}?after=${this.after}`, { headers, cache: "no-store" });
    if (response.status === 304) return this.slower();
    if (!response.ok) return Math.max(this.slower(), 1000 * Number(response.headers.get("Retry-After") || 0));
    const operation = await response.json();
    this.etag = response.headers.get("ETag");
    this.step = 0;
    for (const [row, column, color] of operation.response?.squares ?? []) {
      this.handlers.onSquare(row, column, color);
    }
    this.after = Math.max(this.after, operation.metadata.step);
    this.ahead = new Set([...this.ahead].filter((position) => position > this.after));
    this.handlers.onState(operation);
    if (operation.done) this.finish();
    return POLL_DELAYS_MS[0];
  }

  slower() {
    const delay = POLL_DELAYS_MS[this.step];
    this.step = Math.min(this.step + 1, POLL_DELAYS_MS.length - 1);
    return delay;
  }

  finish() {
    this.isOver = true;
    clearTimeout(this.timer);
    this.closeStream();
    this.setMode("over");
  }

  schedule(action, delay) {
    clearTimeout(this.timer);
    this.timer = setTimeout(action, delay);
  }

  setMode(mode) {
    if (this.mode === mode) return;
    this.mode = mode;
    this.handlers.onMode(mode);
  }
}
