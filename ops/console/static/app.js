// The page: head, links to the views, and the view that the address names.

import { html, render, useEffect, useRef, useState } from "./vendor/htm-preact.js";
import { Problems, State } from "./parts.js";
import { address, lastFilter, useRoute } from "./route.js";
import { findSession, logOut, useSession } from "./session.js";
import { connect, useNewest, useProof } from "./stream.js";
import { BreakIt } from "./views/break_it.js";
import { DeadLetter } from "./views/dead_letter.js";
import { DeadLetters } from "./views/dead_letters.js";
import { Flow } from "./views/flow.js";
import { Login } from "./views/login.js";
import { Order } from "./views/order.js";
import { Orders } from "./views/orders.js";
import { troubles } from "./views/picture.js";
import { Proof } from "./views/proof.js";

const SILENCE_S = 5;
const VIEWS = { flow: "Flow", proof: "Proof", orders: "Orders", "dead-letters": "Dead letters", "break-it": "Break it" };

function Link({ view, current }) {
  const flow = useNewest("flow");
  const proof = useProof();
  const parked = Object.values(flow?.parked ?? {}).reduce((sum, count) => sum + (count ?? 0), 0);
  return html`
    <a href=${address(view, lastFilter(view))} aria-current=${current ? "page" : undefined}>${VIEWS[view]}
      ${view === "proof" && proof && html` <${State} word=${proof.verdict} />`}
      ${view === "dead-letters" && parked > 0 && html` <${State} kind="warn">${parked}<//>`}
    </a>`;
}

/** Says whether what is shown is live. The server sends something each second, so silence means that it hangs. */
function Liveness() {
  const link = useNewest("link");
  const flow = useNewest("flow");
  const [silent, setSilent] = useState(false);
  useEffect(() => {
    setSilent(false);
    const timer = setTimeout(() => setSilent(true), SILENCE_S * 1000);
    return () => clearTimeout(timer);
  }, [flow]);
  if (!link) return html`<${State} kind="wait">connecting<//>`;
  if (link === "lost") return html`<${State} kind="bad">no connection: what you see is old<//>`;
  if (silent) return html`<${State} kind="warn">nothing new for ${SILENCE_S} s<//>`;
  return html`<${State} kind="good">live<//>`;
}

/** Tells a screen reader what goes wrong and what is right again, on every view. The eye sees it in the flow and in the head. */
function News() {
  const flow = useNewest("flow");
  const proof = useProof();
  if (!flow) return html`<p class="unseen" role="status"></p>`;
  const words = [...troubles(flow), ...(proof && proof.verdict !== "proved" ? [`the proof is ${proof.verdict}`] : [])];
  return html`<p class="unseen" role="status">${words.join("; ") || "Everything works."}</p>`;
}

function View({ route }) {
  const [view, ...rest] = route.parts;
  const { filter } = route;
  switch (view) {
    case "flow": return html`<${Flow} />`;
    case "proof": return html`<${Proof} />`;
    case "orders": return rest[0] ? html`<${Order} key=${rest[0]} id=${rest[0]} />` : html`<${Orders} filter=${filter} />`;
    case "dead-letters": return rest.length === 2
      ? html`<${DeadLetter} key=${rest.join(" ")} service=${rest[0]} record=${rest[1]} />`
      : html`<${DeadLetters} filter=${filter} />`;
    case "break-it": return html`<${BreakIt} />`;
    default: return html`<h1 tabindex="-1">Nothing here</h1><p>There is no view of this name. <a href=${address("flow")}>Go to the flow.</a></p>`;
  }
}

function Page({ who }) {
  const route = useRoute();
  const hello = useNewest("hello");
  const flow = useNewest("flow");
  const main = useRef();
  const [view, ...rest] = route.parts;
  const id = rest.join(" ");
  const arrived = useRef(false);
  useEffect(() => {
    document.title = `${id ? `${id} · ` : ""}${VIEWS[view] ?? "Nothing here"} · Tandem console`;
    // The first view leaves the focus at the top of the page, where a keyboard starts.
    if (arrived.current) main.current.querySelector("h1")?.focus();
    arrived.current = true;
    document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }, [view, id]);
  const views = Object.keys(VIEWS).filter((name) => name !== "break-it" || (hello?.can_break && who.may.includes("act")));
  const skip = (event) => {
    event.preventDefault();
    main.current.focus();
  };
  return html`
    <a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <header class="top">
      <span class="name">Tandem</span>
      <nav aria-label="Views">${views.map((name) => html`<${Link} key=${name} view=${name} current=${name === view} />`)}</nav>
      <span role="status"><${Liveness} /></span>
      <${News} />
    </header>
    <main id="main" tabindex="-1" ref=${main}>
      <${Problems} problems=${flow?.problems} />
      <${View} key=${view} route=${route} />
    </main>
    <footer>
      ${hello && `${hello.stack} stack · `}you ${who.may.includes("act") ? "act" : "read"} as ${who.actor}
      ${who.by !== "anonymous" && html` <button type="button" class="quiet" onClick=${logOut}>Log out</button>`}
    </footer>`;
}

/** Draws nothing but the login until somebody has logged in. Each session has a page of its own, which remembers nothing of the one before. */
function Console() {
  const session = useSession();
  const actor = session.who?.actor;
  useEffect(() => {
    if (actor) connect();
  }, [actor]);
  if (session.who === undefined) return html`<main id="main"><p role="status">Connecting …</p></main>`;
  if (!session.who) return html`<${Login} ended=${session.ended} refusal=${session.refusal} />`;
  return html`<${Page} key=${actor} who=${session.who} />`;
}

findSession();
render(html`<${Console} />`, document.getElementById("page"));
