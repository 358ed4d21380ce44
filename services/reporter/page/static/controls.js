// Pause, resume, stop and retune: what can be asked for now, each behind a question; the answer is shown.

(() => {
  "use strict";
  const { byId, el, setText, mark, word } = WL;
  const WORDS = {
    pause: ["Pause", "pause", "The chunk that is running is trained to its gate; then the run waits until you resume it."],
    resume: ["Resume", "play", "The run goes on from where it is paused. Its retry budgets begin anew."],
    retune: ["Retune", "sliders", "Changes the next chunk's plan. The chunk that is running is not done again, and no retry is spent."],
    stop: ["Stop", "square", "The chunk ends after its current update with a checkpoint, then the reports are written. "
      + "The run can be taken up again with: worldloop train --resume RUN"],
  };

  let asking = null; // the action in the dialog

  function drawActions(page) {
    const actions = page.live ? page.actions : [];
    const group = byId("actions");
    const shown = actions.join();
    if (group.dataset.shown === shown) return;
    const focused = group.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    group.dataset.shown = shown;
    group.replaceChildren(...actions.map((action) =>
      el("button", { type: "button", "data-action": action, onclick: () => open(action) },
        mark([WORDS[action][1], "ink"], 11), `${WORDS[action][0]} …`)));
    group.querySelector(`[data-action="${focused}"]`)?.focus();
  }

  function field(label, input, hint = "") {
    return el("label", { class: "field" }, el("span", {}, label), input, hint ? el("small", { class: "quiet" }, hint) : null);
  }

  const knobInput = (name, value) =>
    typeof value === "boolean"
      ? el("select", { "data-knob": name }, ...["", "true", "false"].map((each) => el("option", { value: each }, each || "as it is")))
      : el("input", { "data-knob": name, type: "text", autocomplete: "off", spellcheck: "false", inputmode: typeof value === "number" ? "decimal" : "text" });

  function open(action) {
    const page = WL.current();
    asking = action;
    setText(byId("dialog-title"), `${WORDS[action][0]} ${page.run.run_id}?`);
    setText(byId("dialog-text"), WORDS[action][2].replace("RUN", page.run.run_id));
    setText(byId("dialog-yes"), WORDS[action][0]);
    setText(byId("dialog-problem"), "");
    const knobs = action === "retune"
      ? Object.entries(page.knobs).map(([name, value]) => field(`${word(name)}`, knobInput(name, value), `now ${WL.plain(value)}`)) : [];
    byId("dialog-fields").replaceChildren(
      ...(action === "retune" ? [el("p", { class: "quiet" }, `Stage ${word(page.run.stage ?? "")}: leave empty what stays.`)] : []),
      ...knobs,
      ...(action === "retune" ? [] : [field("reason", el("input", { id: "dialog-reason", type: "text", maxlength: 300, autocomplete: "off" }), "optional, for the record")]));
    byId("dialog").showModal();
    (byId("dialog-fields").querySelector("input, select") ?? byId("dialog-yes")).focus();
  }

  /** Numbers, lists and true or false as JSON has them, everything else as the text it is. */
  function knob(text, now) {
    if (typeof now === "string") return text;
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  }

  function body() {
    if (asking !== "retune") {
      const reason = byId("dialog-reason").value.trim();
      return reason ? { reason } : {};
    }
    const page = WL.current();
    const changes = {};
    for (const input of byId("dialog-fields").querySelectorAll("[data-knob]"))
      if (input.value.trim() !== "") changes[input.dataset.knob] = knob(input.value.trim(), page.knobs[input.dataset.knob]);
    return { stage: page.run.stage, changes };
  }

  async function send(event) {
    event.preventDefault();
    const asked = body();
    if (asking === "retune" && Object.keys(asked.changes).length === 0)
      return setText(byId("dialog-problem"), "Nothing is changed yet: fill in a value, or do nothing.");
    byId("dialog-yes").disabled = true;
    try {
      await WL.ask(asking, asked);
      byId("dialog").close();
      tell("good", `${WORDS[asking][0]} was asked for.`);
    } catch (error) {
      setText(byId("dialog-problem"), error instanceof TypeError ? "The server does not answer: nothing was asked for." : `Refused: ${error.message}`);
      tell("bad", byId("dialog-problem").textContent);
      if (error.status === 401) WL.locked();
    } finally {
      byId("dialog-yes").disabled = false;
    }
  }

  function tell(level, text) {
    byId("answer").className = `answer ${level}`;
    byId("answer").replaceChildren(mark(WL.LEVEL[level]), text);
  }

  byId("dialog-form").addEventListener("submit", send);
  byId("dialog-no").addEventListener("click", () => byId("dialog").close());
  byId("dialog").addEventListener("close", () => byId("actions").querySelector(`[data-action="${asking}"]`)?.focus());

  WL.on(["actions", "requested", "run"], (page) => {
    drawActions(page);
    setText(byId("requested"), page.requested.length > 0 ? `Asked for, not done yet: ${page.requested.join(", ")}` : "");
  });
})();
