// Receives an operation's updates: from a stream if possible, otherwise by polling.
//
// Every update has a number. `after` is the highest number up to which none is missing here. A request for
// later updates therefore fills any gap left by a lost message, a sleeping laptop or a flushed Redis. Each
// program's page handles the updates in its own subclass:
//
//   import { Feed } from "/_ah/static/feed.js";
//   class RunFeed extends Feed { hear(news) { … } take(operation) { … } }
//   new RunFeed({ url, token, after: 0 }).start();

const POLL_DELAYS_MS = [1000, 2000, 5000]; // without updates, poll less often
const OPEN_MS = 1000; // a stream that is not open by then may never open
const WATCH_MS = 2500; // after this much silence, a single poll checks the stream
const HIDDEN_MS = 60000; // when the channel gives back the connection of a hidden page
const STREAMS_A_BROWSER = 3; // of the six connections that a browser opens to one origin

export class Feed {
  constructor({ url, token, after }) {
    this.url = url;
    this.token = token;
    this.after = Number(after);
    this.isOver = false;
    this.mode = null;
    this.step = 0;
    this.etag = null;
    this.heard = 0;
    this.timer = null;
    this.isAsking = false;
    this.mustAskAgain = false;
    this.socket = null;
    this.leavePlace = () => {};
  }

  // --- for subclasses -------------------------------------------------------------------

  // Handle a message from the stream.
  hear(_news) {}

  // Handle a response: an operation with the updates after `after`.
  take(_operation) {}

  // The address to poll.
  address() {
    return `${this.url}?after=${this.after}`;
  }

  // "stream", "poll" or "over".
  onMode(_mode) {}

  // Whether messages are known to be missing.
  hasGap() {
    return false;
  }

  start() {
    document.addEventListener("visibilitychange", () => this.onVisibility());
    this.openStream();
  }

  // --- the stream -----------------------------------------------------------------------

  // The channel keeps trying after a disconnect or a refusal; the page polls while there is no stream.
  async openStream() {
    const Channel = globalThis.goog?.appengine?.Channel;
    if (Channel && this.token && !this.socket && (await this.takePlace()) && !this.isOver) {
      this.socket = new Channel(this.token).open({
        onopen: () => this.onOpen(),
        onmessage: (message) => this.onMessage(message),
        onreconnect: () => this.onOpen(),
        onretry: () => this.poll(),
        onclose: () => this.onClose(),
      });
      this.schedule(() => this.poll(), OPEN_MS);
    } else if (!this.socket) {
      this.poll();
    }
  }

  onOpen() {
    this.setMode("stream");
    this.schedule(() => this.watch(), WATCH_MS);
  }

  onMessage(message) {
    this.heard += 1;
    this.hear(JSON.parse(message.data));
  }

  // A stream that is silent or has left a gap may have lost messages.
  async watch() {
    const mayHaveLost = this.heard === 0 || this.hasGap();
    this.heard = 0;
    if (mayHaveLost) await this.ask();
    if (!this.isOver && this.mode !== "poll") this.schedule(() => this.watch(), WATCH_MS);
  }

  onClose() {
    this.socket = null;
    this.leavePlace();
    if (!this.isOver) this.poll();
  }

  // A seventh tab must still get responses: a browser opens six connections to one origin, and each stream
  // holds one, so a browser's tabs share a few slots. Resolves to false when all are taken.
  async takePlace() {
    if (!navigator.locks) return true;
    for (let place = 0; place < STREAMS_A_BROWSER; place += 1) {
      const isMine = await new Promise((answer) => {
        navigator.locks.request(`lastacross-stream-${place}`, { ifAvailable: true }, (lock) => {
          answer(lock !== null);
          return lock && new Promise((leave) => (this.leavePlace = leave));
        }).catch(() => answer(true)); // a browser without locks
      });
      if (isMine) return true;
    }
    return false;
  }

  onVisibility() {
    if (this.isOver) return;
    clearTimeout(this.hiddenTimer);
    if (document.hidden) {
      this.hiddenTimer = setTimeout(() => this.leavePlace(), HIDDEN_MS);
    } else {
      this.step = 0;
      this.ask();
      this.openStream();
    }
  }

  // --- polling --------------------------------------------------------------------------

  async poll() {
    this.setMode("poll");
    const delay = await this.ask();
    if (!this.isOver && this.mode === "poll") this.schedule(() => this.poll(), delay);
  }

  // Poll once for updates; resolves to the milliseconds to wait before the next poll.
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
      delay = this.slower(); // the network is unavailable, perhaps only briefly
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
    const response = await fetch(this.address(), { headers, cache: "no-store" });
    if (response.status === 304) return this.slower();
    if (!response.ok) return Math.max(this.slower(), 1000 * Number(response.headers.get("Retry-After") || 0));
    const operation = await response.json();
    this.etag = response.headers.get("ETag");
    this.step = 0;
    this.take(operation);
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
    this.socket?.close();
    this.setMode("over");
  }

  schedule(action, delay) {
    clearTimeout(this.timer);
    this.timer = setTimeout(action, delay);
  }

  setMode(mode) {
    if (this.mode === mode) return;
    this.mode = mode;
    this.onMode(mode);
  }
}
