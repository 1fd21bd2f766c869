// The live board: one WebSocket for the entries, one statistics request every two seconds for the counts.
// The token lives in this module's memory only: it comes from the URL's fragment (which never leaves the browser and is
// removed at once) or from the paste box, and goes out in a header or in the socket's first frame, never in a URL.
const MAX_ROWS = 200;
const SEVERITIES = ["INFO", "WARNING", "ERROR", "CRITICAL"];
const api = `${location.origin}/api/v1`;
const $ = (id) => document.getElementById(id);

let token = "";
let socket = null;
let resumeAfter = null;
let paused = false;
let retryMs = 500;
let pending = [];
const perSecond = new Array(60).fill(0);

function start(text) {
  token = text.trim();
  const claims = decodeClaims(token);
  if (!claims) return showLogin("That is not a token: a token has three parts, separated by dots.");
  $("tenant").textContent = typeof claims.tenant === "string" ? claims.tenant : "";
  $("login").hidden = true;
  $("board").hidden = false;
  reconnect();
  refreshCounts();
}

function decodeClaims(text) {
  try {
    return JSON.parse(atob(text.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")));
  } catch {
    return null;
  }
}

function showLogin(problem = "") {
  $("board").hidden = true;
  $("login").hidden = false;
  $("login-error").textContent = problem;
  $("token").focus();
}

function setState(text, kind = "") {
  $("state").textContent = text;
  $("state").className = `state ${kind}`;
}

function filters() {
  const query = new URLSearchParams();
  for (const name of ["severity", "action", "user_id"]) if ($(name).value.trim()) query.set(name, $(name).value.trim());
  return query;
}

function reconnect() {
  if (socket) socket.onclose = null, socket.close();
  const query = filters();
  if (resumeAfter !== null) query.set("after", resumeAfter);
  const mine = (socket = new WebSocket(`${api.replace(/^http/, "ws")}/logs/stream?${query}`));
  setState("connecting…");
  mine.onopen = () => {
    mine.send(JSON.stringify({ token }));
    setState("live", "live");
    retryMs = 500;
  };
  mine.onmessage = ({ data }) => receive(JSON.parse(data));
  mine.onclose = ({ code }) => {
    if (code === 4001) return setState("signed out", "lost"), showLogin("The token is not valid (any more).");
    setState(`connection lost, next try in ${Math.round(retryMs / 100) / 10} s`, "lost");
    setTimeout(reconnect, retryMs);
    retryMs = Math.min(retryMs * 2, 10_000);
  };
}

function receive(frame) {
  if (frame.type === "gap") return notice(`entries ${frame.from} to ${frame.to} were skipped: this page was too slow`);
  if (frame.type === "void") return void (resumeAfter = frame.to);
  resumeAfter = frame.sequence;
  perSecond[59] += 1;
  pending.push(frame);
  if (pending.length > MAX_ROWS) pending = pending.slice(-MAX_ROWS);
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = false;
}

function row(entry) {
  const tr = document.createElement("tr");
  tr.tabIndex = 0;
  const cells = [entry.sequence, entry.timestamp.replace("T", " ").replace("Z", ""), null, entry.user_id ?? "", entry.action, `${entry.resource_type} ${entry.resource_id}`, entry.message ?? ""];
  for (const text of cells) {
    const td = document.createElement("td");
    if (text === null) {
      const badge = document.createElement("span");
      badge.className = `badge ${SEVERITIES.includes(entry.severity) ? entry.severity : ""}`;
      badge.textContent = entry.severity;
      td.append(badge);
    } else {
      td.textContent = text;
      td.title = text;
    }
    tr.append(td);
  }
  const open = () => {
    $("detail-title").textContent = `Entry ${entry.sequence} · ${entry.id}`;
    $("detail-json").textContent = JSON.stringify(entry, null, 2);
    $("detail").showModal();
  };
  tr.onclick = open;
  tr.onkeydown = (event) => event.key === "Enter" && open();
  return tr;
}

// Frames are drawn once per animation frame, however many have come.
function draw() {
  if (!paused && pending.length) {
    const rows = pending.map(row).reverse();
    pending = [];
    $("rows").prepend(...rows);
    while ($("rows").childElementCount > MAX_ROWS) $("rows").lastElementChild.remove();
    $("empty").hidden = true;
  }
  requestAnimationFrame(draw);
}

async function refreshCounts() {
  try {
    const answer = await fetch(`${api}/logs/stats`, { headers: { Authorization: `Bearer ${token}` }, cache: "no-store" });
    if (answer.status === 401) return showLogin("The token is not valid (any more).");
    if (answer.ok) {
      const stats = await answer.json();
      $("total").textContent = stats.total.toLocaleString("en");
      $("users").textContent = stats.unique_users.toLocaleString("en");
      for (const severity of SEVERITIES) $(severity).textContent = stats.by_severity[severity].toLocaleString("en");
    }
  } catch {
    // The socket shows that the server is away; the counts stay as they were.
  }
  setTimeout(refreshCounts, 2000);
}

function tick() {
  $("rate").textContent = perSecond[59].toLocaleString("en");
  const top = Math.max(1, ...perSecond);
  const points = perSecond.map((n, i) => `${(i * 600) / 59},${60 - (n * 56) / top}`);
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", `M0,60 L${points.join(" L")} L600,60 Z`);
  $("chart").replaceChildren(path);
  perSecond.push(0);
  perSecond.shift();
}

function refilter() {
  $("rows").replaceChildren();
  $("empty").hidden = false;
  pending = [];
  resumeAfter = null;
  reconnect();
}

$("login").onsubmit = (event) => {
  event.preventDefault();
  start($("token").value);
  $("token").value = "";
};
for (const name of ["severity", "action", "user_id"]) $(name).onchange = refilter;
$("pause").onclick = () => {
  paused = !paused;
  $("pause").textContent = paused ? "Go on" : "Pause";
  $("pause").setAttribute("aria-pressed", String(paused));
};

setInterval(tick, 1000);
requestAnimationFrame(draw);
const given = new URLSearchParams(location.hash.slice(1)).get("token");
history.replaceState(null, "", location.pathname);
if (given) start(given);
else showLogin();
