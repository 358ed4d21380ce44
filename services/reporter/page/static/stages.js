// One card a stage: how far, how fast, what it has left to try.

(() => {
  "use strict";
  const { byId, el, mark, word, number, STATE } = WL;

  const pair = (name, value, title = null) => el("div", { title }, el("dt", {}, name), el("dd", {}, value));

  function bar(row) {
    const whole = Math.max(row.target, row.step, 1);
    const part = (name, steps) => {
      const made = el("i", { class: name });
      made.style.width = `${(100 * Math.max(0, steps)) / whole}%`;
      return made;
    };
    const track = el("div", {
      class: "progress", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": row.target, "aria-valuenow": row.step,
      "aria-label": `${word(row.stage)}: updates done`,
    }, part("accepted", Math.min(row.accepted_step, row.step)), part("open", row.step - Math.min(row.accepted_step, row.step)));
    if (row.chunk_target !== null && row.chunk_target < whole) {
      const tick = el("b", { title: `next gate at ${WL.integer(row.chunk_target)}` });
      tick.style.left = `${(100 * row.chunk_target) / whole}%`;
      track.append(tick);
    }
    return track;
  }

  const budget = (used, most) => {
    const dots = [...Array(Math.min(most, 12)).keys()].map((index) => (index < used ? "●" : "○")).join("");
    return el("span", { title: `${used} of ${most} used` }, `${used} of ${most} `, el("span", { class: "dots", "aria-hidden": "true" }, dots));
  };

  function ladder(row) {
    if (row.rungs.length === 0) return null;
    const climbed = row.climbed.length;
    return el("details", { class: "ladder" },
      el("summary", {}, `ladder: ${climbed === 0 ? "not needed yet" : `climbed ${climbed} time${climbed === 1 ? "" : "s"}`}`),
      climbed > 0 ? el("ol", { reversed: true }, ...row.climbed.toReversed().map((step) => el("li", {}, step))) : null,
      el("p", { class: "quiet" }, "a failed gate changes:"),
      el("ul", {}, ...row.rungs.map((rung) => el("li", {}, rung))));
  }

  function link(name, to) {
    if (to === null) return null;
    const address = WL.address(to.path);
    const text = to.text.split(/_(?=step_)/).at(-1);
    return pair(name, address === null ? el("span", { class: "path", title: to.path }, text)
      : el("a", { href: address, target: "_blank", rel: "noopener", title: to.path }, text));
  }

  function inside(row) {
    const going = ["training", "at gate", "paused", "blocked"].includes(row.state);
    if (row.stage === "inference")
      return [el("dl", {}, pair("tries", WL.integer(row.gates)), pair("retries", budget(row.retries_used, row.retries_max))), ladder(row)];
    if (row.state === "not asked for") return [];
    return [
      bar(row),
      el("p", { class: "steps" }, el("b", {}, WL.integer(row.step)), ` of ${WL.integer(row.target)} `,
        el("span", { class: "quiet" }, WL.percent(row.target > 0 ? row.step / row.target : null))),
      el("dl", {},
        pair("loss", number(row.loss)),
        ...(going ? [
          pair("learning rate", number(row.learning_rate)),
          pair("updates/s", number(row.updates_per_sec, 3), row.frames_per_sec === null ? null : `${number(row.frames_per_sec)} frames/s`),
          pair("accepted at", WL.integer(row.accepted_step)),
          pair("next gate", row.chunk_target === null ? "–" : WL.integer(row.chunk_target)),
          pair("finishes", row.eta === null ? "–" : WL.when(row.eta, { seconds: false })),
          pair("retries", budget(row.retries_used, row.retries_max)),
          pair("restarts", budget(row.restarts_used, row.restarts_max)),
          pair("attempts, gates", `${row.attempt}, ${row.gates}`),
        ] : [
          pair("attempts, gates", `${row.attempt}, ${row.gates}`),
          pair("retries", budget(row.retries_used, row.retries_max)),
          pair("restarts", budget(row.restarts_used, row.restarts_max)),
        ]),
        link("checkpoint", row.checkpoint),
        link("best", row.best)),
      ladder(row)];
  }

  const card = (row) =>
    el("li", { class: "card stage", "data-state": row.state, "data-stage": row.stage, "data-id": row.id },
      el("h3", {}, word(row.stage), el("span", { class: STATE[row.state][1] }, mark(STATE[row.state]), row.state)),
      ...inside(row));

  WL.on(["stages"], (page) => WL.morphChildren(byId("stages"), page.stages.map(card)));
})();
