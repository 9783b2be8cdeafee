// One stream for all tabs of a browser: it opens at most six connections to a server, so the seventh tab would hang.

import { follow, remember } from "./source.js";

const ports = new Set();
const newest = new Map();

follow((kind, document) => {
  remember(newest, kind, document);
  for (const port of ports) port.postMessage([kind, document]);
});

self.onconnect = ({ ports: [port] }) => {
  for (const [key, document] of newest) port.postMessage([key.split(" ")[0], document]);
  ports.add(port);
  port.onmessage = () => ports.delete(port); // the tab says goodbye
};
