// Who uses the page. The server keeps the session and the browser its cookie, which no script can read.

import { useEffect, useReducer } from "./vendor/htm-preact.js";
import { get, post, remove, whenUnauthenticated } from "./http.js";

const PATH = "/api/session";

/** `{}` until the server has said who it is; `who` is then null or `{actor, by, may, ends_at}`. */
let session = {};
const listeners = new Set();

function change(next) {
  session = next;
  for (const redraw of listeners) redraw();
}

/** The token of an address that ends with `#token=…`, which is taken out of it, so that it does not stay on the screen. */
function tokenOfAddress() {
  const match = /^#token=(.+)$/.exec(location.hash);
  if (!match) return undefined;
  history.replaceState(null, "", `${location.pathname}#/flow`);
  return match[1];
}

/** Begins a session. Rejects with the server's refusal. */
export async function logIn(token) {
  change({ who: await post(PATH, {}, { authorization: `Bearer ${token}` }) });
}

/** Ends the session here and on the server. */
export async function logOut() {
  await remove(PATH);
  change({ who: null });
}

/** Finds out who uses the page: by the session that the browser has, or else by a token in the address. A link must not make
 * somebody act under another name, so it changes no session. */
export async function findSession() {
  const token = tokenOfAddress();
  try {
    change({ who: await get(PATH) });
    return;
  } catch (refusal) {
    if (refusal.status !== 401 || !token) {
      change({ who: null, refusal: refusal.status === 401 ? undefined : refusal });
      return;
    }
  }
  logIn(token).catch((refusal) => change({ who: null, refusal }));
}

function ended() {
  if (session.who) change({ who: null, ended: true });
}

whenUnauthenticated(ended);
export { ended as sessionEnded };

/** The session: the component is drawn again when it changes. */
export function useSession() {
  const [, redraw] = useReducer((count) => count + 1, 0);
  useEffect(() => {
    listeners.add(redraw);
    redraw();
    return () => listeners.delete(redraw);
  }, []);
  return session;
}

/** Whether the person may do this: `act` on dead letters, proofs and parts, or `place` orders. */
export function useMay(what) {
  return useSession().who?.may.includes(what) ?? false;
}
