// The address after `#`: a path of parts and a query. Filters stand in the query, so a link keeps them.

import { useEffect, useState } from "./vendor/htm-preact.js";
import { query } from "./http.js";

function read() {
  const [path, search] = location.hash.replace(/^#\/?/, "").split("?");
  let parts;
  try {
    parts = path.split("/").map(decodeURIComponent);
  } catch {
    parts = ["unknown"];
  }
  return { parts: parts[0] ? parts : ["flow"], filter: Object.fromEntries(new URLSearchParams(search ?? "")) };
}

export function useRoute() {
  const [route, setRoute] = useState(read);
  useEffect(() => {
    const change = () => setRoute(read());
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, []);
  return route;
}

/** The address of a view: `address("orders", id)`, or with a query: `address("orders", {status: "pending"})`. */
export function address(...parts) {
  const filter = typeof parts.at(-1) === "object" ? parts.pop() : {};
  return `#/${parts.map(encodeURIComponent).join("/")}${query(filter)}`;
}

export function go(...parts) {
  location.hash = address(...parts);
}

/** The filter of a view that the person last used, so that the view's link in the head leads back to it. */
export function lastFilter(view) {
  return JSON.parse(sessionStorage.getItem(`filter ${view}`) ?? "{}");
}

export function keepFilter(view, filter) {
  sessionStorage.setItem(`filter ${view}`, JSON.stringify(filter));
}
