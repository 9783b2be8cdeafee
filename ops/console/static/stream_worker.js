// One stream for all tabs of a browser: it opens at most six connections to a server, so the seventh tab would hang.

import { follow, remember } from "./source.js";

const ports = new Set();
const newest = new Map();
let following = false;

function report(kind, document) {
  remember(newest, kind, document);
  if (kind === "link" && document === "out") {
    following = false;
    newest.clear(); // it was for whoever had the session
  }
  for (const port of ports) port.postMessage([kind, document]);
}

self.onconnect = ({ ports: [port] }) => {
  port.onmessage = ({ data }) => {
    if (data === "goodbye") {
      ports.delete(port);
      return;
    }
    for (const [key, document] of newest) port.postMessage([key.split(" ")[0], document]);
    ports.add(port);
    if (!following) follow(report);
    following = true;
  };
};
