// Long lists: rows by id, newest first. The first rows are there at once, the rest is added while the browser is
// idle, so that a thousand rows neither delay the page nor get lost; a row that changes is made again in place.

(() => {
  "use strict";
  const FIRST = 40;
  const CHUNK = 60;
  const idle = window.requestIdleCallback ?? ((go) => setTimeout(go, 16));

  class Rows {
    #list;
    #make;
    #keeps;
    #made = new Map(); // id -> element
    #open = []; // rows that are not made yet, newest last
    #round = 0;

    /**
     * @param list the element that holds the rows
     * @param make (row) -> element
     * @param keeps (row) -> whether it is to be seen
     */
    constructor(list, make, keeps = () => true) {
      this.#list = list;
      this.#make = make;
      this.#keeps = keeps;
    }

    /** Show these rows, oldest first, and no others. */
    reset(rows) {
      this.#round += 1;
      this.#made.clear();
      this.#list.replaceChildren();
      this.#open = [...rows];
      this.#build(FIRST);
      this.#rest(this.#round);
    }

    /** Take rows that are new or have changed, oldest first. */
    put(rows) {
      for (const row of rows) {
        const place = this.#open.findIndex((each) => each.id === row.id);
        const old = this.#made.get(row.id);
        if (place >= 0) this.#open[place] = row;
        else if (old === undefined) this.#list.prepend(this.#element(row));
        else {
          const focused = old.contains(document.activeElement);
          const made = this.#element(row, old);
          old.replaceWith(made);
          if (focused) made.querySelector("summary, a, button")?.focus();
        }
      }
    }

    /** The row's element, made now if it was not yet. */
    find(id) {
      while (!this.#made.has(id) && this.#open.length > 0) this.#build(CHUNK);
      return this.#made.get(id) ?? null;
    }

    /** Apply the filter again to rows that are made; those still to come pass it as they are made. */
    filter(rows) {
      for (const row of rows) {
        const made = this.#made.get(row.id);
        if (made !== undefined) made.hidden = !this.#keeps(row);
      }
    }

    #element(row, old = null) {
      const made = this.#make(row, old);
      made.hidden = !this.#keeps(row);
      made.dataset.id = row.id;
      this.#made.set(row.id, made);
      return made;
    }

    #build(count) {
      const batch = this.#open.splice(-count, count).reverse();
      this.#list.append(...batch.map((row) => this.#element(row)));
    }

    #rest(round) {
      if (this.#open.length === 0) return;
      idle(() => {
        if (round !== this.#round) return;
        this.#build(CHUNK);
        this.#rest(round);
      });
    }
  }

  /** A list of a field's rows that follows the page. */
  function follow(field, rows) {
    WL.on([field], (page, change) =>
      change.whole ? rows.reset(page[field]) : rows.put([...change.rows[field].values()]));
  }

  Object.assign(WL, { Rows, follow });
})();
