// Draws what is on the page beside the front, with Observable Plot: curves, reliability, predictions.
"use strict";
const charts = (() => {
  const darkMode = matchMedia("(prefers-color-scheme: dark)");
  const literal = (value) => ({ value, scale: null }); // a colour of the page, not one to be assigned by a scale
  const inPercent = (is) => (is ? (value) => `${+(100 * value).toFixed(4)}%` : (value) => `${+value.toPrecision(4)}`);

  function paddedDomain(values, least) {
    const [low, high] = d3.extent(values.filter((value) => value !== null));
    const margin = 0.12 * Math.max(high - low, least);
    return [low - margin, high + margin];
  }

  // Curves of training, with names at their ends
  function spread(places, gap) {
    const order = d3.sort(d3.range(places.length), (index) => places[index]);
    const result = [...places];
    order.forEach((index, rank) => {
      if (rank) result[index] = Math.max(result[index], result[order[rank - 1]] + gap);
    });
    const excess = order.length ? (result[order.at(-1)] - places[order.at(-1)]) / 2 : 0;
    return result.map((place) => place - excess);
  }

  function drawCurves(element, { label, is_percent: isPercent, epochs, series }) {
    const width = Math.max(280, element.clientWidth), height = 280, [marginTop, marginBottom] = [24, 40];
    const rows = series.flatMap(({ name, values }, place) =>
      values.map((value, index) => ({ name, place, epoch: epochs[index], value })).filter((row) => row.value !== null));
    if (!rows.length) return;
    const y = paddedDomain(rows.map((row) => row.value), 1e-9);
    const last = series.length - 1, [light, deep] = darkMode.matches ? [0.98, 0.45] : [0.72, 0.1];
    const color = ({ place }) => (place === last ? "currentColor"
      : d3.interpolateViridis(light + (deep - light) * (place / Math.max(1, last - 1))));
    const ends = d3.rollups(rows, (own) => own.at(-1), (row) => row.place).map(([, row]) => row);
    const gap = (14 * (y[1] - y[0])) / (height - marginTop - marginBottom);
    const places = spread(ends.map((row) => row.value), gap);
    const show = inPercent(isPercent), lineOptions = { x: "epoch", y: "value", stroke: literal(color) };
    element.replaceChildren(Plot.plot({
      width, height, marginTop, marginBottom, marginLeft: 52,
      marginRight: 16 + 6.9 * Math.min(24, d3.max(ends, (row) => row.name.length)), style: { fontSize: "12px" },
      x: { label: "epoch", labelAnchor: "center", labelArrow: "none", inset: 4, ticks: Math.min(6, epochs.length - 1 || 1),
        domain: d3.extent(epochs), tickFormat: (epoch) => (Number.isInteger(epoch) ? epoch : "") },
      y: { label, labelArrow: "none", domain: y, grid: true, tickSize: 0, ticks: 5, tickFormat: show },
      marks: [
        Plot.line(rows, { ...lineOptions, z: "name", strokeWidth: (row) => (row.place === last ? 2.2 : 1.7) }),
        epochs.length <= 12 ? Plot.dot(rows, { x: "epoch", y: "value", fill: literal(color), r: 2.8 }) : null,
        Plot.text(ends, { x: "epoch", y: (row, index) => places[index], text: "name", dx: 8, textAnchor: "start",
          fill: literal(color) }),
        Plot.tip(rows, Plot.pointer({ x: "epoch", y: "value", maxRadius: 60, lineHeight: 1.25,
          title: (row) => `${row.name}\nepoch ${row.epoch}: ${show(row.value)}` })),
      ],
    }));
  }

  // The answers of one network
  const diagonal = (low, high) => Plot.line([[low, low], [high, high]], { strokeDasharray: "5 4", strokeOpacity: 0.6 });

  function drawReliability(element, { bins }) {
    const size = Math.min(420, Math.max(280, element.clientWidth)), unit = { domain: [0, 1], tickFormat: inPercent(true) };
    const range = ({ low, high }) => `confidence ${Math.round(100 * low)} to ${Math.round(100 * high)}%`;
    element.replaceChildren(Plot.plot({
      width: size, height: size, marginLeft: 52, marginTop: 28, marginBottom: 42, style: { fontSize: "12px" },
      x: { ...unit, label: "confidence", labelAnchor: "center", labelArrow: "none", ticks: 5 },
      y: { ...unit, label: "fraction that is right", labelArrow: "none", grid: true, tickSize: 0, ticks: 5 },
      marks: [
        Plot.rect(bins, { x1: "low", x2: "high", y1: 0, y2: "accuracy", fill: "var(--front)", fillOpacity: 0.55,
          inset: 1 }),
        diagonal(0, 1),
        Plot.dot(bins, { x: "confidence", y: "accuracy", fill: "var(--front)", r: 3.5, stroke: "var(--page)" }),
        Plot.tip(bins, Plot.pointer({ x: "confidence", y: "accuracy", maxRadius: 60, title: (bin) =>
          `${range(bin)}\n${inPercent(true)(bin.accuracy)} of ${bin.samples} samples right` })),
      ],
    }));
  }

  function drawPredictions(element, { points }) {
    const size = Math.min(480, Math.max(280, element.clientWidth));
    const domain = paddedDomain(points.flatMap(({ target, answer }) => [target, answer]), 1e-9);
    const show = (value) => `${+value.toPrecision(5)}`;
    element.replaceChildren(Plot.plot({
      width: size, height: size, marginLeft: 60, marginBottom: 42, style: { fontSize: "12px" },
      x: { domain, label: "target", labelAnchor: "center", labelArrow: "none", ticks: 5, tickFormat: show },
      y: { domain, label: "prediction", labelArrow: "none", grid: true, tickSize: 0, ticks: 5, tickFormat: show },
      marks: [
        diagonal(...domain),
        Plot.dot(points, { x: "target", y: "answer", fill: "var(--front)", fillOpacity: 0.55, r: 3 }),
        Plot.tip(points, Plot.pointer({ x: "target", y: "answer",
          title: ({ target, answer }) => `target ${show(target)}\nprediction ${show(answer)}` })),
      ],
    }));
  }

  return { darkMode, literal, inPercent, paddedDomain, drawCurves, drawReliability, drawPredictions };
})();
