// A table of any length, of which only the rows in sight are in the page.

import { html, useEffect, useLayoutEffect, useRef, useState } from "./vendor/htm-preact.js";

const ROW_PX = 34;
const SPARE_ROWS = 10;
const NEAR_END_ROWS = 30;

/** `columns`: `{title, width, cell(row)}`, `width` a track of a CSS grid. `onEnd` is called when the last rows come near. */
export function Windowed({ label, columns, rows, rowKey, onEnd }) {
  const scroller = useRef();
  const [[first, last], setRange] = useState([0, 60]);
  const look = () => {
    const { scrollTop, clientHeight } = scroller.current;
    const from = Math.max(0, Math.floor(scrollTop / ROW_PX) - SPARE_ROWS);
    const to = Math.ceil((scrollTop + clientHeight) / ROW_PX) + SPARE_ROWS;
    setRange((range) => (range[0] === from && range[1] === to ? range : [from, to]));
  };
  useLayoutEffect(look, [rows.length]);
  useEffect(() => {
    const observer = new ResizeObserver(look);
    observer.observe(scroller.current);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (onEnd && last > rows.length - NEAR_END_ROWS) onEnd();
  }, [last, rows.length, onEnd]);

  const grid = { gridTemplateColumns: columns.map((column) => column.width).join(" ") };
  const line = (row, at) => html`
    <div key=${rowKey(row)} class="line" role="row" aria-rowindex=${at + 2}
      style=${{ ...grid, top: `${at * ROW_PX}px`, height: `${ROW_PX}px` }}>
      ${columns.map((column) => html`<div role="cell">${column.cell(row)}</div>`)}
    </div>`;
  return html`
    <div class="windowed" ref=${scroller} onScroll=${look} role="region" aria-label=${label} tabindex="0">
      <div role="table" aria-label=${label} aria-rowcount=${rows.length + 1}>
        <div role="rowgroup" class="head">
          <div class="line" role="row" aria-rowindex="1" style=${grid}>
            ${columns.map((column) => html`<div role="columnheader">${column.title}</div>`)}
          </div>
        </div>
        <div role="rowgroup" class="body" style=${{ height: `${rows.length * ROW_PX}px` }}>
          ${rows.slice(first, last).map((row, index) => line(row, first + index))}
        </div>
      </div>
    </div>`;
}
