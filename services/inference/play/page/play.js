// The page of `worldloop play`: shows frames as they come, sends what is pressed. Protocol: messages.py.

const byId = (id) => document.getElementById(id);
const canvas = byId("frame");
const pen = canvas.getContext("2d");

const KEYS = {
  ArrowUp: "up", KeyW: "up", ArrowLeft: "left", KeyA: "left", ArrowDown: "down", KeyS: "down",
  ArrowRight: "right", KeyD: "right", Space: "space",
};
const FACES = { up: ["↑", "W"], left: ["←", "A"], down: ["↓", "S"], right: ["→", "D"], space: ["Space", ""] };
const PARTS = {
  tokenize: "tokenize (seed frames only)", dynamics: "dynamics: decoding steps", pixels: "tokenizer: pixels",
  encode: "encode", send: "send",
};
const SHOWN_MS = 2000; // figures are means over so long
const WAITS_MS = [500, 1000, 2000, 4000];

const token = new URLSearchParams(location.hash.slice(1)).get("token"); // the address that was printed has it
let world = null; // the welcome
let socket = null;
let failures = 0;
let painted = -1; // number of the frame on the canvas
let latest = []; // [time of arrival, header] of the last frames
let inForce = null;
const held = new Map(); // what is held down -> action code, in the order it was pressed

// --- connection ---------------------------------------------------------------------------------------------

function connect() {
  const line = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/play`);
  line.binaryType = "arraybuffer";
  socket = line;
  let ended = false;
  line.onmessage = ({ data }) => {
    if (typeof data !== "string") return receive(data);
    const message = JSON.parse(data);
    if (message.type === "locked") line.send(JSON.stringify({ type: "token", token: token ?? "" }));
    if (message.type === "welcome") begin(message);
    if (message.type === "notice") byId("notice").textContent = message.text;
    if (message.type === "ended") {
      ended = true;
      cover("ended", ["full", "locked"].includes(message.reason) ? message.reason : "ended", message.text);
    }
  };
  line.onclose = () => {
    held.clear();
    setRecording(false);
    if (ended) return;
    const wait = WAITS_MS[Math.min(failures++, WAITS_MS.length - 1)];
    cover("gone", "no server", "The server does not answer. This page tries again until it does.");
    setTimeout(() => socket === line && connect(), wait);
  };
}

function send(message) {
  if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function cover(state, word, text) {
  document.body.dataset.state = state;
  byId("state").textContent = word;
  byId("veil-text").textContent = text;
  byId("again").hidden = state !== "ended";
  byId("veil").hidden = false;
}

function begin(welcome) {
  world = welcome;
  failures = 0;
  painted = -1;
  latest = [];
  inForce = null;
  canvas.width = canvas.height = world.size;
  document.title = `${title(world.game)} – worldloop play`;
  byId("game").textContent = title(world.game);
  byId("run").textContent = `Not the game: a model makes each frame from the last ones and your keys. Run ${world.run}`;
  byId("run").title = Object.values(world.checkpoints).join(", ");
  byId("asked").textContent = `of ${world.fps}`;
  byId("most").textContent = `of ${world.most_steps}`;
  drawControls();
  document.body.dataset.state = "playing";
  byId("state").textContent = "playing";
  byId("veil").hidden = true;
}

const title = (game) => game.split("_").map((word) => word.charAt(0).toUpperCase() + word.slice(1)).join(" ");

// --- frames -------------------------------------------------------------------------------------------------

async function receive(buffer) {
  const length = new DataView(buffer).getUint32(0);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const payload = new Uint8Array(buffer, 4 + length);
  if (header.type === "recording") return offer(header, payload);
  latest.push([performance.now(), header]);
  setRecording(header.recording);
  if (header.code !== inForce) mark(header.code);
  const picture = await createImageBitmap(new Blob([payload], { type: "image/png" }));
  if (header.number <= painted) return;
  painted = header.number;
  pen.drawImage(picture, 0, 0);
  canvas.dataset.number = header.number;
  if (header.seed !== null) canvas.dataset.seed = header.seed;
}

function offer(header, payload) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([payload], { type: "video/mp4" }));
  link.download = `${world.game}_${new Date().toISOString().slice(0, 19).replace(/[-:T]/g, "_")}.mp4`;
  link.textContent = `Save ${link.download}`;
  byId("notice").replaceChildren(`Recorded ${header.frames} frames. `, link);
  link.click();
}

function setRecording(on) {
  byId("record").setAttribute("aria-pressed", on);
}

function showFigures() {
  if (!world || document.body.dataset.state !== "playing") return;
  const now = performance.now();
  latest = latest.filter(([time]) => now - time < SHOWN_MS);
  const made = latest.map(([, header]) => header);
  if (made.length < 2) return;
  const span = latest.at(-1)[0] - latest[0][0];
  const fps = span ? (1000 * (made.length - 1)) / span : 0;
  const mean = {};
  for (const part in PARTS) mean[part] = made.reduce((sum, header) => sum + header.ms[part], 0) / made.length;
  const total = Object.values(mean).reduce((sum, ms) => sum + ms, 0);
  const { steps, players } = made.at(-1);
  byId("fps").textContent = fps.toFixed(1);
  byId("total").textContent = total.toFixed(1);
  byId("steps").textContent = steps;
  byId("players").textContent = players;
  byId("pace").textContent = paceText(fps, steps);
  const full = Math.max(total, 1000 / world.fps);
  for (const part in PARTS) {
    byId(`part-${part}`).textContent = `${mean[part].toFixed(1)} ms`;
    byId(`bar-${part}`).style.width = `${(100 * mean[part]) / full}%`;
  }
}

function paceText(fps, steps) {
  if (fps < 0.9 * world.fps) return steps === 1
    ? "Even one decoding step takes this machine too long for the asked rate."
    : `Below the asked rate: trying ${steps} of ${world.most_steps} decoding steps.`;
  if (steps < world.most_steps) return `Decoding with ${steps} of ${world.most_steps} steps, so that ${world.fps} frames per second hold.`;
  return `All ${world.most_steps} decoding steps fit into ${world.fps} frames per second.`;
}

// --- controls -----------------------------------------------------------------------------------------------

function drawControls() {
  const codeOf = Object.fromEntries(world.codes.filter(({ key }) => key).map((each) => [each.key, each]));
  byId("pad").replaceChildren(...Object.entries(FACES).map(([key, [face, letter]]) => {
    const code = codeOf[key]?.code;
    const button = holdable(code, code === undefined ? `${key}: no action` : `${key}: action ${code}`);
    button.style.gridArea = key;
    button.append(letter ? `${face} ${letter}` : face, small(code === undefined ? "–" : `action ${code}`));
    return button;
  }));
  const most = Math.max(...world.codes.map(({ change }) => change), 1e-9);
  byId("codes").replaceChildren(...world.codes.map(({ code, share, change }) => {
    const percent = `${Math.round(100 * share)} %`;
    const button = holdable(code, `action ${code}, ${percent} of the recording`);
    button.classList.toggle("rare", share === 0);
    const moved = document.createElement("span");
    moved.className = "moved";
    moved.style.width = `${Math.max(2, (100 * change) / most)}%`;
    button.append(code, small(percent), moved);
    return button;
  }));
  const learned = world.codes.filter((each) => each.learned).map(({ key }) => key);
  byId("keys").textContent = `Arrows or WASD, and space. ` + (learned.length
    ? `${learned.join(", ")}: as the recording's true actions have it; the others are just a way to reach a code.`
    : !world.with_actions ? "This model was trained without actions: none of them changes anything."
    : "The model found its actions by itself: the keys are just a way to reach them, the liveliest first.")
    + ` Nothing held: action ${world.idle}.`;
  if (!byId("bar").children.length) drawParts();
}

function drawParts() {
  for (const [part, words] of Object.entries(PARTS)) {
    const slice = document.createElement("i");
    slice.id = `bar-${part}`;
    slice.className = part;
    byId("bar").append(slice);
    const row = byId("parts").insertRow();
    const dot = document.createElement("span");
    dot.className = `dot ${part}`;
    row.insertCell().append(dot, words);
    row.insertCell().id = `part-${part}`;
  }
}

function small(text) {
  const element = document.createElement("small");
  element.textContent = text;
  return element;
}

function holdable(code, label) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", label);
  if (code === undefined) {
    button.disabled = true;
    return button;
  }
  button.dataset.code = code;
  button.setAttribute("aria-pressed", "false");
  button.onpointerdown = (event) => {
    button.setPointerCapture(event.pointerId);
    press(event.pointerId, code);
  };
  button.onlostpointercapture = (event) => lift(event.pointerId);
  button.oncontextmenu = (event) => event.preventDefault();
  // a keyboard or a screen reader clicks without a pointer: that holds the action until the next such click
  button.onclick = (event) => event.detail === 0 && (held.has(button) ? lift(button) : press(button, code));
  return button;
}

function mark(code) {
  inForce = code;
  byId("action").textContent = code === world.idle ? `${code} (idle)` : code;
  for (const button of document.querySelectorAll("[data-code]")) {
    const on = Number(button.dataset.code) === code;
    button.classList.toggle("on", on);
    button.setAttribute("aria-pressed", on);
  }
}

function press(what, code) {
  held.delete(what);
  held.set(what, code);
  send({ type: "press", code });
}

function lift(what) {
  if (!held.has(what)) return;
  const wasLast = [...held.keys()].at(-1) === what;
  held.delete(what);
  const before = [...held.values()].at(-1);
  if (before === undefined) send({ type: "release" });
  else if (wasLast) send({ type: "press", code: before });
}

function liftAll() {
  for (const what of [...held.keys()]) lift(what);
}

function codeOfKey(code) {
  const digit = /^(?:Digit|Numpad)(\d)$/.exec(code);
  if (digit) return world.codes[Number(digit[1])]?.code;
  return world.codes.find(({ key }) => key && key === KEYS[code])?.code;
}

const reset = () => send({ type: "reset" });
const newSeed = () => send({ type: "new_seed" });
const record = () => send({ type: "record", on: byId("record").getAttribute("aria-pressed") !== "true" });
const SHORTCUTS = { KeyR: reset, KeyN: newSeed, KeyV: record };

document.addEventListener("keydown", (event) => {
  if (!world || event.ctrlKey || event.metaKey || event.altKey) return;
  const onButton = event.target instanceof HTMLButtonElement || event.target instanceof HTMLAnchorElement;
  if (onButton && (event.code === "Space" || event.code === "Enter")) return; // it is the button's
  const code = codeOfKey(event.code);
  if (code === undefined && !(event.code in KEYS) && !(event.code in SHORTCUTS)) return;
  event.preventDefault(); // the page does not scroll
  if (event.repeat) return;
  if (event.code in SHORTCUTS) SHORTCUTS[event.code]();
  else if (code !== undefined) press(event.code, code);
});
document.addEventListener("keyup", (event) => lift(event.code));
window.addEventListener("blur", liftAll);
byId("reset").onclick = reset;
byId("new").onclick = newSeed;
byId("record").onclick = record;
byId("again").onclick = () => {
  cover("connecting", "connecting", "Connecting …");
  connect();
};

setInterval(showFigures, 500);
connect();
