// The top of the page: connection, run chooser, theme, what the run does now and what needs attention.

(() => {
  "use strict";
  const { byId, el, setText, mark, word, STATUS, LEVEL, SHAPES } = WL;
  const SILENT_SECONDS = 30; // heartbeats come every few seconds
  const THEMES = ["auto", "light", "dark"];
  const LINE = {
    connecting: ["ring", "quiet"], live: ["circle", "good"], lost: ["diamond", "bad"], copy: ["square", "quiet"],
    "no runs": ["ring", "quiet"], locked: ["square", "watch"],
  };

  // --- connection --------------------------------------------------------------------------------------------

  let connection = { kind: "connecting", since: null, problem: "" };

  function lineWords() {
    const { kind, since, problem } = connection;
    if (kind === "copy") return `static copy of ${WL.utc(WL.current().now)}`;
    if (kind !== "lost") return kind;
    return `reconnecting since ${WL.clock(since)}${problem ? `: ${problem}` : ""}`;
  }

  function drawLine() {
    const line = byId("line");
    const words = lineWords();
    if (line.textContent === words) return;
    line.replaceChildren(mark(LINE[connection.kind], 10), words);
    line.dataset.kind = connection.kind;
    document.body.dataset.line = connection.kind;
    setText(byId("empty"), connection.kind === "no runs" ? "No run yet. Start one: worldloop train"
      : connection.kind === "locked" ? "Nothing is shown without the token."
      : connection.kind === "lost" ? `The server does not answer${connection.problem ? `: ${connection.problem}` : "."} This page tries again until it does.`
        : "Connecting …");
    drawTitle();
  }

  WL.onConnection((told) => {
    connection = told;
    drawLine();
  });

  // --- runs --------------------------------------------------------------------------------------------------

  let rows = [];
  const runText = (row) =>
    `${row.run_id}  ${row.run_name.replace(/^[\d_]{20}/, "")}  ${word(row.status)}${row.degraded ? " (degraded)" : ""}`;

  function drawRuns() {
    const chosen = WL.current()?.run.run_id;
    const select = byId("runs");
    WL.morphChildren(select, rows.map((row) => el("option", { value: row.run_id }, runText(row)))); // it may be open
    if (chosen !== undefined) select.value = chosen;
    select.disabled = rows.length < 2;
  }

  function runs(told) {
    rows = told;
    drawRuns();
  }

  byId("runs").addEventListener("change", (event) => WL.choose(event.target.value));

  // --- theme -------------------------------------------------------------------------------------------------

  function theme(chosen) {
    if (chosen === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    setText(byId("theme"), `theme: ${chosen}`);
    WL.themed?.();
  }

  function remembered() {
    try {
      return localStorage.getItem("worldloop-theme") ?? "auto";
    } catch {
      return "auto"; // storage is not allowed here
    }
  }

  let chosen = THEMES.includes(remembered()) ? remembered() : "auto";
  byId("theme").addEventListener("click", () => {
    chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length];
    theme(chosen);
    try {
      localStorage.setItem("worldloop-theme", chosen);
    } catch {
      // storage is not allowed here: the choice lives as long as the page
    }
  });
  theme(chosen);

  // --- the run -----------------------------------------------------------------------------------------------

  const figure = (name, value, under = "") => el("div", {}, el("dt", {}, name), el("dd", {}, el("b", {}, value), " ", el("span", {}, under)));

  function figures(page) {
    const { run, eta, goodput } = page;
    const spent = (run.ended ?? WL.now()) - run.began;
    const stage = page.stages.find((each) => each.stage === run.stage);
    const last = run.ended !== null
      ? figure("ended", WL.when(run.ended, { seconds: false }), `took ${WL.duration(spent)}`)
      : figure("all stages trained", eta === null ? "not known yet" : WL.when(eta, { seconds: false }),
        eta === null ? "" : `in ${WL.duration(eta - WL.now(), false)}`);
    WL.morphChildren(byId("figures"), [
      last,
      run.ended === null ? figure("running for", WL.duration(spent)) : figure("began", WL.when(run.began, { seconds: false })),
      ...(run.ended !== null || stage === undefined ? [] : [figure("stage", word(stage.stage),
        stage.target === 0 || stage.stage === "inference" ? "" : WL.percent(stage.step / stage.target))]),
      figure("goodput", WL.percent(goodput.fraction, 1), "of the time trained what counts"),
    ]);
  }

  /** What a person should look at: [level, text]; derived, so that it goes away by itself. */
  function worries(page) {
    const found = [];
    const accepted = Math.max(0, ...page.gates.filter((gate) => gate.accepted).map((gate) => gate.time));
    const going = page.run.ended === null;
    const alarm = page.notes.findLast((note) => note.level === "bad" || note.level === "watch");
    const good = ["passed", "stage_completed"].includes(page.run.status);
    if (alarm !== undefined && !good && (alarm.time > accepted || !going)) found.push([alarm.level, alarm.text]);
    for (const gpu of page.gpus) if (gpu.problem !== null) found.push(["watch", `${gpu.name}: ${gpu.problem}`]);
    for (const service of page.services) {
      const age = service.heard === null ? null : WL.now() - service.heard;
      if (going && (age === null || age > SILENT_SECONDS))
        found.push(["bad", `${service.service} ${age === null ? "was never heard of" : `is silent for ${WL.duration(age)}`}`]);
      if (service.dead > 0) found.push(["bad", `${service.service} could not handle ${service.dead} message${service.dead === 1 ? "" : "s"} (dead letters)`]);
    }
    for (const stage of page.stages) {
      if (stage.state !== "complete" && stage.retries_max > 0 && stage.retries_used >= stage.retries_max - 1 && stage.retries_used > 0)
        found.push(["watch", `${word(stage.stage)}: ${stage.retries_used} of ${stage.retries_max} retries used`]);
    }
    for (const report of page.reports) if (report.error !== null) found.push(["bad", `report ${report.kind}: ${report.error}`]);
    if (page.run.degraded) found.push(["watch", "degraded: a stage runs with less than it was asked to"]);
    return found;
  }

  function drawAttention(page) {
    const found = worries(page);
    const texts = found.map(([level, text]) => level + text).join("\n");
    const list = byId("attention");
    if (list.dataset.texts === texts && list.children.length > 0) return;
    list.dataset.texts = texts;
    const item = ([level, text]) => el("li", { class: level }, mark(LEVEL[level]), el("span", {}, text));
    list.replaceChildren(...(found.length > 0 ? found : [["good", "Nothing needs attention."]]).map(item));
  }

  function drawTitle() {
    const page = WL.current();
    if (page === null) return;
    const stage = page.stages.find((each) => each.stage === page.run.stage);
    const done = stage !== undefined && stage.target > 0 && page.run.ended === null
      ? ` · ${word(stage.stage)} ${WL.percent(stage.step / stage.target)}` : "";
    const [shape, tone, name] = STATUS[page.run.status];
    document.title = `${connection.kind === "lost" ? "(no server) " : ""}${name}${done} · ${page.run.run_name || page.run.run_id}`;
    const colour = { good: "#18794e", bad: "#b3261e", watch: "#b7791f", accent: "#2457d6", quiet: "#6b7280" }[tone];
    const picture = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path fill="${colour}" d="${SHAPES[shape]}" fill-rule="evenodd"/></svg>`;
    const address = `data:image/svg+xml,${encodeURIComponent(picture)}`;
    if (byId("icon").href !== address) byId("icon").href = address;
  }

  WL.on(["run", "phase", "reason", "mode", "profile", "dataset", "eta", "goodput", "stages", "gates", "notes", "gpus", "services", "reports"], (page, change) => {
    const [shape, tone, name] = STATUS[page.run.status];
    const status = byId("status");
    if (status.dataset.shown !== page.run.status + page.run.degraded) {
      status.dataset.shown = page.run.status + page.run.degraded;
      status.className = tone;
      status.replaceChildren(mark([shape, tone], 22), name, page.run.degraded ? el("small", {}, "degraded") : "");
    }
    setText(byId("name"), [page.run.run_name, page.profile, page.dataset, page.mode].filter(Boolean).join(" · "));
    setText(byId("phase"), page.phase);
    setText(byId("reason"), page.reason);
    figures(page);
    drawAttention(page);
    drawTitle();
    if (change.whole || change.fields.has("run")) drawRuns();
    setText(byId("about"), page.live
      ? `Bundle ${page.bundle}. Times are local; hover for UTC.`
      : `Static copy of ${WL.utc(page.now)}: figures and curves as they were then; nothing is updated and nothing can be controlled here. Links go to files of the bundle ${page.bundle}. Times are local; hover for UTC.`);
    drawLine();
  });

  setInterval(() => {
    const page = WL.current();
    if (page === null || !page.live) return;
    figures(page);
    drawAttention(page);
    drawLine();
  }, 1000);

  Object.assign(WL, { runs, SILENT_SECONDS });
})();
