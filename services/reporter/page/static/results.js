// The inference test, where the time went, and the reports.

(() => {
  "use strict";
  const { byId, el, setText, mark, word, number, percent } = WL;

  // --- inference ---------------------------------------------------------------------------------------------

  function verdict(test) {
    if (test.passed === null) return [mark(["ring", "quiet"]), "not judged yet"];
    return test.passed ? [mark(["check", "good"]), "passed"] : [mark(["cross", "bad"]), "failed"];
  }

  function inference(test) {
    const numbers = Object.entries(test.numbers).filter(([, value]) => value !== null);
    const picture = test.picture === null ? null : WL.address(test.picture);
    return [
      el("p", { class: "outcome" }, ...verdict(test), el("span", { class: "quiet" }, ` · try ${test.inference_try}, ${word(test.mode)}, `, WL.when(test.time))),
      test.problem === null ? null : el("p", { class: "bad" }, mark(["diamond", "bad"], 11), test.problem),
      el("table", { class: "values" }, el("caption", { class: "vh" }, "Gating numbers"), el("tbody", {}, ...test.values.map((value) =>
        el("tr", { class: value.ok ? null : "failed", title: value.text },
          el("td", {}, mark(value.ok ? ["check", "good"] : ["cross", "bad"], 11), el("span", { class: "vh" }, value.ok ? "ok" : "failed")),
          el("th", { scope: "row" }, word(value.name)), el("td", { class: "right" }, value.value), el("td", { class: "right quiet" }, value.threshold))))),
      picture === null ? null : el("a", { class: "picture small", href: picture, target: "_blank", rel: "noopener" },
        el("img", { src: picture, alt: "Ground truth above, prediction below", loading: "lazy" })),
      test.preview === null || WL.address(test.preview) === null ? null
        : el("p", {}, el("a", { href: WL.address(test.preview), target: "_blank", rel: "noopener" }, "moving preview")),
      numbers.length === 0 ? null : el("details", { class: "metrics" }, el("summary", {}, `all ${numbers.length} numbers`),
        el("dl", {}, ...numbers.map(([name, value]) => el("div", {}, el("dt", {}, word(name)), el("dd", {}, number(value)))))),
    ].filter((part) => part !== null);
  }

  WL.on(["inference"], (page) => WL.morphChildren(byId("inference"),
    page.inference === null ? [el("p", { class: "quiet" }, "Not tested yet: the test comes after the last stage.")] : inference(page.inference)));

  // --- time --------------------------------------------------------------------------------------------------

  WL.on(["goodput"], ({ goodput }) => {
    const all = goodput.spent.reduce((sum, part) => sum + part.seconds, 0) || 1;
    const parts = goodput.spent.filter((part) => part.seconds > 0);
    WL.morphChildren(byId("spent-bar"), parts.map((part) => {
      const made = el("i", { class: `time-${part.name}`, title: `${part.name} ${percent(part.seconds / all, 1)}` });
      made.style.width = `${(100 * part.seconds) / all}%`;
      return made;
    }));
    WL.morphChildren(byId("spent"), parts.map((part) =>
      el("tr", { title: part.meaning },
        el("th", { scope: "row" }, el("i", { class: `time-${part.name}`, "aria-hidden": "true" }), part.name, el("small", { class: "quiet" }, part.meaning)),
        el("td", {}, WL.duration(part.seconds)), el("td", {}, percent(part.seconds / all, 1)))));
    setText(byId("spent-definition"), `Goodput ${percent(goodput.fraction, 1)}: ${goodput.definition}`);
  });

  // --- reports -----------------------------------------------------------------------------------------------

  WL.on(["reports"], (page) => WL.morphChildren(byId("reports"), page.reports.length === 0
    ? [el("li", { class: "quiet" }, "Reports are written when the run ends.")]
    : page.reports.map((row) => el("li", {},
      mark(row.error === null ? ["check", "good"] : ["diamond", "bad"], 11),
      row.path === null ? word(row.kind) : WL.file({ text: word(row.kind), path: row.path }),
      row.error === null ? null : el("span", { class: "bad" }, row.error),
      WL.when(row.time)))));
})();
