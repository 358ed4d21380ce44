// Where the data comes from: the server's stream, or the elements of a static copy. Holds the connection's state.

(() => {
  "use strict";
  const { byId } = WL;
  const WAITS_MS = [500, 1000, 2000, 4000];
  const SILENT_MS = 45000; // the server says something every few seconds: after so long the line is dead
  const OPENS = /\.(png|webp|jpe?g|gif|mp4|md|csv|jsonl?|ya?ml|txt|log)$/i;

  const held = (id) => (byId(id) === null ? null : JSON.parse(byId(id).textContent));
  const copy = held("page");
  const copies = held("histories") ?? {};
  const watchers = [];
  let run = copy?.run.run_id ?? new URLSearchParams(location.search).get("run");
  let stream = null;
  let failures = 0;
  let lost = null; // unix time of our clock since when there is no server
  let heard = 0;
  let refusal = ""; // why the server would not answer, if it said so

  /** The address may carry the token behind `#`, which browsers do not send; it does not stay there. */
  function taken() {
    const given = new URLSearchParams(location.hash.slice(1)).get("token");
    if (given !== null) history.replaceState(null, "", location.pathname + location.search);
    return given;
  }

  /** Have `tell({kind, since, problem})` called when the connection changes. */
  const onConnection = (tell) => watchers.push(tell);
  const say = (kind, problem = "") => watchers.forEach((tell) => tell({ kind, since: lost, problem }));

  const path = (...parts) => `api/runs/${parts.map((part) => encodeURIComponent(part)).join("/")}`;

  async function answer(response) {
    const body = await response.json().catch(() => ({}));
    if (!response.ok)
      throw Object.assign(new Error(body.error ?? `the server answered ${response.status}`), { status: response.status });
    return body;
  }

  const post = (to, body) =>
    fetch(to, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) }).then(answer);

  /** Show the server the token; it answers with a cookie that no script can read. */
  async function login(token) {
    await post("api/session", { token });
    if (stream === null) await connect();
  }

  async function begin() {
    if (copy !== null) {
      WL.runs([copy.run]);
      WL.show(copy);
      say("copy");
      return;
    }
    say("connecting");
    setInterval(() => stream !== null && Date.now() - heard > SILENT_MS && fail(), 5000);
    const token = taken();
    // a wrong one is asked for again by what it does not open
    if (token !== null) await post("api/session", { token }).catch(() => null);
    await connect();
  }

  addEventListener("hashchange", () => {
    const token = taken();
    if (token !== null) login(token).catch(() => null);
  });

  async function connect() {
    try {
      const rows = await fetch("api/runs").then(answer);
      WL.runs(rows);
      run ??= rows[0]?.run_id ?? null;
    } catch (error) {
      return error.status === 401 ? locked() : fail(error instanceof TypeError ? "" : error.message);
    }
    if (run === null) {
      retry(2000);
      return say("no runs");
    }
    return listen();
  }

  function listen() {
    const line = new EventSource(path(run, "stream"));
    stream = line;
    heard = Date.now();
    const hear = (name, take) =>
      line.addEventListener(name, (event) => {
        if (stream !== line) return;
        heard = Date.now();
        take(JSON.parse(event.data));
      });
    hear("page", (page) => {
      failures = 0;
      lost = null;
      refusal = "";
      WL.show(page);
      say("live");
    });
    hear("patch", WL.patch);
    hear("progress", WL.progress);
    hear("runs", (rows) => WL.runs(rows));
    line.onerror = () => stream === line && fail();
  }

  /** Nothing is shown without the token: wait for it instead of trying again. */
  function locked() {
    stream?.close();
    stream = null;
    clearTimeout(waiting);
    say("locked");
  }

  async function fail(problem = "") {
    stream?.close();
    stream = null;
    lost ??= Date.now() / 1000;
    if (problem !== "") refusal = problem;
    say("lost", refusal);
    retry(WAITS_MS[Math.min(failures++, WAITS_MS.length - 1)]);
    if (run === null || problem !== "") return;
    // An event stream hides why it was refused: ask for the document, which says so in words.
    const refused = await fetch(path(run)).then(answer).catch((error) => error);
    if (refused.status === 401) return locked();
    refusal = refused instanceof Error && !(refused instanceof TypeError) ? refused.message : "";
    if (lost !== null) say("lost", refusal);
  }

  let waiting = 0;
  function retry(wait) {
    clearTimeout(waiting);
    waiting = setTimeout(() => stream ?? connect(), wait);
  }

  function choose(other) {
    if (other === run) return;
    run = other;
    history.pushState(null, "", `?run=${encodeURIComponent(other)}`);
    restart();
  }

  function restart() {
    stream?.close();
    stream = null;
    clearTimeout(waiting);
    say("connecting");
    listen();
  }

  addEventListener("popstate", () => {
    const wanted = new URLSearchParams(location.search).get("run");
    if (copy !== null || wanted === null || wanted === run) return;
    run = wanted;
    restart();
  });

  /** A stage's column between two steps, thinned; null in a static copy that has only the whole. */
  async function curve(stage, column, from = null, to = null, points = 1500) {
    if (copy !== null) return from === null ? copies[stage]?.[column] ?? null : null;
    const query = new URLSearchParams({ column, points });
    if (from !== null) query.set("from", Math.floor(from));
    if (to !== null) query.set("to", Math.ceil(to));
    return fetch(`${path(run, "history", stage)}?${query}`).then(answer);
  }

  const columns = (stage) => (copy !== null ? Object.keys(copies[stage] ?? {}) : null);

  /** Ask for an action; the text of a refusal is thrown as an Error, `status` says its kind. */
  const ask = (action, body) => post(path(run, "actions", action), body);

  /** Where a file of the bundle is; null for what a browser cannot show, as a checkpoint's directory. */
  function address(file) {
    if (!OPENS.test(file) || file.split("/").includes("..")) return null;
    const inside = file.split("/").map((part) => encodeURIComponent(part)).join("/");
    return copy !== null ? `../../${inside}` : `${path(run)}/files/${inside}`;
  }

  Object.assign(WL, { begin, choose, curve, columns, ask, login, locked, address, onConnection, isCopy: copy !== null });
})();
