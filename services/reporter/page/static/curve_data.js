// A stage's history made ready to draw: the line that counts, what was rolled back, and what came since. Pure.

(() => {
  "use strict";

  /**
   * Split a History: `line` is what counts, in the order of steps over all attempts; `ghosts` are the pieces that
   * were rolled back, each with the point it left the line at.
   */
  function split(history) {
    const points = [];
    const ghosts = [];
    for (const curve of history.curves) {
      const ghost = [];
      for (let index = 0; index < curve.step.length; index += 1) {
        const point = {
          step: curve.step[index], mean: curve.mean[index], low: curve.low[index], high: curve.high[index], attempt: curve.attempt,
        };
        if (curve.superseded_from === null || point.step <= curve.superseded_from) points.push(point);
        else ghost.push(point);
      }
      if (ghost.length > 0) ghosts.push(ghost);
    }
    points.sort((one, other) => one.step - other.step || one.attempt - other.attempt);
    for (const ghost of ghosts) {
      const before = points[after(points, ghost[0].step) - 1];
      if (before !== undefined) ghost.unshift(before);
    }
    return { line: points, ghosts };
  }

  /** Index of the first point at or after a step. */
  function after(points, step) {
    let low = 0;
    let high = points.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (points[middle].step < step) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The points between two steps and one more on either side, so that lines reach the edge. */
  const within = (points, from, to) => points.slice(Math.max(0, after(points, from) - 1), after(points, to) + 1);

  /** Range of values to show: all means, and of the band all but its rarest spikes. */
  function extent(pieces, log) {
    const means = [];
    const edges = [];
    for (const point of pieces.flat()) {
      for (const value of [point.mean]) if (value !== null && (!log || value > 0)) means.push(value);
      for (const value of [point.low, point.high]) if (value !== null && (!log || value > 0)) edges.push(value);
    }
    if (means.length === 0) return null;
    edges.sort((one, other) => one - other);
    const inner = edges.length > 0 ? [edges[Math.floor(0.005 * edges.length)], edges[Math.ceil(0.995 * (edges.length - 1))]] : means;
    let low = means.reduce((one, other) => Math.min(one, other), inner[0]);
    let high = means.reduce((one, other) => Math.max(one, other), inner[1]);
    if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
    if (log) return [low / 1.1, high * 1.1];
    const air = 0.05 * (high - low);
    return [low >= 0 ? Math.max(0, low - air) : low - air, high + air];
  }

  /** Where a scale is marked: at most about `count` round values. */
  function ticks(low, high, count, log) {
    if (log && high / low > 8) {
      const found = [];
      const factors = high / low > 10 ** count ? [1] : high / low > 200 ? [1, 3] : [1, 2, 5];
      for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1)
        for (const factor of factors) {
          const value = Number((factor * 10 ** power).toPrecision(3));
          if (value >= low && value <= high) found.push(value);
        }
      const every = Math.ceil(found.length / (count + 2));
      return found.filter((_, index) => index % every === 0);
    }
    const raw = (high - low) / count;
    const unit = 10 ** Math.floor(Math.log10(raw));
    const step = unit * [1, 2, 5, 10].find((factor) => factor * unit >= raw);
    const found = [];
    for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step)
      found.push(Number(value.toPrecision(12)));
    return found;
  }

  /**
   * The attempts as a drawing: pieces {row, from, to, lane, gone}. Lane 0 is the line that counts; what was rolled
   * back lies on the first lane below that is free there, at last on the lowest.
   */
  function lanes(attempts, step, count) {
    const pieces = [];
    const full = Array(count).fill(-1); // how far each lane is taken
    for (const row of attempts) {
      const end = Math.max(row.start_step, row.end_step ?? Math.max(step, row.start_step));
      const cut = row.superseded_from === null ? end : Math.min(Math.max(row.superseded_from, row.start_step), end);
      if (cut > row.start_step || row.superseded_from === null)
        pieces.push({ row, from: row.start_step, to: cut, lane: 0, gone: false });
      if (cut < end) pieces.push({ row, from: cut, to: end, lane: -1, gone: true });
    }
    for (const piece of pieces.filter((each) => each.gone)) {
      let lane = 1;
      while (lane < count - 1 && full[lane] > piece.from) lane += 1;
      full[lane] = Math.max(full[lane], piece.to);
      piece.lane = lane;
    }
    return pieces;
  }

  Object.assign(WL, { curveData: { split, after, within, extent, ticks, lanes } });
})();
