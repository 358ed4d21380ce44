// The GPUs with what they did of late, and the services with their heartbeats and queues.

(() => {
  "use strict";
  const { byId, el, svg, mark, bytes, integer, SILENT_SECONDS } = WL;
  const WIDTH = 240;
  const HEIGHT = 30;
  const SPAN_SECONDS = 600;

  /** Utilization over the last samples: gaps stay gaps. */
  function spark(recent) {
    if (recent.length < 2) return svg("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}` });
    const last = recent.at(-1)[0];
    const first = Math.max(recent[0][0], last - SPAN_SECONDS);
    const x = (time) => ((WIDTH * (time - first)) / Math.max(last - first, 1)).toFixed(1);
    const y = (percent) => (HEIGHT - 1 - (percent / 100) * (HEIGHT - 2)).toFixed(1);
    let path = "";
    let open = false;
    for (const [time, percent] of recent) {
      if (percent !== null && time >= first) path += `${open ? "L" : "M"}${x(time)} ${y(percent)}`;
      open = percent !== null && time >= first;
    }
    return svg("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("path", { d: path, "vector-effect": "non-scaling-stroke" }));
  }

  function gpu(row) {
    const used = row.memory !== null && row.memory_total ? row.memory / row.memory_total : null;
    const meter = el("i");
    if (used !== null) meter.style.width = `${Math.min(100, 100 * used)}%`;
    return el("li", {},
      el("p", {}, el("b", {}, row.name),
        el("span", { class: "right" }, row.utilization === null ? "not read" : `${Math.round(row.utilization)} %`)),
      spark(row.recent),
      row.memory === null ? null : el("p", { class: "quiet" }, el("span", { class: "meter", "aria-hidden": "true" }, meter),
        el("span", { class: "right" }, `${bytes(row.memory)}${row.memory_total ? ` of ${bytes(row.memory_total)}` : ""}`)),
      row.problem === null ? null : el("p", { class: "watch" }, mark(["triangle", "watch"], 11), row.problem));
  }

  const count = (value) => (value === null ? "–" : integer(value));

  function service(row, live, ended) {
    const age = row.heard === null ? null : WL.now() - row.heard;
    const silent = !ended && (age === null || age > SILENT_SECONDS);
    return el("tr", { "data-service": row.service, class: silent ? "silent" : null },
      el("th", { scope: "row", title: [row.host, row.pid === null ? null : `pid ${row.pid}`].filter(Boolean).join(", ") },
        mark(silent ? ["diamond", "bad"] : ended ? ["ring", "quiet"] : ["circle", "good"], 9), row.service,
        row.working_on.length > 0 ? el("small", { class: "quiet" }, row.working_on.join(", ")) : null),
      el("td", { title: row.heard === null ? "" : WL.utc(row.heard) }, age === null ? "never" : age < 1.5 ? "now" : `${WL.duration(age)} ${live ? "ago" : "before"}`),
      el("td", {}, count(row.waiting)), el("td", {}, count(row.unsettled)),
      el("td", { class: row.dead > 0 ? "bad" : null }, row.dead > 0 ? mark(["diamond", "bad"], 9) : null, count(row.dead)));
  }

  function services(page) {
    WL.morphChildren(byId("services"), page.services.map((row) => service(row, page.live, page.run.ended !== null)));
  }

  WL.on(["gpus"], (page) =>
    WL.morphChildren(byId("gpus"), page.gpus.length > 0 ? page.gpus.map(gpu) : [el("li", { class: "quiet" }, "No samples yet.")]));
  WL.on(["services", "run"], services);
  setInterval(() => WL.current()?.live && services(WL.current()), 1000);
})();
