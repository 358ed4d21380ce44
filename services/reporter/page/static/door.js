// Asks for the server's token where nothing is shown without it; what is typed in is sent once and not kept.

(() => {
  "use strict";
  const { byId, setText } = WL;
  const door = byId("door");
  const field = byId("door-token");

  WL.onConnection(({ kind }) => {
    if (kind === "locked" && !door.open) door.showModal();
    else if (kind !== "locked" && door.open) door.close();
  });

  byId("door-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    byId("door-yes").disabled = true;
    try {
      await WL.login(field.value.trim());
      field.value = "";
      setText(byId("door-problem"), "");
    } catch (error) {
      setText(byId("door-problem"), error instanceof TypeError ? "The server does not answer." : `Refused: ${error.message}`);
      field.select();
    } finally {
      byId("door-yes").disabled = false;
    }
  });

  door.addEventListener("cancel", (event) => event.preventDefault()); // there is nothing behind it
})();
