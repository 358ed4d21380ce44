// What happened, newest first, and the attempts: which goes on from which, and what became of it.

(() => {
  "use strict";
  const { byId, el, setText, mark, word, integer, plain, LEVEL, DECISION } = WL;

  WL.follow("notes", new WL.Rows(byId("notes"), (note) =>
    el("li", { class: note.level },
      mark(LEVEL[note.level], 11), el("span", { class: "vh" }, `${note.level}: `),
      el("p", {}, note.text), WL.when(note.time))));

  WL.on(["notes"], (page) => {
    const count = page.notes.filter((note) => note.level === "bad" || note.level === "watch").length;
    setText(byId("notes-count"), count === 0 ? "" : `${integer(count)} to look at`);
    byId("notes").dataset.empty = page.notes.length === 0 ? "Nothing happened yet." : "";
  });

  function came(row) {
    if (row.parent === null) return row.start_step === 0 ? "fresh" : "from a given checkpoint";
    const [stage, attempt] = row.parent.split("/").slice(-2);
    return stage === row.stage || attempt === undefined ? `from attempt ${attempt ?? row.parent}` : `from ${word(stage)} ${attempt}`;
  }

  function became(row) {
    if (row.ended === null) return row.launches > 1 ? "is trained" : "is trained now";
    const end = row.end === "completed" ? "" : word(row.end ?? "");
    return [end, row.decision === null ? "" : word(row.decision)].filter(Boolean).join(", ") || "ended";
  }

  const shape = (row) =>
    row.ended === null ? ["play", "accent"] : row.decision === null ? ["ring", "quiet"] : DECISION[row.decision];

  function attempt(row, old) {
    const gone = row.superseded_from !== null;
    const plan = Object.entries(row.parameters).map(([name, value]) => el("div", {}, el("dt", {}, word(name)), el("dd", {}, plain(value))));
    return el("li", { class: [gone ? "gone" : "", row.parent === null ? "root" : ""].join(" ").trim() || null }, el("details", { class: "metrics", open: old?.querySelector("details").open },
      el("summary", {},
        el("span", { class: "limb", "aria-hidden": "true" }),
        el("span", { class: "who" }, mark(shape(row), 11), `${word(row.stage)} ${row.attempt}`),
        el("span", { class: "quiet" }, came(row)),
        el("span", { class: "right" }, `${integer(row.start_step)} → ${row.end_step === null ? `(${integer(row.target_step)})` : integer(row.end_step)}`),
        el("span", {}, became(row), gone ? " " : null, gone ? el("em", {}, `rolled back from ${integer(row.superseded_from)}`) : null),
        el("span", { class: "quiet" }, [row.launches > 1 ? `${row.launches} launches` : "", row.warm ? "warm" : "", row.device].filter(Boolean).join(", ")),
        el("span", { class: "right quiet" }, row.ended === null ? WL.when(row.began) : WL.duration(row.ended - row.began))),
      el("dl", { class: "inside" }, ...plan)));
  }

  WL.follow("attempts", new WL.Rows(byId("attempts"), attempt));
  WL.on(["attempts"], (page) => {
    const gone = page.attempts.filter((row) => row.superseded_from !== null).length;
    setText(byId("attempts-count"), `${integer(page.attempts.length)}${gone > 0 ? `, ${integer(gone)} rolled back` : ""}`);
    byId("attempts").dataset.empty = page.attempts.length === 0 ? "No chunk was started yet." : "";
  });
})();
