// A chart of the last 15 minutes.

import { html, useEffect, useLayoutEffect, useReducer, useRef } from "../vendor/htm-preact.js";

const HEIGHT_PX = 180;

/** What two ticks of whole numbers may be apart. */
const WHOLE = Array.from({ length: 12 }, (_, power) => [1, 2, 5].map((digit) => digit * 10 ** power)).flat();

/** Dashes tell the lines apart without colour. */
export const LATENCY_LINES = [
  { name: "p50", field: "p50_ms", colour: "--line-1", dash: [] },
  { name: "p95", field: "p95_ms", colour: "--line-2", dash: [7, 4] },
  { name: "p99", field: "p99_ms", colour: "--line-3", dash: [2, 3] },
];

function plotted(points, lines) {
  return [points.map((point) => point.at / 1000), ...lines.map((line) => points.map(line.value))];
}

/** With seconds where minutes do not tell the ticks apart. */
function times(_, ticks, __, ___, everyS) {
  return ticks.map((s) => new Date(s * 1000).toTimeString().slice(0, everyS < 60 ? 8 : 5));
}

function options(lines, unit, whole, width) {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  const axis = { stroke: of("--muted"), grid: { stroke: of("--edge"), width: 1 }, ticks: { stroke: of("--edge"), width: 1 } };
  return {
    width,
    height: HEIGHT_PX,
    legend: { show: false },
    cursor: { show: false },
    scales: { y: { range: (_, __, max) => [0, (max || 1) * 1.1] } },
    axes: [{ ...axis, values: times, space: 70 },
      { ...axis, size: 70, values: (_, ticks) => ticks.map(unit), ...(whole && { incrs: WHOLE }) }],
    series: [{}, ...lines.map((line) => ({ stroke: of(line.colour), width: 2, dash: line.dash, points: { show: false }, spanGaps: false }))],
  };
}

/** `lines`: `{name, colour, dash, value(point)}`; `unit` writes a value for a person; values that are counts are `whole`. */
export function Chart({ label, points, lines, unit, whole = false }) {
  const place = useRef();
  const chart = useRef();
  const [theme, redraw] = useReducer((n) => n + 1, 0);
  useEffect(() => {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", redraw);
    return () => dark.removeEventListener("change", redraw);
  }, []);
  useLayoutEffect(() => {
    chart.current = new uPlot(options(lines, unit, whole, place.current.clientWidth), plotted(points, lines), place.current);
    const observer = new ResizeObserver(() => chart.current.setSize({ width: place.current.clientWidth, height: HEIGHT_PX }));
    observer.observe(place.current);
    return () => {
      observer.disconnect();
      chart.current.destroy();
    };
  }, [theme]);
  useEffect(() => chart.current.setData(plotted(points, lines)), [points]);
  const last = points.at(-1);
  const words = lines.map((line) => `${line.name} ${last ? unit(line.value(last)) : "–"}`);
  return html`
    <div class="chart" ref=${place} role="img" aria-label=${`${label}, over the last 15 minutes; now ${words.join(", ")}`}></div>
    <ul class="legend" aria-hidden="true">${lines.map((line, at) => html`
      <li><svg width="28" height="8"><line x1="0" y1="4" x2="28" y2="4" class=${line.colour.slice(2)} stroke-dasharray=${line.dash.join(" ")} /></svg> ${words[at]}</li>`)}</ul>`;
}
