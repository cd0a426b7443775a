// goog.appengine.Channel: receives messages from the server with App Engine's interface.
//
//   const channel = new goog.appengine.Channel(token, {last: idOfTheLastMessageThePageShows});
//   const socket = channel.open({onopen, onmessage, onerror, onclose});   // or set them on socket
//
// onopen() is called once, when the socket opens, and onmessage({data}) for every message, in order and
// without gaps. A lost stream is opened again without the page noticing. If the token is refused or has
// expired, onerror({code, description}) gives the reason, and the socket is over: onclose() follows.
// socket.close() ends it as well.
//
// App Engine did not have these two. onretry({code, description}) gives the reason when the browser has given
// the stream up and it will be opened anew after a pause, so that the page may poll; a browser that reconnects
// by itself calls nothing. onreconnect() says that a lost stream is open again.
//
// The browser's EventSource does the work: it reconnects by itself after a disconnect, and sends the server
// the id of its last message.

(function () {
  "use strict";

  const STREAM_PATH = "/_ah/channel/stream";
  const FIRST_WAIT_MS = 1000;
  const MAX_WAIT_MS = 30000;
  const HIDDEN_MS = 60000;

  // If the application is mounted under a prefix, so is this script.
  const script = document.currentScript;
  const source = script && script.src ? new URL(script.src) : null;
  const streamUrl = source && source.pathname.endsWith("/_ah/channel/jsapi")
    ? new URL("stream", source).href
    : new URL(STREAM_PATH, document.baseURI).href;

  function Channel(token, options) {
    if (!(this instanceof Channel)) {
      return new Channel(token, options);
    }
    this.token = token;
    this.last = (options && options.last) || "";
  }

  Channel.prototype.open = function (handlers) {
    return new Socket(this.token, this.last, handlers || {});
  };

  function Socket(token, last, handlers) {
    this.readyState = Socket.ReadyState.CONNECTING;
    this.onopen = handlers.onopen || null;
    this.onmessage = handlers.onmessage || null;
    this.onerror = handlers.onerror || null;
    this.onclose = handlers.onclose || null;
    this.onretry = handlers.onretry || null;
    this.onreconnect = handlers.onreconnect || null;
    this._token = token;
    this._last = last;
    this._source = null;
    this._timer = null;
    this._hiddenTimer = null;
    this._waitMs = FIRST_WAIT_MS;
    this._onvisibility = this._updateVisibility.bind(this);
    this._onpagehide = this._pause.bind(this);
    this._onpageshow = (event) => { if (event.persisted) { this._connect(); } };
    document.addEventListener("visibilitychange", this._onvisibility);
    window.addEventListener("pagehide", this._onpagehide);
    window.addEventListener("pageshow", this._onpageshow);
    this._connect();
  }

  Socket.ReadyState = { CONNECTING: 0, OPEN: 1, CLOSING: 2, CLOSED: 3 };

  Socket.prototype.close = function () {
    if (this.readyState === Socket.ReadyState.CLOSED) {
      return;
    }
    this.readyState = Socket.ReadyState.CLOSED;
    this._pause();
    window.clearTimeout(this._hiddenTimer);
    document.removeEventListener("visibilitychange", this._onvisibility);
    window.removeEventListener("pagehide", this._onpagehide);
    window.removeEventListener("pageshow", this._onpageshow);
    this._call("onclose");
  };

  Socket.prototype._url = function () {
    const url = new URL(streamUrl);
    url.searchParams.set("token", this._token);
    if (this._last) {
      url.searchParams.set("last", this._last);
    }
    return url.href;
  };

  Socket.prototype._connect = function () {
    if (this._source || this.readyState === Socket.ReadyState.CLOSED) {
      return;
    }
    window.clearTimeout(this._timer);
    const source = new EventSource(this._url());
    this._source = source;
    source.onopen = () => this._opened(source);
    source.onmessage = (event) => this._received(source, event, event.data);
    // A message with carriage returns, which an event's lines cannot contain.
    source.addEventListener("escaped", (event) => this._received(source, event, JSON.parse(event.data)));
    source.onerror = () => this._failed(source);
  };

  // Ignore events from an abandoned source.
  Socket.prototype._opened = function (source) {
    if (source !== this._source) {
      return;
    }
    this._waitMs = FIRST_WAIT_MS;
    const isFirst = this.readyState !== Socket.ReadyState.OPEN;
    this.readyState = Socket.ReadyState.OPEN;
    this._call(isFirst ? "onopen" : "onreconnect");
  };

  Socket.prototype._received = function (source, event, data) {
    if (source !== this._source) {
      return;
    }
    this._last = event.lastEventId || this._last;
    this._call("onmessage", { data: data });
  };

  Socket.prototype._failed = function (source) {
    if (source !== this._source) {
      return;
    }
    if (source.readyState === EventSource.CLOSED) {
      // Refused: EventSource neither gives the reason nor retries.
      this._pause();
      this._ask();
    }
  };

  // HEAD returns the status that the stream would have.
  Socket.prototype._ask = function () {
    fetch(this._url(), { method: "HEAD", cache: "no-store", credentials: "same-origin" }).then(
      (answer) => this._told(answer.status, describe(answer), answer.headers.get("Retry-After")),
      () => this._told(0, "The server does not answer.", null)
    );
  };

  function describe(answer) {
    const error = /error="([^"]*)"/.exec(answer.headers.get("WWW-Authenticate") || "");
    return error ? error[1] : answer.statusText;
  }

  Socket.prototype._told = function (status, description, retryAfter) {
    if (this._source || this.readyState === Socket.ReadyState.CLOSED) {
      return;
    }
    const error = { code: status, description: description };
    if (status >= 400 && status < 500 && status !== 408 && status !== 429) {
      this._call("onerror", error);
      this.close();
      return;
    }
    if (status !== 200) {
      this._call("onretry", error);
    }
    const asked = Number(retryAfter) * 1000 || 0;
    const waitMs = Math.max(asked, this._waitMs) * (0.75 + Math.random() / 2);
    this._waitMs = Math.min(2 * this._waitMs, MAX_WAIT_MS);
    window.clearTimeout(this._timer);
    this._timer = window.setTimeout(() => this._connect(), waitMs);
  };

  // A browser has six connections per site, so a hidden page gives its own back, and continues where it left
  // off when it becomes visible again.
  Socket.prototype._updateVisibility = function () {
    window.clearTimeout(this._hiddenTimer);
    if (document.visibilityState === "hidden") {
      this._hiddenTimer = window.setTimeout(() => this._pause(), HIDDEN_MS);
    } else {
      this._connect();
    }
  };

  Socket.prototype._pause = function () {
    window.clearTimeout(this._timer);
    if (this._source) {
      this._source.close();
      this._source = null;
    }
  };

  Socket.prototype._call = function (name, argument) {
    if (typeof this[name] === "function") {
      this[name](argument);
    }
  };

  const goog = (window.goog = window.goog || {});
  goog.appengine = goog.appengine || {};
  goog.appengine.Channel = Channel;
  goog.appengine.Socket = Socket;
})();
