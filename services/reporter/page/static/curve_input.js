// The curve by mouse, finger and keyboard: read a point, zoom, go from gate to gate, open one.

(() => {
  "use strict";
  const { byId, curveData } = WL;
  const NEAR = 10; // pixels from a gate that still mean it
  const DRAGGED = 8; // pixels that make a press a drag

  function curveInput(panel) {
    const { box } = panel;
    const drag = byId("curve-drag");
    let pressed = null; // x where the pointer went down

    // --- pointer ---------------------------------------------------------------------------------------------

    const place = (event) => {
      const { left, top } = box.getBoundingClientRect();
      const { at } = panel.scene();
      return { x: Math.min(Math.max(event.clientX - left, at.left), at.right), y: event.clientY - top };
    };

    function gateAt({ x, y }) {
      const { at, gates } = panel.scene();
      if (y > at.top + 4) return null;
      const near = gates.map((each) => [Math.abs(each.x - x), each.gate]).sort(([one], [other]) => one - other)[0];
      return near !== undefined && near[0] < NEAR ? near[1] : null;
    }

    function nearest(line, step) {
      const index = curveData.after(line, step);
      const near = [line[index - 1], line[index]].filter((point) => point !== undefined);
      return near.sort((one, other) => Math.abs(one.step - step) - Math.abs(other.step - step))[0] ?? null;
    }

    function read(event) {
      const here = place(event);
      const gate = gateAt(here);
      const { at, line } = panel.scene();
      box.style.cursor = gate === null ? "crosshair" : "pointer";
      panel.point(nearest(line, gate === null ? at.step(here.x) : gate.step), gate?.id ?? null);
      return { ...here, gate };
    }

    box.addEventListener("pointerdown", (event) => {
      if (panel.scene() === null || event.button !== 0) return;
      pressed = read(event).x;
      box.setPointerCapture(event.pointerId);
    });
    box.addEventListener("pointermove", (event) => {
      if (panel.scene() === null) return;
      const { x } = read(event);
      if (pressed === null) return;
      drag.hidden = Math.abs(x - pressed) < DRAGGED;
      drag.style.left = `${Math.min(x, pressed)}px`;
      drag.style.width = `${Math.abs(x - pressed)}px`;
    });
    box.addEventListener("pointerup", (event) => {
      if (pressed === null) return;
      const { x, gate } = read(event);
      const [from, to] = [Math.min(x, pressed), Math.max(x, pressed)];
      const { at } = panel.scene();
      release();
      if (to - from >= DRAGGED) panel.zoom(at.step(from), at.step(to));
      else if (gate !== null) WL.openGate(gate.id);
    });
    box.addEventListener("pointercancel", release);
    box.addEventListener("pointerleave", () => pressed === null && panel.point(null, null));
    box.addEventListener("dblclick", () => panel.zoom(-Infinity, Infinity));

    function release() {
      pressed = null;
      drag.hidden = true;
    }

    // --- keyboard --------------------------------------------------------------------------------------------

    function move(by) {
      const { line } = panel.scene();
      const { cursor } = panel.read();
      const index = (cursor === null ? line.length : curveData.after(line, cursor.step)) + by;
      panel.point(line[Math.min(Math.max(index, 0), line.length - 1)] ?? null, null);
    }

    function toGate(by) {
      const gates = panel.gates().sort((one, other) => one.step - other.step || one.time - other.time);
      if (gates.length === 0) return;
      const here = gates.findIndex((gate) => gate.id === panel.read().held);
      const next = here >= 0 ? here + by : by < 0 ? gates.length - 1 : 0;
      const gate = gates[Math.min(Math.max(next, 0), gates.length - 1)];
      const [from, to] = panel.span();
      if (gate.step < from || gate.step > to) panel.zoom(gate.step - (to - from) / 2, gate.step + (to - from) / 2);
      panel.point(nearest(panel.line(), gate.step), gate.id);
    }

    function scale(by) {
      const [from, to] = panel.span();
      const middle = panel.read().cursor?.step ?? (from + to) / 2;
      panel.zoom(middle - by * (middle - from), middle + by * (to - middle));
    }

    const KEYS = {
      ArrowLeft: (event) => move(event.shiftKey ? -25 : -1),
      ArrowRight: (event) => move(event.shiftKey ? 25 : 1),
      Home: () => move(-Infinity),
      End: () => move(Infinity),
      PageUp: () => toGate(-1),
      PageDown: () => toGate(1),
      "+": () => scale(0.5),
      "=": () => scale(0.5),
      "-": () => scale(2),
      0: () => panel.zoom(-Infinity, Infinity),
      Escape: () => panel.point(null, null),
      Enter: () => panel.read().held !== null && WL.openGate(panel.read().held),
    };

    box.addEventListener("keydown", (event) => {
      const act = KEYS[event.key];
      if (act === undefined || panel.scene() === null || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      act(event);
    });
  }

  Object.assign(WL, { curveInput });
})();
