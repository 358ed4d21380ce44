// The page's data: takes whole documents and patches, and tells the views what changed. Contract:
// services/reporter/core/page/model.py.

(() => {
  "use strict";
  const ROWS = ["stages", "gates", "attempts", "sheets", "notes", "gpus", "services", "reports"];
  const GATHER_MS = 50; // patches that come together are drawn together; a timer also runs in a hidden tab

  const views = [];
  const places = {}; // field -> id -> index
  let page = null;
  let ahead = 0; // seconds that the server's clock is ahead of ours
  let change = null; // what is not yet drawn: {whole, fields, rows: field -> id -> row}
  let timer = 0;

  /** Have `draw(page, change)` called after any of the fields has changed; `change.rows[field]` are the rows. */
  const on = (fields, draw) => views.push({ fields, draw });

  function show(whole) {
    page = whole;
    ahead = page.now - Date.now() / 1000;
    change = { whole: true, fields: new Set(Object.keys(page)), rows: {} };
    for (const field of ROWS) {
      places[field] = new Map(page[field].map((row, index) => [row.id, index]));
      change.rows[field] = new Map(page[field].map((row) => [row.id, row]));
    }
    later();
  }

  function patch(fields) {
    if (page === null) return;
    for (const [field, value] of Object.entries(fields)) {
      if (field === "now") ahead = value - Date.now() / 1000;
      change ??= { whole: false, fields: new Set(), rows: {} };
      change.fields.add(field);
      if (!ROWS.includes(field)) {
        page[field] = value;
        continue;
      }
      const rows = (change.rows[field] ??= new Map());
      for (const row of value) {
        if (!places[field].has(row.id)) places[field].set(row.id, page[field].length);
        page[field][places[field].get(row.id)] = row;
        rows.set(row.id, row);
      }
    }
    later();
  }

  /** A telemetry message: the stage's row moves at once, the curve gets its point. */
  function progress(told) {
    if (page === null) return;
    const row = page.stages.find((stage) => stage.stage === told.stage);
    if (row === undefined || told.attempt < row.attempt) return;
    const { step, attempt, loss, learning_rate, frames_per_sec } = told;
    patch({ stages: [{ ...row, step, attempt, loss, learning_rate, frames_per_sec }] });
    for (const { fields, draw } of views) if (fields.includes("progress")) draw(page, told);
  }

  function later() {
    if (timer === 0) timer = setTimeout(draw, GATHER_MS);
  }

  function draw() {
    timer = 0;
    const drawn = change;
    change = null;
    if (drawn === null) return;
    for (const view of views)
      if (view.fields.some((field) => drawn.fields.has(field))) view.draw(page, drawn);
    if (!drawn.whole || document.body.dataset.state === "shown") return;
    document.body.dataset.state = "shown";
    performance.mark("worldloop:shown");
  }

  /** Unix time of the server now; a static copy stays at its own. */
  const now = () => (page !== null && !page.live ? page.now : Date.now() / 1000 + ahead);

  Object.assign(WL, { on, show, patch, progress, now, current: () => page });
})();
