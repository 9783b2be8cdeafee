// The picture of the flow: services, topics, and on each arrow what runs along it and what waits.

import { html, useEffect, useState } from "../vendor/htm-preact.js";
import { count, rate, seconds } from "../format.js";

const NARROW = matchMedia("(max-width: 700px)");
const BEHIND_S = 2;
const FAR_BEHIND_S = 30;

/** Where everything stands, for a wide and for a narrow page. Boxes: x, y, width, height. */
const WIDE = {
  size: [1000, 400],
  boxes: {
    api: [10, 160, 140, 80], orders: [230, 172, 110, 56], payment: [480, 20, 140, 80], payments: [690, 32, 110, 56],
    inventory: [480, 300, 140, 80], stock: [690, 312, 110, 56], saga: [850, 150, 140, 100],
  },
  arrows: {
    api: ["M150 200H228", 189, 186, "middle"],
    "payment/orders": ["M340 186C400 180 400 60 478 60", 396, 92, "end"],
    "inventory/orders": ["M340 214C400 220 400 340 478 340", 396, 292, "end"],
    "order-saga/orders": ["M340 200H848", 560, 174, "middle"],
    payment: ["M620 60H688", 654, 48, "middle"],
    inventory: ["M620 340H688", 654, 328, "middle"],
    "order-saga/payments": ["M800 60C860 60 900 90 908 148", 890, 62, "start"],
    "order-saga/inventory": ["M800 340C860 340 900 310 908 252", 890, 334, "start"],
  },
};
const SMALL = {
  size: [360, 640],
  boxes: {
    api: [110, 8, 140, 74], orders: [125, 148, 110, 48], payment: [8, 268, 140, 74], payments: [23, 400, 110, 48],
    inventory: [212, 268, 140, 74], stock: [227, 400, 110, 48], saga: [110, 540, 140, 92],
  },
  arrows: {
    api: ["M180 82V146", 190, 118, "start"],
    "payment/orders": ["M152 196C152 232 128 232 128 266", 122, 216, "end"],
    "inventory/orders": ["M208 196C208 232 232 232 232 266", 238, 216, "start"],
    "order-saga/orders": ["M180 196V538", 180, 366, "middle"],
    payment: ["M78 342V398", 84, 374, "start"],
    inventory: ["M282 342V398", 276, 374, "end"],
    "order-saga/payments": ["M100 448C100 500 130 500 138 538", 92, 478, "end"],
    "order-saga/inventory": ["M260 448C260 500 230 500 222 538", 268, 478, "start"],
  },
};

const BETWEEN = " · ";

const TITLES = { api: "order api", orders: "orders", payment: "payment", payments: "payments", inventory: "inventory", stock: "inventory", saga: "order saga" };
const SERVICE_OF = { api: "order-api", payment: "payment", inventory: "inventory", saga: "order-saga" };

/** The kind and the words for how the instances of a service stand. */
function health(instances) {
  const ready = instances.filter((one) => one.state === "ready" || one.state === "degraded").length;
  if (instances.length === 0) return ["bad", "✕ not running"];
  const sign = ready === 0 ? "✕" : ready < instances.length || instances.some((one) => one.state === "degraded") ? "!" : "✓";
  return [{ "✕": "bad", "!": "warn", "✓": "good" }[sign], `${sign} ${ready} of ${instances.length} ready`];
}

/** The kind of an arrow: good, warn or bad; off if its lag is not known. */
function standing(arrow) {
  if (arrow.lag_records == null) return "off";
  if (arrow.lag_records === 0 || (arrow.lag_s ?? BEHIND_S) < BEHIND_S) return "good";
  return arrow.lag_s < FAR_BEHIND_S ? "warn" : "bad";
}

function lag(arrow) {
  if (arrow.lag_records == null) return "lag not known";
  return arrow.lag_records === 0 ? "no lag" : `${count(arrow.lag_records)}${BETWEEN}${seconds(arrow.lag_s)} behind`;
}

/** What is wrong in the flow, in words that change only when something goes wrong or is right again: lag has no figure. */
export function troubles(flow) {
  const services = Object.entries(SERVICE_OF).map(([box, service]) => [TITLES[box], health(flow.instances.filter((one) => one.service === service))]);
  return [
    ...Object.keys(flow.problems).map((source) => `${source} cannot be read`),
    ...services.filter(([, [kind]]) => kind !== "good").map(([title, [, text]]) => `${title}: ${text.slice(2)}`),
    ...flow.arrows.filter((arrow) => standing(arrow) === "bad").map((arrow) => `${arrow.group} is far behind in ${arrow.topic}`),
    ...Object.keys(flow.stopped).map((service) => `${service} has stopped`),
  ];
}

function Box({ id, at: [x, y, width, height], lines, kind, topic }) {
  const step = 18;
  const first = y + height / 2 - ((lines.length - 1) * step) / 2 + 5;
  return html`
    <g class=${topic ? "topic" : `service ${kind}`} data-box=${id}>
      <rect x=${x} y=${y} width=${width} height=${height} rx=${topic ? height / 2 : 8} />
      ${lines.map((line, index) => html`<text x=${x + width / 2} y=${first + index * step} text-anchor="middle" class=${index ? "" : "title"}>${line}</text>`)}
    </g>`;
}

function Arrow({ id, at: [path, x, y, anchor], lines, kind = "plain" }) {
  return html`
    <g class="arrow ${kind}" data-arrow=${id}>
      <path d=${path} marker-end="url(#head-${kind})" />
      ${lines.map((line, index) => html`<text x=${x} y=${y + index * 16} text-anchor=${anchor}>${line}</text>`)}
    </g>`;
}

export function Picture({ flow }) {
  const [narrow, setNarrow] = useState(NARROW.matches);
  useEffect(() => {
    const change = () => setNarrow(NARROW.matches);
    NARROW.addEventListener("change", change);
    return () => NARROW.removeEventListener("change", change);
  }, []);
  const { size, boxes, arrows } = narrow ? SMALL : WIDE;
  const topics = Object.fromEntries(flow.topics.map((topic) => [topic.topic, topic]));
  const healths = Object.fromEntries(
    Object.entries(SERVICE_OF).map(([box, service]) => [box, health(flow.instances.filter((one) => one.service === service))]));
  const summary = [
    `${rate(flow.api.accepted_s)} orders accepted`,
    ...Object.entries(healths).map(([box, [, text]]) => `${TITLES[box]}: ${text.slice(2)}`),
    ...flow.arrows.map((arrow) => `${arrow.group} reads ${arrow.topic}: ${lag(arrow)}`),
  ].join("; ");
  const service = (id, ...lines) => html`<${Box} id=${id} at=${boxes[id]} lines=${[TITLES[id], healths[id][1], ...lines]} kind=${healths[id][0]} />`;
  const topic = (id, name) => html`<${Box} id=${id} at=${boxes[id]} topic lines=${[`[${TITLES[id]}]`, count(topics[name]?.end)]} />`;
  return html`
    <svg class="picture" viewBox=${`0 0 ${size[0]} ${size[1]}`} role="img" aria-label=${`The flow of orders. ${summary}`}>
      <defs>${["plain", "good", "warn", "bad", "off"].map((kind) => html`
        <marker id=${`head-${kind}`} class="head ${kind}" viewBox="0 0 8 8" refX="7" refY="4" markerUnits="userSpaceOnUse" markerWidth="13" markerHeight="13" orient="auto">
          <path d="M0 0L8 4L0 8z" /></marker>`)}</defs>
      <${Arrow} id="api" at=${arrows.api} lines=${[rate(topics.orders?.in_s)]} />
      ${flow.arrows.map((arrow) => {
        const id = `${arrow.group}/${arrow.topic}`;
        return arrows[id] && html`<${Arrow} key=${id} id=${id} at=${arrows[id]} lines=${[rate(arrow.out_s), ...(narrow ? lag(arrow).split(BETWEEN) : [lag(arrow)])]} kind=${standing(arrow)} />`;
      })}
      <${Arrow} id="payment" at=${arrows.payment} lines=${[rate(topics.payments?.in_s)]} />
      <${Arrow} id="inventory" at=${arrows.inventory} lines=${[rate(topics.inventory?.in_s)]} />
      ${service("api", `${rate(flow.api.accepted_s)} in`)}
      ${topic("orders", "orders")}
      ${service("payment")} ${topic("payments", "payments")}
      ${service("inventory")} ${topic("stock", "inventory")}
      ${service("saga", `${count(flow.api.backlog)} unsettled`)}
    </svg>`;
}
