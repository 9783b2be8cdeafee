// The form that places an order.

import { html, useRef, useState } from "../vendor/htm-preact.js";
import { post } from "../http.js";
import { Refused } from "../parts.js";
import { go } from "../route.js";

const EXAMPLES = [
  ["An order that is confirmed", "cust-000001", "sku-0001", 2],
  ["A customer without the money", "cust-poor", "sku-0001", 1],
  ["More than is in stock", "cust-000002", "sku-scarce", 11],
];

function Line({ at, line, change, remove }) {
  return html`
    <div class="fields">
      <label class="field"><span>Product ${at}</span>
        <input name="product_id" required value=${line.product_id} onInput=${(event) => change({ ...line, product_id: event.target.value })} /></label>
      <label class="field"><span>Quantity ${at}</span>
        <input name="quantity" type="number" min="1" max="10000" required value=${line.quantity}
          onInput=${(event) => change({ ...line, quantity: event.target.value })} /></label>
      ${remove && html`<div class="actions"><button type="button" class="quiet" onClick=${remove}>Remove product ${at}</button></div>`}
    </div>`;
}

export function Place() {
  const [customer, setCustomer] = useState("cust-000001");
  const [lines, setLines] = useState([{ product_id: "sku-0001", quantity: 2 }]);
  const [error, setError] = useState();
  const [sending, setSending] = useState(false);
  const sent = useRef({});
  const place = async (event) => {
    event.preventDefault();
    const order = { customer_id: customer, items: lines.map((line) => ({ product_id: line.product_id, quantity: Number(line.quantity) })) };
    // The same order after an unclear answer goes with the same key, so it is placed once.
    const text = JSON.stringify(order);
    if (sent.current.text !== text) sent.current = { text, key: `console-${crypto.randomUUID()}` };
    setSending(true);
    setError();
    try {
      const accepted = await post("/api/orders", order, { "idempotency-key": sent.current.key });
      go("orders", accepted.order_id);
    } catch (refusal) {
      if (refusal.status >= 400 && refusal.status < 500) sent.current = {};
      setError(refusal);
      setSending(false);
    }
  };
  const fill = (customer, product_id, quantity) => {
    setCustomer(customer);
    setLines([{ product_id, quantity }]);
  };
  return html`
    <div class="actions" role="group" aria-label="Examples">${EXAMPLES.map(([title, ...order]) => html`
      <button type="button" class="quiet" onClick=${() => fill(...order)}>${title}</button>`)}</div>
    <form aria-label="Place an order" onSubmit=${place}>
      <div class="fields">
        <label class="field"><span>Customer</span>
          <input name="customer_id" required value=${customer} autocomplete="off" onInput=${(event) => setCustomer(event.target.value)} /></label>
      </div>
      ${lines.map((line, at) => html`
        <${Line} key=${at} at=${at + 1} line=${line} change=${(changed) => setLines(lines.with(at, changed))}
          remove=${lines.length > 1 && (() => setLines(lines.toSpliced(at, 1)))} />`)}
      <div class="actions">
        <button disabled=${sending}>${sending ? "Placing …" : "Place the order"}</button>
        <button type="button" class="quiet" onClick=${() => setLines([...lines, { product_id: "", quantity: 1 }])}>Add a product</button>
      </div>
      <${Refused} error=${error} />
    </form>`;
}
