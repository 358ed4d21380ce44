// The visualizations as they appear, with a slider through the steps of a stage. It stays at the newest until moved.

(() => {
  "use strict";
  const { byId, el, mark, word, integer } = WL;
  const slider = byId("picture-slider");
  let run = null;
  let stage = null;
  let followed = true; // the stage goes with the newest picture until a person chooses
  let chosen = null; // id of the picture, or null for the newest

  const sheets = (page) =>
    page.sheets.filter((sheet) => sheet.stage === stage).sort((one, other) => one.step - other.step || one.attempt - other.attempt);

  function draw(page) {
    const stages = page.stages.map((row) => row.stage).filter((each) => page.sheets.some((sheet) => sheet.stage === each));
    if (followed || !stages.includes(stage)) stage = page.sheets.at(-1)?.stage ?? null;
    WL.morphChildren(byId("picture-stages"), stages.map((each) =>
      el("button", { type: "button", "data-stage": each, "aria-pressed": String(each === stage) }, word(each))));
    const there = sheets(page);
    slider.max = Math.max(0, there.length - 1);
    slider.disabled = there.length < 2;
    const found = there.findIndex((sheet) => sheet.id === chosen);
    const index = found < 0 ? there.length - 1 : found;
    slider.value = index;
    show(there[index] ?? null, index, there.length);
  }

  function show(sheet, index, count) {
    const image = byId("picture");
    const link = byId("picture-link");
    image.hidden = sheet === null;
    if (sheet === null) {
      byId("picture-text").replaceChildren("No picture yet.");
      link.removeAttribute("href");
      image.removeAttribute("src");
      return;
    }
    const address = WL.address(sheet.path) ?? "";
    if (image.getAttribute("src") !== address) image.setAttribute("src", address);
    image.alt = `${word(sheet.stage)} after ${integer(sheet.step)} updates: originals and what the model makes of them`;
    link.href = address;
    link.classList.toggle("gone", sheet.superseded);
    slider.setAttribute("aria-valuetext", `step ${integer(sheet.step)}, attempt ${sheet.attempt}`);
    byId("picture-text").replaceChildren(
      el("b", {}, `step ${integer(sheet.step)}`), ` attempt ${sheet.attempt}`,
      el("span", { class: "quiet" }, ` · ${index + 1} of ${count}`),
      ...(sheet.superseded ? [" · ", el("em", {}, "rolled back")] : []),
      sheet.verdict ? el("span", {}, ` · ${sheet.verdict}`) : "");
  }

  slider.addEventListener("input", () => {
    const there = sheets(WL.current());
    const index = Number(slider.value);
    chosen = index === there.length - 1 ? null : there[index].id;
    followed = followed && chosen === null;
    show(there[index], index, there.length);
  });

  byId("picture-stages").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button === null) return;
    followed = false;
    chosen = null;
    stage = button.dataset.stage;
    draw(WL.current());
  });

  byId("picture").addEventListener("error", () => {
    byId("picture").hidden = true;
    byId("picture-text").prepend(mark(["triangle", "watch"], 11), "This picture cannot be loaded. ");
  });

  WL.on(["sheets", "stages"], (page, change) => {
    if (!change.whole && !change.fields.has("sheets")) return;
    if (page.run.run_id !== run) {
      run = page.run.run_id;
      followed = true;
      chosen = null;
    }
    draw(page);
  });
})();
