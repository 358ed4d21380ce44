// The gates: one line each, and on demand every value against its threshold with the evidence.

(() => {
  "use strict";
  const { byId, el, setText, mark, word, number, integer, plain, DECISION, gateWord } = WL;

  const failed = (gate) => !gate.accepted;

  const kept = (gate) =>
    (byId("gates-stage").value === "" || gate.stage === byId("gates-stage").value)
    && (!byId("gates-failed").checked || failed(gate));

  const changed = (changes) => Object.entries(changes).map(([knob, value]) => `${word(knob)} ${plain(value)}`).join(", ");

  /** A link to a file of the bundle, or its path where a browser cannot show it. */
  function file(link) {
    const address = WL.address(link.path);
    return address === null ? el("span", { class: "path", title: link.path }, link.text)
      : el("a", { href: address, target: "_blank", rel: "noopener", title: link.path }, link.text);
  }

  function values(gate) {
    const line = (value) =>
      el("tr", { class: value.ok ? null : "failed" },
        el("td", {}, mark(value.ok ? ["check", "good"] : ["cross", "bad"], 11), value.ok ? "ok" : "failed"),
        el("th", { scope: "row" }, word(value.name)),
        el("td", { class: "right" }, value.value),
        el("td", { class: "right" }, value.threshold),
        el("td", { class: "why" }, value.text));
    return el("table", { class: "values" },
      el("caption", { class: "vh" }, "Values against thresholds"),
      el("thead", {}, el("tr", {}, ...["", "check", "value", "limit", "what it means"].map((name, index) =>
        el("th", { scope: "col", class: index === 2 || index === 3 ? "right" : null }, name)))),
      el("tbody", {}, ...gate.values.map(line)));
  }

  const fact = (name, ...value) => el("div", {}, el("dt", {}, name), el("dd", {}, ...value));
  const apart = (nodes) => nodes.flatMap((node, index) => (index === 0 ? [node] : [" · ", node]));

  function details(gate) {
    const metrics = Object.entries(gate.metrics).filter(([, value]) => value !== null);
    return el("div", { class: "inside" },
      el("p", { class: "verdict" }, gate.why),
      gate.observed === null ? null : el("p", { class: "quiet" }, `Only observed: ${gate.observed}`),
      el("div", { class: "across" }, values(gate)),
      el("dl", { class: "facts" },
        fact("updates", `${integer(gate.start_step)} to ${integer(gate.step)}${gate.superseded ? ", rolled back" : ""}`),
        fact("goes on from", gate.resume_from === null ? (gate.stage === "inference" ? "–" : "fresh weights")
          : file(gate.resume_from), gate.resume_from === null ? "" : ` at ${integer(gate.resume_step)}`),
        fact("changed", changed(gate.changes) || "nothing"),
        fact("effective batch", integer(gate.effective_batch)),
        fact("retries used", `${gate.retries_used} of ${gate.retries_max}`),
        gate.dual_gpu_ok === null ? null : fact("both GPUs worked", gate.dual_gpu_ok ? "yes" : "no"),
        gate.degraded ? fact("degraded", "yes") : null,
        gate.evidence.length === 0 ? null : fact("evidence", ...apart(gate.evidence.map(file)))),
      gate.recommendations.length === 0 ? null
        : el("ul", { class: "advice" }, ...gate.recommendations.map((text) => el("li", {}, text))),
      metrics.length === 0 ? null : el("details", { class: "metrics" }, el("summary", {}, `all ${metrics.length} numbers`),
        el("dl", {}, ...metrics.map(([name, value]) => fact(word(name), number(value))))));
  }

  function line(gate, old) {
    const name = gateWord(gate);
    const made = el("details", {},
      el("summary", { class: "gate" },
        el("span", { class: `decision ${DECISION[name][1]}` }, mark(DECISION[name]), word(name)),
        el("span", {}, word(gate.stage)),
        el("span", { class: "right", "data-name": "step" }, integer(gate.step)),
        el("span", { class: "right quiet", "data-name": "attempt" }, String(gate.attempt)),
        el("span", { class: "why", title: gate.why }, gate.superseded ? el("em", {}, "rolled back") : null, gate.superseded ? " " : null, gate.why),
        el("span", { class: "right quiet" }, WL.when(gate.time)),
        changed(gate.changes) === "" ? null : el("span", { class: "changed", title: changed(gate.changes) }, `→ ${changed(gate.changes)}`)));
    const item = el("li", { class: gate.superseded ? "gone" : null }, made);
    made.addEventListener("toggle", () => {
      if (made.open && made.children.length === 1) made.append(details(gate));
    });
    if (old?.querySelector("details").open) made.open = true;
    return item;
  }

  const rows = new WL.Rows(byId("gates"), line, kept);

  function count(page) {
    const seen = page.gates.filter(kept).length;
    setText(byId("gates-count"), seen === page.gates.length ? `${integer(seen)} decided, ${integer(page.gates.filter(failed).length)} failed`
      : `${integer(seen)} of ${integer(page.gates.length)}`);
    byId("gates").dataset.empty = seen > 0 ? "" : page.gates.length === 0 ? "No gate was decided yet." : "No gate is like that.";
  }

  function filter() {
    rows.filter(WL.current().gates);
    count(WL.current());
  }

  byId("gates-failed").addEventListener("change", filter);
  byId("gates-stage").addEventListener("change", filter);

  /** Open a gate's details and bring it into view. */
  function openGate(id) {
    const gate = WL.current().gates.find((each) => each.id === id);
    if (!kept(gate)) {
      byId("gates-stage").value = "";
      byId("gates-failed").checked = false;
      filter();
    }
    const made = rows.find(id);
    made.querySelector("details").open = true;
    made.scrollIntoView({ block: "nearest", behavior: "instant" });
    made.querySelector("summary").focus();
  }

  WL.on(["gates"], (page, change) => {
    if (change.whole) {
      const chosen = byId("gates-stage").value;
      const stages = [...new Set(page.stages.map((row) => row.stage))];
      byId("gates-stage").replaceChildren(el("option", { value: "" }, "all stages"), ...stages.map((stage) => el("option", { value: stage }, word(stage))));
      byId("gates-stage").value = stages.includes(chosen) ? chosen : "";
    }
    count(page);
  });
  WL.follow("gates", rows);

  Object.assign(WL, { openGate, file });
})();
