// Draws the squares on a canvas over the server's drawing. Squares that arrive close together are drawn
// in one animation frame. When a great many arrive, only some frames per second are drawn, because a frame
// costs as much as hundreds of squares, and without a graphics card this machine may also be the one that
// makes the squares.

const MAX_SQUARE = 96; // canvas pixels; a larger square would look the same
const CANVAS_SIDE = 1200; // canvas pixels on the longer side, approximately
const MANY = 40; // after a frame with this many squares, the next one may wait
const REST_MS = 120;
const MIN_SEWN = 40; // canvas pixels below which stitches would be noise

export class Cloth {
  constructor(figure, rows, columns, onDrawn) {
    this.columns = columns;
    this.colors = new Array(rows * columns).fill(null);
    this.workers = new Map(); // index → number of the worker that painted the square
    this.count = 0;
    this.waiting = [];
    this.isFrameAsked = false;
    this.restUntil = 0;
    this.onDrawn = onDrawn;
    const side = Math.floor(CANVAS_SIDE / Math.max(rows, columns));
    this.side = Math.max(8, Math.min(MAX_SQUARE, side));
    this.canvas = document.createElement("canvas");
    this.canvas.width = columns * this.side;
    this.canvas.height = rows * this.side;
    this.canvas.setAttribute("role", "img");
    this.context = this.canvas.getContext("2d");
    this.takeOver(figure);
  }

  // The server drew the first squares; from here on the canvas draws all squares, on the same empty cloth.
  takeOver(figure) {
    const svg = figure.querySelector("svg");
    this.canvas.setAttribute("aria-label", svg.getAttribute("aria-label"));
    for (const patch of svg.querySelectorAll(".patch")) {
      this.sew(Number(patch.getAttribute("y")), Number(patch.getAttribute("x")), patch.getAttribute("fill"));
    }
    for (const text of svg.querySelectorAll(".painter")) {
      const place = Math.floor(text.getAttribute("y")) * this.columns + Math.floor(text.getAttribute("x"));
      this.workers.set(place, text.textContent);
    }
    this.draw();
    figure.querySelector(".cloth").append(this.canvas);
    svg.removeAttribute("role");
    svg.removeAttribute("aria-label");
    svg.setAttribute("aria-hidden", "true");
    svg.querySelector("#patches").remove();
  }

  // Adds a square; the first colour is kept, as in the datastore. Returns whether it was new.
  sew(row, column, color, worker = null) {
    const index = row * this.columns + column;
    if (this.colors[index] !== null) return false;
    if (worker) this.workers.set(index, String(worker));
    this.colors[index] = color;
    this.count += 1;
    this.waiting.push(index);
    this.askForFrame();
    return true;
  }

  askForFrame() {
    if (this.isFrameAsked) return;
    this.isFrameAsked = true;
    const draw = () => {
      this.isFrameAsked = false;
      this.flush();
    };
    const restMs = this.restUntil - performance.now();
    if (restMs > 0) setTimeout(() => requestAnimationFrame(draw), restMs);
    else requestAnimationFrame(draw);
  }

  // Draws the waiting squares now: a hidden page gets no frames, but still has a title.
  flush() {
    if (this.waiting.length === 0) return;
    this.restUntil = this.waiting.length >= MANY ? performance.now() + REST_MS : 0;
    this.draw();
    this.onDrawn();
  }

  describe(text) {
    if (this.canvas.getAttribute("aria-label") !== text) this.canvas.setAttribute("aria-label", text);
  }

  draw() {
    const { context, side } = this;
    const gap = Math.max(1, Math.round(side * 0.03));
    for (const index of this.waiting) {
      const x = (index % this.columns) * side;
      const y = Math.floor(index / this.columns) * side;
      context.fillStyle = this.colors[index];
      context.fillRect(x + gap, y + gap, side - 2 * gap, side - 2 * gap);
      if (side < MIN_SEWN) continue;
      this.stitch(x, y);
      if (this.workers.has(index)) this.sign(x, y, this.workers.get(index));
    }
    this.waiting = [];
  }

  // Marks a square whose worker was killed; the square itself covers the mark later. Returns whether it did.
  cutOff(row, column) {
    const { context, side } = this;
    if (this.colors[row * this.columns + column] !== null) return false;
    const inset = Math.max(1, side * 0.12);
    context.strokeStyle = "#c2253a";
    context.lineWidth = Math.max(1, side / 16);
    context.setLineDash([side / 6, side / 9]);
    context.strokeRect(column * side + inset, row * side + inset, side - 2 * inset, side - 2 * inset);
    return true;
  }

  isSewn(row, column) {
    return this.colors[row * this.columns + column] !== null;
  }

  // The number of the worker that painted the square, in its corner.
  sign(x, y, worker) {
    const { context, side } = this;
    context.font = `700 ${Math.round(side * 0.24)}px system-ui, sans-serif`;
    context.textAlign = "right";
    context.textBaseline = "alphabetic";
    context.lineWidth = Math.max(2, side / 20);
    context.lineJoin = "round";
    context.setLineDash([]);
    context.strokeStyle = "rgba(0, 0, 0, 0.65)";
    context.strokeText(worker, x + side * 0.86, y + side * 0.84);
    context.fillStyle = "#fff";
    context.fillText(worker, x + side * 0.86, y + side * 0.84);
  }

  stitch(x, y) {
    const { context, side } = this;
    const inset = side * 0.1;
    context.strokeStyle = "rgba(255, 255, 255, 0.6)";
    context.lineWidth = Math.max(1, side / 48);
    context.setLineDash([side / 14, side / 18]);
    context.strokeRect(x + inset, y + inset, side - 2 * inset, side - 2 * inset);
  }
}
