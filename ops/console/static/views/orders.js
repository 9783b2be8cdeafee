// Orders: place one, and find those that there are.

import { html } from "../vendor/htm-preact.js";
import { fieldTime, money, time, timeField } from "../format.js";
import { usePages } from "../pages.js";
import { Choice, Field, Refused, State, values } from "../parts.js";
import { address, go, keepFilter } from "../route.js";
import { useMay } from "../session.js";
import { useNewest } from "../stream.js";
import { Windowed } from "../windowed.js";
import { Place } from "./place.js";

const COLUMNS = [
  { title: "order", width: "minmax(7.5rem, 19rem)", cell: (row) => html`<a href=${address("orders", row.order_id)}><code>${row.order_id}</code></a>` },
  { title: "status", width: "minmax(8rem, 14rem)", cell: (row) => html`<${State} word=${row.status} />${row.reason && ` ${row.reason}`}` },
  { title: "customer", width: "minmax(9rem, 1fr)", cell: (row) => row.customer_id },
  { title: "amount", width: "6.5rem", cell: (row) => money(row.amount, row.currency) },
  { title: "placed", width: "10rem", cell: (row) => time(row.placed_at) },
  { title: "settled", width: "10rem", cell: (row) => time(row.settled_at) },
];

function Find({ filter }) {
  const hello = useNewest("hello");
  const find = (event) => {
    event.preventDefault();
    const given = values(event.target);
    const chosen = { ...given, since: fieldTime(given.since), until: fieldTime(given.until) };
    keepFilter("orders", JSON.parse(JSON.stringify(chosen)));
    go("orders", chosen);
  };
  const clear = () => {
    keepFilter("orders", {});
    go("orders");
  };
  const choices = (all) => [["", "any"], ...(all ?? []).map((word) => [word])];
  return html`
    <form class="fields" aria-label="Find orders" key=${JSON.stringify(filter)} onSubmit=${find}>
      <${Field} label="Order" name="order_id" hint="or its first 8 characters" value=${filter.order_id} />
      <${Field} label="Customer" name="customer_id" value=${filter.customer_id} />
      <${Choice} label="Status" name="status" value=${filter.status} options=${choices(hello?.statuses)} />
      <${Choice} label="Reason" name="reason" value=${filter.reason} options=${choices(hello?.reasons)} />
      <${Field} label="Placed since" name="since" type="datetime-local" step="1" value=${timeField(filter.since)} />
      <${Field} label="Placed until" name="until" type="datetime-local" step="1" value=${timeField(filter.until)} />
      <div class="actions"><button>Find</button><button type="button" class="quiet" onClick=${clear}>Clear</button></div>
    </form>`;
}

export function Orders({ filter }) {
  const mayPlace = useMay("place");
  const { rows, page, loading, error, more, onEnd, refresh } = usePages("/api/orders", filter, (page) => page.orders);
  return html`
    <h1 tabindex="-1">Orders</h1>
    ${mayPlace && html`<section class="panel"><h2>Place an order</h2><${Place} /></section>`}
    <section class="panel"><h2>Find orders</h2>
      <${Find} filter=${filter} />
      <${Refused} error=${error} />
      <p role="status" class="muted">${loading ? "Searching …" : `${rows.length} orders${page?.next ? " so far" : ""}.`}
        ${!loading && page?.next && page.searched_to && ` Searched back to ${time(page.searched_to)}.`}</p>
      <${Windowed} label="Orders" columns=${COLUMNS} rows=${rows} rowKey=${(row) => row.order_id} onEnd=${onEnd} />
      <div class="actions">
        <button type="button" class="quiet" onClick=${refresh}>Refresh</button>
        ${more && html`<button type="button" class="quiet" onClick=${more} disabled=${loading}>Search further back</button>`}</div>
    </section>`;
}
