// Draws the curve: gates on top, the line with its band, attempts below on the same steps. Knows no events.

(() => {
  "use strict";
  const { SHAPES, DECISION, gateWord, short, number, curveData } = WL;
  const TONES = ["ink", "quiet", "line", "grid", "accent", "good", "watch", "bad", "on-accent"];
  const FRAME = { left: 58, right: 14, top: 34, lane: 13, lanes: 3, axis: 20 };
  const CROWDED = 9; // pixels: gates closer than this are drawn as one, the worst of them
  const WORST = ["continue", "watch", "retune", "restart_stage", "stop"];
  const paths = Object.fromEntries(Object.entries(SHAPES).map(([name, path]) => [name, new Path2D(path)]));

  /** The colours in force, as the canvas wants them. */
  function colours() {
    const probe = document.body.appendChild(WL.el("i", { hidden: true }));
    const found = {};
    for (const tone of TONES) {
      probe.style.color = `var(--${tone})`;
      found[tone] = getComputedStyle(probe).color;
    }
    probe.remove();
    return found;
  }

  /** Where things are: `x` and `y` from step and value to pixels, `step` back. */
  function layout(width, height, view, range, log) {
    const bottom = height - FRAME.axis - FRAME.lanes * FRAME.lane;
    const inner = width - FRAME.left - FRAME.right;
    const scale = log ? Math.log : (value) => value;
    const [low, high] = range.map(scale);
    return {
      left: FRAME.left, right: width - FRAME.right, top: FRAME.top, bottom, lanes: bottom + FRAME.axis,
      x: (step) => FRAME.left + (inner * (step - view[0])) / (view[1] - view[0]),
      step: (x) => view[0] + ((x - FRAME.left) * (view[1] - view[0])) / inner,
      y: (value) => bottom - ((bottom - FRAME.top) * (scale(value) - low)) / (high - low),
    };
  }

  /** Gates in sight, those too close together as one: {x, gate, gates}; the newest of the worst stands for them. */
  function marks(gates, at) {
    const found = [];
    for (const gate of [...gates].sort((one, other) => one.step - other.step)) {
      const x = at.x(gate.step);
      if (x < at.left - 1 || x > at.right + 1) continue;
      const last = found.at(-1);
      if (last === undefined || x - last.x > CROWDED) found.push({ x, gate, gates: [gate] });
      else {
        last.gates.push(gate);
        if (WORST.indexOf(gateWord(gate)) >= WORST.indexOf(gateWord(last.gate))) last.gate = gate;
      }
    }
    return found;
  }

  function shape(pen, [name, tone], x, y, size, colour) {
    pen.save();
    pen.translate(x - size / 2, y - size / 2);
    pen.scale(size / 16, size / 16);
    pen.fillStyle = colour[tone];
    pen.fill(paths[name], "evenodd");
    pen.restore();
  }

  function path(pen, points, at, log) {
    pen.beginPath();
    let open = false;
    for (const { step, mean } of points) {
      if (mean === null || (log && mean <= 0)) open = false;
      else if (open) pen.lineTo(at.x(step), at.y(mean));
      else {
        pen.moveTo(at.x(step), at.y(mean));
        open = true;
      }
    }
    pen.stroke();
  }

  function band(pen, points, at, log) {
    const runs = [[]];
    for (const point of points) {
      if (point.low === null || point.high === null || (log && point.high <= 0)) runs.push([]);
      else runs.at(-1).push(point);
    }
    const floor = (value) => (log && value <= 0 ? at.bottom : at.y(value));
    for (const run of runs) {
      if (run.length < 2) continue;
      pen.beginPath();
      run.forEach((point) => pen.lineTo(at.x(point.step), floor(point.high)));
      run.toReversed().forEach((point) => pen.lineTo(at.x(point.step), floor(point.low)));
      pen.fill();
    }
  }

  function axes(pen, at, view, range, log, colour) {
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = colour.quiet;
    pen.strokeStyle = colour.grid;
    pen.lineWidth = 1;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const value of curveData.ticks(...range, 6, log)) {
      const y = Math.round(at.y(value)) + 0.5;
      pen.beginPath();
      pen.moveTo(at.left, y);
      pen.lineTo(at.right, y);
      pen.stroke();
      pen.fillText(number(value, 3), at.left - 7, y);
    }
    pen.textAlign = "center";
    for (const step of curveData.ticks(...view, Math.max(4, (at.right - at.left) / 80), false)) {
      const x = at.x(step);
      if (x > at.left + 10 && x < at.right - 8) pen.fillText(short(step), x, at.bottom + FRAME.axis / 2 + 1);
    }
    pen.strokeStyle = colour.line;
    pen.strokeRect(at.left + 0.5, at.top + 0.5, at.right - at.left - 1, at.bottom - at.top);
  }

  function gateMarks(pen, found, at, colour, held) {
    for (const { x, gate } of found) {
      const bad = !gate.accepted;
      pen.strokeStyle = bad ? colour.bad : colour.line;
      pen.globalAlpha = gate.id === held ? 1 : found.length > 40 ? 0.2 : bad ? 0.55 : 0.9; // many lines hide the curve
      pen.lineWidth = gate.id === held ? 2 : 1;
      pen.setLineDash(bad ? [3, 3] : []);
      pen.beginPath();
      pen.moveTo(Math.round(x) + 0.5, at.top);
      pen.lineTo(Math.round(x) + 0.5, at.bottom);
      pen.stroke();
      pen.setLineDash([]);
      pen.globalAlpha = 1;
      if (bad && gate.resume_step < gate.step) rollback(pen, x, Math.max(at.left, at.x(gate.resume_step)), at.top - 6, colour);
    }
    for (const { x, gate } of found) shape(pen, DECISION[gateWord(gate)], x, at.top - 21, gate.id === held ? 15 : 11, colour);
  }

  /** From the failed gate back to the step it went on from. */
  function rollback(pen, from, to, y, colour) {
    if (from - to < 5) return;
    pen.strokeStyle = colour.bad;
    pen.fillStyle = colour.bad;
    pen.lineWidth = 1.25;
    pen.beginPath();
    pen.moveTo(from, y - 4);
    pen.lineTo(from, y);
    pen.lineTo(to + 4, y);
    pen.stroke();
    pen.beginPath();
    pen.moveTo(to, y);
    pen.lineTo(to + 6, y - 3.2);
    pen.lineTo(to + 6, y + 3.2);
    pen.fill();
  }

  function attemptBars(pen, pieces, at, colour) {
    const height = FRAME.lane - 2;
    const middle = (lane) => at.lanes + lane * FRAME.lane + height / 2;
    pen.font = "9px system-ui, sans-serif";
    pen.textBaseline = "middle";
    pen.textAlign = "center";
    for (const { row, from, to, lane, gone } of pieces) {
      const left = Math.max(at.left, at.x(from));
      const right = Math.min(at.right, at.x(to));
      if (right < at.left || left > at.right) continue;
      const width = Math.max(1.5, right - left - 1);
      const top = middle(lane) - height / 2;
      if (gone) {
        pen.strokeStyle = colour.quiet;
        pen.lineWidth = 1;
        pen.beginPath();
        pen.moveTo(left, middle(0));
        pen.lineTo(left, middle(lane));
        pen.stroke();
        pen.setLineDash([3, 2]);
        pen.strokeRect(left + 0.5, top + 0.5, Math.max(1, width - 1), height - 1);
        pen.setLineDash([]);
      } else {
        pen.fillStyle = colour.accent;
        pen.globalAlpha = row.attempt % 2 === 1 ? 1 : 0.75;
        pen.fillRect(left, top, width, height);
        pen.globalAlpha = 1;
      }
      pen.fillStyle = gone ? colour.quiet : colour["on-accent"];
      if (width > 8 + 6 * String(row.attempt).length) pen.fillText(row.attempt, left + width / 2, middle(lane) + 0.5);
      if (row.end_step === null && row.target_step > to) {
        pen.strokeStyle = colour.accent;
        pen.strokeRect(right + 0.5, top + 0.5, Math.max(1, Math.min(at.right, at.x(row.target_step)) - right - 1), height - 1);
      }
    }
  }

  /**
   * Draw all of it.
   *
   * scene: {view, range, log, line, ghosts, live, gates (of `marks`), pieces, cursor (a point or null), held}
   */
  function draw(canvas, scene) {
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    const density = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * density) || canvas.height !== Math.round(height * density)) {
      canvas.width = Math.round(width * density);
      canvas.height = Math.round(height * density);
    }
    const pen = canvas.getContext("2d");
    const { at, view, range, log, colour } = scene;
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.lineJoin = "round";
    axes(pen, at, view, range, log, colour);
    gateMarks(pen, scene.gates, at, colour, scene.held);
    pen.save();
    pen.beginPath();
    pen.rect(at.left, at.top, at.right - at.left, at.bottom - at.top);
    pen.clip();
    pen.fillStyle = colour.accent;
    pen.globalAlpha = 0.18;
    band(pen, scene.line, at, log);
    pen.globalAlpha = 0.75;
    pen.strokeStyle = colour.quiet;
    pen.lineWidth = 1.25;
    pen.setLineDash([4, 3]);
    scene.ghosts.forEach((ghost) => path(pen, ghost, at, log));
    pen.setLineDash([]);
    pen.globalAlpha = 1;
    pen.strokeStyle = colour.accent;
    pen.lineWidth = 1.6;
    path(pen, scene.line, at, log);
    if (scene.cursor !== null) {
      const x = Math.round(at.x(scene.cursor.step)) + 0.5;
      pen.strokeStyle = colour.ink;
      pen.lineWidth = 1;
      pen.beginPath();
      pen.moveTo(x, at.top);
      pen.lineTo(x, at.bottom);
      pen.stroke();
      if (scene.cursor.mean !== null && (!log || scene.cursor.mean > 0)) {
        pen.fillStyle = colour.ink;
        pen.beginPath();
        pen.arc(x, at.y(scene.cursor.mean), 3.5, 0, 7);
        pen.fill();
      }
    }
    pen.restore();
    attemptBars(pen, scene.pieces, at, colour);
  }

  Object.assign(WL, { curveDraw: { draw, layout, marks, colours, LANES: FRAME.lanes } });
})();
