// The curve's panel: which stage and column, what part of it, what it says in words. Pointer and keyboard: curve_input.js.

(() => {
  "use strict";
  const { byId, el, setText, mark, word, number, integer, curveData, curveDraw, DECISION, gateWord } = WL;
  const DEBOUNCE_MS = 180;
  const KEPT_LIVE = 4000; // live points before the server is asked for the whole again
  const NAMES = {
    "train/loss": "loss", "learning_rate/group_0": "learning rate", action_entropy: "action entropy",
    unique_actions: "unique actions", grad_norm: "gradient norm", _runtime: "seconds since launch",
  };
  const LEGEND = [["continue", "accepted"], ["watch", "accepted, watched"], ["retune", "retune"], ["restart_stage", "restart"], ["stop", "stop"]];
  const box = byId("curve-box");
  const canvas = byId("curve");

  let run = null; // whose curves these are
  let stage = null;
  let followed = true; // the stage goes with the run until a person chooses one
  let column = "train/loss";
  let log = null; // null: as the values suggest
  let whole = null; // History of all steps
  let parts = { line: [], ghosts: [] }; // of `whole`
  let detail = null; // {from, to, line, ghosts} of the view, finer than `whole`
  let live = []; // points since `whole` was read
  let view = null; // [from, to] or null for all steps
  let cursor = null;
  let held = null; // id of the gate the keyboard is at
  let scene = null;
  let colour = null;
  let asked = 0;
  let timer = 0;
  let frame = 0;

  const name = (each) => NAMES[each] ?? word(each.split("/").at(-1));
  const ofStage = (field) => (WL.current()?.[field] ?? []).filter((row) => row.stage === stage);

  // --- data --------------------------------------------------------------------------------------------------

  async function read() {
    const round = (asked += 1);
    const wanted = [stage, column];
    try {
      const found = await WL.curve(...wanted);
      if (round !== asked) return;
      whole = found;
      parts = found === null ? { line: [], ghosts: [] } : curveData.split(found);
      live = live.filter((point) => found !== null && point.step > found.last);
      box.dataset.problem = "";
      drawColumns();
    } catch (error) {
      if (round !== asked) return;
      box.dataset.problem = error instanceof TypeError ? "the server does not answer" : error.message;
    }
    redraw();
    if (view !== null) finer();
  }

  /** Ask for the view alone, once it has stood still for a moment. */
  function finer() {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      if (view === null) return;
      const [from, to] = view;
      const wanted = `${stage} ${column} ${from} ${to}`;
      const found = await WL.curve(stage, column, Math.max(0, from), to).catch(() => null); // the coarse one stays
      if (found === null || view === null || wanted !== `${stage} ${column} ${view[0]} ${view[1]}`) return;
      detail = { from, to, ...curveData.split(found) };
      redraw();
    }, DEBOUNCE_MS);
  }

  const refresh = () => {
    clearTimeout(refresh.timer);
    refresh.timer = setTimeout(read, DEBOUNCE_MS);
  };

  function take(told) {
    if (told.stage !== stage) return;
    const value = column === "train/loss" ? told.loss : column.startsWith("learning_rate/") ? told.learning_rate : undefined;
    if (value === undefined) return;
    const last = live.at(-1) ?? parts.line.at(-1);
    if (last !== undefined && told.step <= last.step) return;
    live.push({ step: told.step, mean: value, low: value, high: value, attempt: told.attempt });
    if (live.length > KEPT_LIVE) refresh();
    redraw();
  }

  // --- what is shown -----------------------------------------------------------------------------------------

  const all = () => {
    const last = Math.max(parts.line.at(-1)?.step ?? 0, live.at(-1)?.step ?? 0, whole?.last ?? 0, ...ofStage("gates").map((gate) => gate.step));
    return [Math.min(whole?.first ?? 0, 1), Math.max(last, 10)];
  };

  function shown() {
    const span = view ?? all();
    const fine = view !== null && detail !== null && detail.from <= span[0] && detail.to >= span[1] ? detail : parts;
    const line = [...fine.line, ...(view === null || fine === parts || (live[0]?.step ?? 0) > (fine.line.at(-1)?.step ?? 0) ? live : [])];
    return {
      span, line: curveData.within(line, ...span),
      ghosts: fine.ghosts.filter((ghost) => ghost.at(-1).step >= span[0] && ghost[0].step <= span[1]).map((ghost) => curveData.within(ghost, ...span)),
    };
  }

  /** Curves that fall far are read better on a logarithmic scale: that is the choice until a person makes one. */
  const suggestsLog = (line) => {
    const means = line.map((point) => point.mean).filter((mean) => mean !== null);
    return means.length > 1 && Math.min(...means) > 0 && Math.max(...means) / Math.min(...means) > 10;
  };

  function paint() {
    frame = 0;
    const page = WL.current();
    if (page === null || canvas.clientWidth === 0) return;
    const { span, line, ghosts } = shown();
    const scale = log ?? suggestsLog(parts.line);
    const range = curveData.extent([line, ...ghosts], scale) ?? [0, 1];
    const usesLog = scale && range[0] > 0;
    const at = curveDraw.layout(canvas.clientWidth, canvas.clientHeight, span, range, usesLog);
    const attempts = ofStage("attempts");
    scene = {
      at, view: span, range, log: usesLog, line, ghosts, cursor, held, colour: (colour ??= curveDraw.colours()),
      gates: curveDraw.marks(ofStage("gates"), at),
      pieces: curveData.lanes(attempts, page.stages.find((row) => row.stage === stage)?.step ?? 0, curveDraw.LANES),
    };
    curveDraw.draw(canvas, scene);
    canvas.dataset.points = line.length;
    canvas.dataset.last = line.at(-1)?.step ?? "";
    canvas.dataset.ghosts = ghosts.length;
    canvas.dataset.view = view === null ? "all" : view.map(Math.round).join(" ");
    byId("curve-scale").setAttribute("aria-pressed", String(usesLog));
    byId("curve-all").disabled = view === null;
    box.setAttribute("aria-label", `${name(column)} of ${word(stage)}, steps ${integer(span[0])} to ${integer(span[1])}`);
    readOut();
  }

  const redraw = () => {
    if (frame === 0) frame = requestAnimationFrame(paint);
  };

  function readOut() {
    const line = byId("curve-read");
    if (box.dataset.problem) return setText(line, `This curve cannot be read: ${box.dataset.problem}`);
    const point = cursor ?? scene.line.at(-1);
    if (point === undefined) return setText(line, whole === null && WL.isCopy ? "This copy does not hold this curve." : "No history yet.");
    const gate = held === null ? null : WL.current().gates.find((each) => each.id === held);
    const lane = scene.pieces.filter(({ gone, from, to }) => gone && from < point.step && to >= point.step).map(({ row }) => row.attempt);
    const text = [
      `step ${integer(point.step)}`,
      `${name(column)} ${number(point.mean)}${point.low !== null && point.low !== point.high ? ` (${number(point.low)} to ${number(point.high)})` : ""}`,
      `attempt ${point.attempt}`,
      lane.length > 0 ? `rolled back here: attempt ${lane.slice(-3).join(", ")}` : null,
      gate ? `gate: ${word(gateWord(gate))}, ${gate.why}` : null,
    ].filter(Boolean).join("  ·  ");
    setText(line, cursor === null ? `newest: ${text}` : text);
  }

  // --- choosing ----------------------------------------------------------------------------------------------

  function choose(other) {
    if (other === stage) return;
    stage = other;
    whole = detail = view = cursor = held = null;
    parts = { line: [], ghosts: [] };
    live = [];
    drawStages();
    redraw();
    read();
  }

  function drawStages() {
    const stages = (WL.current()?.stages ?? []).filter((row) => row.stage !== "inference");
    WL.morphChildren(byId("curve-stages"), stages.map((row) =>
      el("button", { type: "button", "data-stage": row.stage, "aria-pressed": String(row.stage === stage) }, word(row.stage))));
  }

  function drawColumns() {
    const columns = WL.columns(stage) ?? whole?.columns ?? [];
    const there = [...new Set([column, ...columns])].filter((each) => !each.startsWith("_") || each === column);
    WL.morphChildren(byId("curve-column"), there.map((each) => el("option", { value: each }, name(each))));
    byId("curve-column").value = column;
  }

  byId("curve-stages").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button === null) return;
    followed = false;
    choose(button.dataset.stage);
  });
  byId("curve-column").addEventListener("change", (event) => {
    column = event.target.value;
    detail = cursor = null;
    live = [];
    read();
  });
  byId("curve-scale").addEventListener("click", () => {
    log = !scene.log;
    redraw();
  });

  function zoom(from, to) {
    const [first, last] = all();
    const least = Math.min(10, last - first);
    const width = Math.min(Math.max(to - from, least), last - first);
    const start = Math.min(Math.max(from, first), last - width);
    view = width >= last - first ? null : [start, start + width];
    if (view === null) detail = null;
    else finer();
    redraw();
  }

  byId("curve-all").addEventListener("click", () => {
    zoom(-Infinity, Infinity);
    box.focus();
  });

  // --- following the page ------------------------------------------------------------------------------------

  byId("curve-legend").append(
    el("span", {}, el("i", { class: "key line" }), `mean and range`),
    el("span", {}, el("i", { class: "key ghost" }), "rolled back"),
    ...LEGEND.map(([gate, text]) => el("span", {}, mark(DECISION[gate], 10), text)),
    el("span", {}, el("i", { class: "key bars" }), "attempts (rolled back: outlined, below)"));

  WL.on(["stages", "gates", "attempts", "run"], (page, change) => {
    const trained = page.stages.filter((row) => row.stage !== "inference");
    const newest = trained.findLast((row) => row.step > 0 && row.attempt > 0) ?? trained[0];
    const current = trained.find((row) => row.stage === page.run.stage) ?? newest;
    if (change.whole && page.run.run_id !== run) {
      run = page.run.run_id;
      followed = true;
      stage = null;
    } else if (change.whole) refresh(); // connected again: what is looked at stays
    if (followed && current !== undefined) choose(current.stage);
    else {
      const touched = ["gates", "attempts"].some((field) =>
        [...(change.rows[field]?.values() ?? [])].some((row) => row.stage === stage));
      if (touched) refresh();
    }
    drawStages();
    redraw();
  });
  /** What pointer and keyboard may do with the panel. */
  const panel = {
    box,
    scene: () => scene,
    span: () => view ?? all(),
    zoom,
    gates: () => ofStage("gates"),
    line: () => parts.line,
    read: () => ({ cursor, held }),
    point(at, gate) {
      cursor = at;
      held = gate;
      redraw();
    },
  };
  WL.curveInput(panel);

  WL.on(["progress"], (_, told) => take(told));
  new ResizeObserver(redraw).observe(canvas);

  const recolour = () => {
    colour = null;
    redraw();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  WL.themed = recolour;
})();
