// The page: what it does with STOMP, and what it shows. How changes and snapshots go together is in table.js.
import { Table } from "./table.js";

const CHANGES = "/exchange/live.changes/orders.*";
const SNAPSHOT = "/exchange/live.questions/snapshot";
const QUESTION = "/exchange/live.questions/customer";
// What is answered comes to a queue of this connection's own.
const TO_SNAPSHOT = "/temp-queue/snapshot";
const TO_QUESTION = "/temp-queue/customer";
const PATIENCE = 15_000; // ms; a question lives no longer in its queue
const STEPS = ["placed", "paid", "packed", "shipped"];
const FADES = 2_200; // ms, as in live.css

const byId = (id) => document.getElementById(id);
const table = new Table("id", "version");
const shown = new Map(); // <tr> by the key of its row
const money = new Intl.NumberFormat(undefined, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
let changes = 0;
let snapshots = 0;
let lastChange = null;
let asked = new Set(); // snapshots that would do
let retry = 0;
let numbers = 0;
let question = null;
let frame = 0;

// ---- What is shown. Texts come from strangers: they are set as text, and never as HTML. ----

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function say(state, text) {
  document.body.dataset.state = state;
  byId("state-text").textContent = text;
  byId("send").disabled = state !== "live";
}

function status(text) {
  const step = STEPS.indexOf(text);
  const squares = STEPS.map((_, place) => element("i", place <= step ? "done" : ""));
  const steps = element("span", "steps", ...squares);
  steps.setAttribute("aria-hidden", "true");
  return element("span", "status", steps, text);
}

const COLUMNS = {
  id: (row) => String(row.id),
  customer: (row) => row.customer,
  item: (row) => row.item,
  amount: (row) => money.format(row.amount),
  status: (row) => status(row.status),
};

function fill(line, row) {
  const cells = Object.entries(COLUMNS).map(([column, text]) => {
    const cell = element("td", column === "id" || column === "amount" ? "number" : "", text(row));
    cell.dataset.column = column;
    return cell;
  });
  line.dataset.version = row.version;
  line.replaceChildren(...cells);
}

/** The line of a row, the newest order first; it is made if need be. */
function lineOf(row) {
  let line = shown.get(row.id);
  if (line) return line;
  line = element("tr");
  line.dataset.id = row.id;
  const lines = byId("rows").children;
  let low = 0;
  let high = lines.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (Number(lines[middle].dataset.id) > row.id) low = middle + 1;
    else high = middle;
  }
  byId("rows").insertBefore(line, lines[low] ?? null);
  shown.set(row.id, line);
  return line;
}

function mark(node, name) {
  node.classList.add(name);
  setTimeout(() => node.classList.remove(name), FADES);
}

function showAll() {
  for (const line of shown.values()) line.remove();
  shown.clear();
  for (const row of table.rows.values()) fill(lineOf(row), row);
  showFigures();
}

function showChange({ operation, key, row, changed }) {
  changes += 1;
  lastChange = performance.now();
  if (operation === "delete") {
    shown.get(key)?.remove();
    shown.delete(key);
  } else if (row) {
    const isNew = !shown.has(key);
    const line = lineOf(row);
    fill(line, row);
    if (isNew) mark(line, "new");
    for (const cell of line.cells) if (!isNew && changed.includes(cell.dataset.column)) mark(cell, "changed");
  }
  for (const link of document.querySelectorAll(".link")) {
    const way = [{ left: "0", opacity: 1 }, { left: "calc(100% - 14px)", opacity: 1, offset: 0.9 }, { left: "calc(100% - 10px)", opacity: 0 }];
    if (!document.hidden) link.firstElementChild.animate(way, { duration: 420, easing: "ease-in-out" });
  }
}

function showFigures() {
  byId("count").textContent = table.rows.size;
  byId("changes").textContent = changes.toLocaleString();
  byId("snapshots").textContent = snapshots;
  byId("empty").hidden = table.rows.size > 0;
  const names = [...new Set([...table.rows.values()].map((row) => row.customer))].sort();
  const options = byId("customers");
  if (names.join("\n") !== [...options.children].map((option) => option.value).join("\n")) {
    options.replaceChildren(...names.map((name) => Object.assign(element("option"), { value: name })));
  }
}

function showAgo() {
  if (lastChange === null) return;
  const passed = performance.now() - lastChange;
  byId("ago").textContent = passed < 1000 ? `${Math.round(passed)} ms ago` : `${Math.round(passed / 1000)} s ago`;
}

// ---- STOMP ----

const config = await (await fetch("config.json", { cache: "no-store" })).json();
const client = new StompJs.Client({
  brokerURL: config.broker,
  connectHeaders: { login: config.login, passcode: config.passcode, host: config.vhost },
  connectionTimeout: 10_000,
  reconnectDelay: 500,
  maxReconnectDelay: 5_000,
  reconnectTimeMode: StompJs.ReconnectionTimeMode.EXPONENTIAL,
  // A network that is gone says nothing: it is noticed by heart-beats that are missing, and there is nobody to take leave of.
  heartbeatIncoming: 4_000,
  heartbeatOutgoing: 4_000,
  discardWebsocketOnCommFailure: true,
});

client.onConnect = () => {
  say("connecting", "Reading the table");
  // First whatever changes from now on, and then how it is: see table.js.
  client.subscribe(CHANGES, takeChange, { exclusive: "true", "auto-delete": "true" });
  begin();
};
client.onWebSocketClose = () => {
  clearTimeout(retry);
  const since = new Date().toLocaleTimeString();
  if (document.body.dataset.state !== "offline") say("offline", `Offline since ${since}, trying again`);
  answerWith("not connected");
};
client.onStompError = (frame) => console.error(frame.headers.message, frame.body);
// What comes to a temporary queue belongs to no subscription of ours.
client.onUnhandledMessage = (message) => {
  const id = message.headers["correlation-id"];
  if (message.headers.subscription === TO_SNAPSHOT) takeSnapshot(id, JSON.parse(message.body));
  else if (message.headers.subscription === TO_QUESTION) takeAnswer(id, JSON.parse(message.body));
};

function send(destination, replyTo, body) {
  numbers += 1;
  const id = String(numbers);
  client.publish({ destination, body, headers: { "reply-to": replyTo, "correlation-id": id, expiration: String(PATIENCE) } });
  return id;
}

function begin() {
  table.begin();
  asked = new Set();
  askForSnapshot();
}

function askForSnapshot() {
  clearTimeout(retry);
  if (!client.connected || table.isLoaded) return;
  asked.add(send(SNAPSHOT, TO_SNAPSHOT, ""));
  retry = setTimeout(askForSnapshot, PATIENCE);
}

function takeSnapshot(id, { snapshot, rows }) {
  // Of all that were asked for since changes are kept, any will do; of those before, and of copies, none.
  if (table.isLoaded || !asked.has(id)) return;
  clearTimeout(retry);
  snapshots += 1;
  const done = table.load(snapshot, rows);
  say("live", "Live");
  showAll();
  done.forEach(showChange);
  afterChange();
}

function takeChange(message) {
  const done = table.take(JSON.parse(message.body));
  done.forEach(showChange);
  if (done.length) afterChange();
}

function afterChange() {
  // Once for all changes that come before the next picture.
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    showFigures();
    showAgo();
  });
  if (!table.isLoaded) begin();
}

// ---- A question ----

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!client.connected) return;
  clearTimeout(question?.timer);
  const customer = byId("customer").value.trim();
  const timer = setTimeout(() => answerWith("no answer came"), PATIENCE);
  question = { id: send(QUESTION, TO_QUESTION, customer), customer, timer };
  byId("answer").textContent = "…";
});

function takeAnswer(id, { orders, total }) {
  if (id !== question?.id) return;
  answerWith(`${orders} ${orders === 1 ? "order" : "orders"}, ${money.format(total)} in all`);
}

function answerWith(text) {
  if (!question) return;
  clearTimeout(question.timer);
  byId("answer").textContent = `${question.customer}: ${text}`;
  question = null;
}

say("connecting", "Connecting");
setInterval(showAgo, 100);
client.activate();
