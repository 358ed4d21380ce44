// What every part of the page uses: elements, numbers, times, shapes. Nothing here knows the page's data.
// The scripts are classic ones, in the order of index.html, so that the static copy can hold them inline.
"use strict";
const WL = {};

(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

  // --- elements: text only ever enters as text nodes ---------------------------------------------------------

  /** Characters that turn the direction of all text after them could make one text pass for another. */
  const TURNS = /[\u202a-\u202e\u2066-\u2069]/g;
  const clean = (child) => (typeof child === "string" ? child.replace(TURNS, "") : child);
  const byId = (id) => document.getElementById(id);

  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined).map(clean));
    return node;
  }

  const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    fill(document.createElementNS(SVG, tag), attributes, children);

  function setText(node, text) {
    if (node.textContent !== clean(text)) node.textContent = clean(text);
  }

  /** Make `old` like `made`, touching only what differs: focus, open details, hover and a half-done click stay. */
  function morph(old, made) {
    if (old.nodeName !== made.nodeName || old.nodeType !== made.nodeType) return old.replaceWith(made);
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== made.data) old.data = made.data;
      return undefined;
    }
    for (const { name } of [...old.attributes])
      if (!made.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    for (const { name, value } of made.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    return morphChildren(old, [...made.childNodes]);
  }

  function morphChildren(old, children) {
    while (old.childNodes.length > children.length) old.lastChild.remove();
    children.forEach((child, index) => {
      if (index < old.childNodes.length) morph(old.childNodes[index], child);
      else old.append(child);
    });
  }

  // --- shapes: every state has a shape and a word, colour only repeats them; 16 x 16, also for the canvas ----

  const SHAPES = {
    circle: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Z",
    ring: "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2Zm0 2.2a3.8 3.8 0 1 1 0 7.6 3.8 3.8 0 0 1 0-7.6Z",
    triangle: "M8 1.6 15 14H1Z",
    diamond: "M8 .8 15.2 8 8 15.2.8 8Z",
    square: "M2.4 2.4h11.2v11.2H2.4Z",
    back: "M14.5 2v12L6 8ZM5 2v12H2V2Z",
    play: "M3.5 1.8 14 8 3.5 14.2Z",
    pause: "M3 2h3.8v12H3ZM9.2 2H13v12H9.2Z",
    check: "M1.6 8.6 3.5 6.7 6.5 9.7 12.6 3.2 14.5 5.1 6.5 13.4Z",
    cross: "M3.5 2 8 6.5 12.5 2 14 3.5 9.5 8 14 12.5 12.5 14 8 9.5 3.5 14 2 12.5 6.5 8 2 3.5Z",
    sliders: "M2 4h5.4v2H2Zm10.6 0H14v2h-1.4ZM8.6 2.5H11v5H8.6ZM2 10h1.4v2H2Zm6.6 0H14v2H8.6ZM4.6 8.5H7v5H4.6Z",
    dash: "M2 6.8h12v2.4H2Z",
  };
  const STATUS = {
    queued: ["ring", "quiet", "queued"], running: ["play", "accent", "running"],
    paused: ["pause", "watch", "paused"], passed: ["check", "good", "passed"],
    stage_completed: ["check", "good", "stage completed"], failed: ["cross", "bad", "failed"],
    stopped: ["square", "watch", "stopped"],
  };
  const STATE = {
    waiting: ["ring", "quiet"], training: ["play", "accent"], "at gate": ["diamond", "accent"],
    paused: ["pause", "watch"], complete: ["check", "good"], given: ["check", "quiet"],
    blocked: ["cross", "bad"], "not asked for": ["dash", "quiet"],
  };
  const LEVEL = {
    info: ["dash", "quiet"], good: ["check", "good"], watch: ["triangle", "watch"], bad: ["diamond", "bad"],
  };
  const DECISION = {
    continue: ["circle", "good"], watch: ["triangle", "watch"], retune: ["diamond", "bad"],
    restart_stage: ["back", "bad"], stop: ["square", "bad"],
  };

  /** A gate's word: its decision, or `watch` where it went on although watched. */
  const gateWord = (gate) =>
    gate.decision === "continue" && gate.verdict !== "continue" ? gate.verdict : gate.decision;

  const mark = ([shape, tone], size = 12) =>
    svg("svg", { class: `mark ${tone}`, viewBox: "0 0 16 16", width: size, height: size, "aria-hidden": "true" },
      svg("path", { d: SHAPES[shape], "fill-rule": "evenodd" }));

  const word = (name) => name.replaceAll("_", " ");

  // --- numbers -----------------------------------------------------------------------------------------------

  const integer = (value) => Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, ",");

  function number(value, digits = 4) {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "number") return String(value);
    if (!Number.isFinite(value)) return String(value);
    if (Number.isInteger(value) && Math.abs(value) < 1e15)
      return value < 0 ? `-${integer(-value)}` : integer(value);
    const size = Math.abs(value);
    if (size >= 1e5 || size < 1e-3) {
      const [digitsPart, power] = value.toExponential(digits - 2).split("e");
      return `${digitsPart.includes(".") ? digitsPart.replace(/\.?0+$/, "") : digitsPart}e${Number(power)}`;
    }
    return String(Number(value.toPrecision(digits)));
  }

  /** Steps on an axis: 1500 -> 1.5k. */
  function short(value) {
    for (const [size, unit] of [[1e6, "M"], [1e3, "k"]])
      if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))}${unit}`;
    return number(value, 3);
  }

  const percent = (fraction, digits = 0) =>
    fraction === null || fraction === undefined ? "–" : `${(100 * fraction).toFixed(digits)} %`;

  const bytes = (value) =>
    value === null || value === undefined ? "–"
      : value < 2 ** 30 ? `${Math.round(value / 2 ** 20)} MiB` : `${(value / 2 ** 30).toFixed(1)} GiB`;

  /** A knob or another value of JSON, as people read it. */
  const plain = (value) =>
    value === null ? "none" : typeof value === "number" ? number(value)
      : typeof value === "string" ? value : JSON.stringify(value);

  // --- times: unix seconds -----------------------------------------------------------------------------------

  function duration(seconds, exact = true) {
    const whole = Math.max(0, Math.round(seconds));
    if (whole < 60) return `${whole} s`;
    if (whole < 3600 && !exact) return `${Math.max(1, Math.round(whole / 60))} min`;
    if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
    const minutes = Math.round(whole / 60);
    if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
    return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
  }

  const two = (value) => String(value).padStart(2, "0");

  /** The local time; the day, too, unless it is the day of the newest that is shown. */
  function clock(time, { seconds = true } = {}) {
    const date = new Date(1000 * time);
    const day = date.toDateString() !== new Date(1000 * WL.now()).toDateString();
    const hours = `${two(date.getHours())}:${two(date.getMinutes())}${seconds ? `:${two(date.getSeconds())}` : ""}`;
    return day ? `${date.getDate()} ${MONTHS[date.getMonth()]} ${hours}` : hours;
  }

  const utc = (time) => `${new Date(1000 * time).toISOString().slice(0, 19).replace("T", " ")} UTC`;

  /** A point in time: local on the page, UTC on hover. */
  const when = (time, options) =>
    el("time", { datetime: new Date(1000 * time).toISOString(), title: utc(time) }, clock(time, options));

  Object.assign(WL, {
    byId, el, svg, setText, morph, morphChildren, SHAPES, STATUS, STATE, LEVEL, DECISION, gateWord, mark, word,
    integer, number, short, percent, bytes, plain, duration, clock, utc, when,
  });
})();
