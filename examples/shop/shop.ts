// A client of the order api: place, wait, stream, cancel, page. Copy it with openapi.d.ts; it needs nothing else.
//
//     TOKEN=$(just token customer cust-000001) node examples/shop/shop.ts http://127.0.0.1:8081 cust-000001 sku-0001
//
// Node runs it as it is, from version 22.18 on. A request that gets no answer may still have had its effect. So each
// request that changes something has an idempotency key, and is sent again with the same key until it is answered.
// Choose the key before the first attempt, and store it with the basket: whoever sends the basket again, even after a
// crash of the shop, gets the order that was placed the first time.

import { pathToFileURL } from "node:url";
import type { components } from "./openapi.d.ts";

export type OrderRequest = components["schemas"]["OrderRequest"];
export type Accepted = components["schemas"]["Accepted"];
export type Order = components["schemas"]["OrderView"];
export type OrderPage = components["schemas"]["OrderPage"];
export type TimelineEntry = components["schemas"]["TimelineEntry"];
export type Problem = components["schemas"]["ProblemDocument"];
/** The data of `settled` is the order, that of all others an entry of its timeline. */
export type StreamEvent = { name: string; data: TimelineEntry | Order };

/** For one attempt. Longer than the api waits for the log, so that it answers first. */
const TIMEOUT_MS = 15_000;
/** For all attempts of a request together. */
const PATIENCE_MS = 60_000;
const PAUSE_MS = 100;
const PAUSE_MAX_MS = 5_000;
const POLL_MS = 50;
const POLL_MAX_MS = 1_000;
/** Refusals that another attempt may not get, like every 5xx: too slow, and too many. */
const AGAIN = [408, 429];

/** The api has refused the request: sending it again would change nothing. */
export class Refused extends Error {
  readonly problem: Problem;

  constructor(problem: Problem) {
    super(`${problem.status} ${problem.title}: ${problem.detail || JSON.stringify(problem.errors)}`);
    this.problem = problem;
  }
}

/** Nothing but failures within the patience. The request may have had its effect: send it again with its key. */
export class Unanswered extends Error {}

export class Shop {
  readonly #base: string;
  readonly #token: () => string;
  readonly #patienceMs: number;

  /** `token` returns the customer's token. It is called for each attempt, since a token expires. */
  constructor(url: string, token: () => string = () => "", patienceMs = PATIENCE_MS) {
    this.#base = `${url}/api/v1/orders`;
    this.#token = token;
    this.#patienceMs = patienceMs;
  }

  /** Place an order, once however often it is sent with this key. */
  place(order: OrderRequest, key: string): Promise<Accepted> {
    const headers = { "content-type": "application/json", "idempotency-key": key };
    return this.#send("", { method: "POST", headers, body: JSON.stringify(order) });
  }

  /** Ask for an order to be cancelled. False if it is too late. */
  async cancel(orderId: string, key: string): Promise<boolean> {
    try {
      await this.#send(`/${orderId}/cancel`, { method: "POST", headers: { "idempotency-key": key } });
      return true;
    } catch (error) {
      if (error instanceof Refused && error.problem.status === 409) return false;
      throw error;
    }
  }

  /** The order as it stands. */
  order(orderId: string): Promise<Order> {
    return this.#send(`/${orderId}`);
  }

  /**
   * The order once it is settled: decided, paid or refunded, reserved or released. With `undone`, after `cancel`: until
   * the cancellation is decided, a confirmed order is still that, and settled.
   */
  async wait(orderId: string, { withinMs = PATIENCE_MS, undone = false } = {}): Promise<Order> {
    const until = Date.now() + withinMs;
    for (let attempt = 0; ; attempt++) {
      const order = await this.order(orderId);
      if (order.settled && !(undone && order.status === "confirmed")) return order;
      if (Date.now() > until) throw new Error(`order ${orderId} is not settled after ${withinMs} ms`);
      await sleep(Math.min(POLL_MS * 2 ** attempt, POLL_MAX_MS));
    }
  }

  /** What happens to the order, as it happens. The last is `settled`. A stream that breaks goes on where it ended. */
  async *stream(orderId: string): AsyncGenerator<StreamEvent> {
    let last = "";
    let until = Date.now() + this.#patienceMs;
    for (let attempt = 0; ; attempt++) {
      let pause = jitterMs(attempt);
      const silent = new AbortController();
      const alarm = setTimeout(() => silent.abort(), TIMEOUT_MS); // the api sends a comment every 10 s
      try {
        const headers = this.#authorised({ "last-event-id": last });
        const answer = await fetch(`${this.#base}/${orderId}/events`, { headers, signal: silent.signal });
        if (answer.status === 200 && answer.body) {
          for await (const event of serverSent(answer.body, () => alarm.refresh())) {
            last = event.id;
            [until, attempt] = [Date.now() + this.#patienceMs, 0];
            yield { name: event.name, data: JSON.parse(event.data) };
            if (event.name === "settled") return;
          }
        } else {
          pause += await checked(answer);
        }
      } catch (error) {
        if (error instanceof Refused) throw error; // else the process has ended; another one goes on
      } finally {
        clearTimeout(alarm);
      }
      if (Date.now() + pause > until) throw new Unanswered(`the stream of order ${orderId} does not go on`);
      await sleep(pause);
    }
  }

  /** All orders of a customer, newest first, page by page. */
  async *orders(customerId: string, limit = 100): AsyncGenerator<Order> {
    const query = new URLSearchParams({ customer_id: customerId, limit: String(limit) });
    for (;;) {
      const page: OrderPage = await this.#send(`?${query}`);
      yield* page.orders;
      if (page.next_cursor === null) return;
      query.set("cursor", page.next_cursor);
    }
  }

  #authorised(headers?: HeadersInit): Headers {
    const authorised = new Headers(headers);
    const token = this.#token();
    if (token) authorised.set("authorization", `Bearer ${token}`);
    return authorised;
  }

  /** Send a request that may be repeated, until it is answered. */
  async #send<T>(path: string, request: RequestInit = {}): Promise<T> {
    const until = Date.now() + this.#patienceMs;
    for (let attempt = 0; ; attempt++) {
      let pause = jitterMs(attempt);
      let problem: unknown;
      try {
        const headers = this.#authorised(request.headers);
        const signal = AbortSignal.timeout(TIMEOUT_MS);
        const answer = await fetch(this.#base + path, { ...request, headers, signal });
        if (answer.ok) return (await answer.json()) as T;
        problem = answer.status;
        pause += await checked(answer);
      } catch (error) {
        if (error instanceof Refused) throw error;
        problem = error; // refused, cut, or too late
      }
      if (Date.now() + pause > until) throw new Unanswered(`${attempt + 1} attempts, the last one: ${problem}`);
      await sleep(pause);
    }
  }
}

/** Full jitter: clients that failed together come back apart. */
function jitterMs(attempt: number): number {
  return Math.random() * Math.min(PAUSE_MS * 2 ** attempt, PAUSE_MAX_MS);
}

/** The milliseconds that the api asks to wait before the next attempt. Throws `Refused` if there should be none. */
async function checked(answer: Response): Promise<number> {
  if (answer.status < 500 && !AGAIN.includes(answer.status)) throw new Refused((await answer.json()) as Problem);
  await answer.body?.cancel();
  return 1_000 * (Number(answer.headers.get("retry-after")) || 0);
}

type ServerSent = { id: string; name: string; data: string };

/** The events of a stream, and `heard` for all that comes. An event that is cut off is left out. */
async function* serverSent(body: ReadableStream<Uint8Array>, heard: () => void): AsyncGenerator<ServerSent> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of body) {
    heard();
    const events = (text + decoder.decode(chunk, { stream: true })).split("\n\n");
    text = events.pop() ?? "";
    for (const event of events) {
      const fields = new Map(event.split("\n").map((line) => line.split(/: ?(.*)/s, 2) as [string, string]));
      const data = fields.get("data");
      if (data !== undefined) yield { id: fields.get("id") ?? "", name: fields.get("event") ?? "message", data };
    }
  }
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

async function main(url: string, customerId: string, productId: string): Promise<void> {
  const shop = new Shop(url, () => process.env.TOKEN ?? "");
  const order = { customer_id: customerId, product_id: productId, quantity: 1 };
  const placed = await shop.place(order, `basket-${crypto.randomUUID()}`);
  console.log("placed", placed.order_id);
  for await (const event of shop.stream(placed.order_id)) console.log(" ", event.name);
  console.log("settled", (await shop.wait(placed.order_id)).status);
  if (await shop.cancel(placed.order_id, `cancel-${placed.order_id}`)) {
    console.log("after the cancellation:", (await shop.wait(placed.order_id, { undone: true })).status);
  }
  for await (const listed of shop.orders(customerId)) console.log(listed.order_id);
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const [url, customerId, productId] = process.argv.slice(2);
  if (!url || !customerId || !productId) throw new Error("usage: node shop.ts URL CUSTOMER PRODUCT");
  await main(url, customerId, productId);
}
