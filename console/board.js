// The console: what one tenant's log answers, and what comes in while somebody looks.
//
// One view (search, filters, time range, order) gives four things: a list that is read by cursor, statistics with a histogram, facets to
// filter by, and a feed that begins exactly where the list was read (`as_of`), so that nothing is missing between them and nothing is twice.
import { Feed, Problem, about, get, logIn, signIn, signOut } from "./api.js";
import { Chart } from "./chart.js";
import { $, count, make, time, visible } from "./dom.js";
import { detail } from "./entry.js";
import { FIELDS, GROUPS, SEVERITIES, View, intervalFor, milliseconds } from "./view.js";

const PAGE = 50;
const MOST_LIVE_ROWS = 500;
const REFRESH = 3000;
/** So often even if nothing came: relative ranges move on. Each look is an entry of the access log, so there are no more than needed. */
const REFRESH_QUIET = 60e3;
const TOP = 8;
/** So long before its end a credential is said to end. */
const WARN = 5 * 60e3;

let view = new View();
let entries = [];
let cursor = null;
let feed = null;
let fresh = [];
let trimmed = false;
let arrivals = new Array(5).fill(0);
let known = { first: null, last: null };
let zoomed = [];
let opened = -1;
let work = new AbortController();
let busy = 0;
let timer = 0;
let counting = null;
let [uncounted, counted] = [0, 0];
let signedIn = false;
let ends = null;
let audits = false;

const chart = new Chart($("histogram"), (from, to) => {
  zoomed.push(view.range);
  view.range = { from, to };
  refresh();
});

// ---- signing in and out

/** Takes a credential; `known` is what the answer to a login says about it, else a token says it itself. */
function login(text, known = about(text)) {
  signIn(text, (why) => logout(why));
  signedIn = true;
  ends = known.ends;
  // Who reads the access log; where the credential does not say its roles, the server does.
  audits = known.roles?.some((role) => ["auditor", "admin"].includes(role)) ?? true;
  named("tenant", known.tenant);
  named("who", known.subject);
  for (const form of [$("with-password"), $("with-token")]) form.reset();
  $("tenants").hidden = true;
  $("login").hidden = true;
  $("login-error").textContent = "";
  $("board").hidden = $("sign-out").hidden = false;
  ending();
  refresh();
}

function named(id, text) {
  $(id).textContent = visible(text);
  $(id).hidden = !text;
}

/** Everything of the session goes; the view stays, in the address too, for whoever signs in next. */
function logout(why = "") {
  signedIn = false;
  ends = null;
  signOut();
  stopFeed();
  work.abort();
  clearTimeout(timer);
  [entries, fresh, cursor] = [[], [], null];
  for (const id of ["rows", "facets", "group-head", "group-rows", "detail-body", "detail-title"]) $(id).replaceChildren();
  for (const id of ["total", "users", "errors", "extent"]) $(id).textContent = "–";
  chart.show([], "1m");
  if ($("detail").open) $("detail").close();
  $("problem").hidden = $("notice").hidden = true;
  $("board").hidden = $("sign-out").hidden = $("ending").hidden = true;
  named("tenant", "");
  named("who", "");
  $("login").hidden = false;
  $("login-error").textContent = visible(why);
  state("", "");
  $("email").focus();
}

/** Says in time that the credential ends, and ends with it. */
function ending() {
  const left = ends === null ? Infinity : ends - Date.now();
  if (signedIn && left <= 0) return logout("Your sign-in has ended. Sign in again; what you were looking at is kept.");
  $("ending").hidden = !signedIn || left > WARN;
  const minutes = Math.ceil(left / 60e3);
  const text = `Your sign-in ends in ${minutes === 1 ? "less than a minute" : `${minutes} minutes`}.`;
  if (!$("ending").hidden && $("ending").textContent !== text) $("ending").textContent = text;
}

function state(text, kind) {
  $("state").textContent = text;
  $("state").className = `state ${kind}`;
}

// ---- asking

/** Runs one request of the current view; an answer to a view that is gone is dropped. */
async function ask(path, query) {
  const { signal } = work;
  $("busy").hidden = ++busy === 0;
  try {
    const answer = await get(path, query, signal);
    return signal.aborted ? null : answer;
  } catch (error) {
    if (error.name !== "AbortError" && !signal.aborted && error.status !== 401) showProblem(error);
    return null;
  } finally {
    $("busy").hidden = --busy === 0;
  }
}

function showProblem(error) {
  const problem = error instanceof Problem ? error : new Problem(0, { detail: String(error.message) });
  const told = problem.errors.filter((one) => one.message !== problem.message);
  const items = told.map((one) => make("li", {}, make("b", {}, one.field ?? ""), ` ${one.message}`));
  $("problem").replaceChildren(problem.message, ...(items.length ? [make("ul", {}, ...items)] : []));
  $("problem").hidden = false;
  // What is still shown answers another question.
  document.body.classList.add("stale");
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

/** Everything anew, after the view has changed. */
async function refresh() {
  if (!signedIn) return;
  work.abort();
  work = new AbortController();
  clearTimeout(timer);
  stopFeed();
  [entries, fresh, cursor, trimmed, known] = [[], [], null, false, { first: null, last: null }];
  $("problem").hidden = true;
  document.body.classList.remove("stale");
  notice("");
  controls();
  history.replaceState(null, "", `${location.pathname}${view.toFragment() ? `#${view.toFragment()}` : ""}`);
  statistics();
  if (!$("groups").hidden) groups();
  await page();
}

async function page() {
  const query = view.parameters();
  query.set("sort", view.sort);
  query.set("page_size", PAGE);
  query.set("total", "false");
  if (cursor) query.set("cursor", cursor);
  // A relative range moves with the clock; later pages must ask for what the first one asked.
  if (cursor) query.delete("from"), from !== null && query.set("from", from);
  else from = query.get("from");
  const first = !cursor;
  const answer = await ask("/logs", query);
  if (!answer) return;
  if (first) $("rows").replaceChildren();
  entries.push(...answer.data);
  // An API key does not say whose it is; its entries do.
  if ($("tenant").hidden && entries.length) named("tenant", entries[0].tenant_id);
  cursor = answer.meta.next_cursor;
  $("rows").append(...answer.data.map(row));
  if (answer.meta.degraded) notice("The store lags or is damaged: newer entries may be missing.");
  if (first && view.live && view.canBeLive()) startFeed(answer.meta.as_of);
  listed();
}
let from = null;

function listed() {
  $("more").hidden = !cursor && !trimmed;
  $("empty").hidden = entries.length > 0;
  $("empty-text").textContent = feed ? "Nothing here yet. New entries appear by themselves." : "No entry matches.";
  $("widen").hidden = view.range === "";
  $("shown").textContent = entries.length ? `${count(entries.length)} shown${cursor || trimmed ? ", there are more" : ""}` : "";
}

// ---- the list

function row(entry) {
  const cells = [time(entry.timestamp), null, entry.action, entry.user_id ?? "", `${entry.resource_type} ${entry.resource_id}`, entry.message ?? ""];
  const classes = ["time", "sev", "action", "user", "resource", "message"];
  const tr = make("tr", { tabIndex: 0, "data-id": entry.id }, ...cells.map((text, i) => make("td", { class: classes[i], title: text ?? "" }, text ?? badge(entry.severity))));
  return tr;
}

const badge = (severity) => make("span", { class: `badge ${SEVERITIES.includes(severity) ? severity : ""}` }, severity);

function open(index) {
  const entry = entries[index];
  if (!entry) return;
  opened = index;
  $("detail-title").replaceChildren(badge(entry.severity), ` ${entry.action} `, make("span", { class: "dim" }, `#${entry.sequence ?? "–"}`));
  const filter = (name, value) => {
    $("detail").close();
    view.toggle(name, value);
    refresh();
  };
  $("detail-body").replaceChildren(...detail(entry, filter, (name, value) => view.has(name, value)));
  $("detail-body").scrollTop = 0;
  $("previous").disabled = index === 0;
  $("next").disabled = index === entries.length - 1;
  for (const tr of $("rows").querySelectorAll(".opened")) tr.classList.remove("opened");
  $("rows").children[index]?.classList.add("opened");
  if (!$("detail").open) $("detail").showModal();
}

function rowOf(event) {
  const tr = event.target.closest("tr");
  return tr ? [...$("rows").children].indexOf(tr) : -1;
}

// ---- live

function startFeed(after) {
  stopFeed();
  // What comes is shown whatever its time: a relative range only says how far back the list reaches.
  const filters = view.parameters(typeof view.range === "string" ? [null, null] : view.bounds());
  feed = new Feed(filters, after, {
    entry: (entry) => {
      uncounted += 1;
      arrivals[arrivals.length - 1] += 1;
      fresh.push(entry);
      if (fresh.length > MOST_LIVE_ROWS) (fresh = fresh.slice(-MOST_LIVE_ROWS)), (trimmed = true);
    },
    gap: (first, last) => notice(`Entries ${first} to ${last} were skipped here: this page was too slow. They are in the log.`),
    state,
  });
}

function stopFeed() {
  feed?.stop();
  feed = null;
  fresh = [];
  state(signedIn ? "not live" : "", "");
}

// Drawn once per animation frame, however many have come; held back while somebody reads further down or reads one entry.
function draw() {
  const reading = window.scrollY > 240 || $("detail").open;
  $("fresh").hidden = !(reading && fresh.length && !$("results").hidden);
  if (!$("fresh").hidden) $("fresh").textContent = `${count(fresh.length)}${fresh.length >= MOST_LIVE_ROWS ? " or more" : ""} new`;
  if (fresh.length && !reading) {
    const newest = fresh.reverse();
    fresh = [];
    entries.unshift(...newest);
    $("rows").prepend(...newest.map(row));
    if (entries.length > MOST_LIVE_ROWS) {
      entries.length = MOST_LIVE_ROWS;
      while ($("rows").childElementCount > MOST_LIVE_ROWS) $("rows").lastElementChild.remove();
      [trimmed, cursor] = [true, null];
    }
    listed();
  }
  requestAnimationFrame(draw);
}

// ---- counts

async function statistics() {
  if (counting) return;
  const mine = (counting = work);
  [uncounted, counted] = [0, Date.now()];
  try {
    let [start, end] = view.bounds();
    // Where the range is open, what is there says how wide bars should be; so that is asked first, once.
    if (start === null && known.first === null) {
      const all = await ask("/logs/stats", view.parameters([start, end]));
      if (!all) return;
      known = { first: all.first && Date.parse(all.first), last: all.last && Date.parse(all.last) };
      if (known.first === null) return void counts(all, null);
    }
    const now = Date.now();
    const last = end ?? (start === null ? known.last : Math.max(now, known.last ?? 0));
    const interval = intervalFor(Math.max(1, last - (start ?? known.first)));
    const query = view.parameters([start, end ?? (start === null ? null : now)]);
    query.set("interval", interval);
    const answer = await ask("/logs/stats", query);
    if (!answer) return void (known = { first: null, last: null });
    if (answer.first) known = { first: Date.parse(answer.first), last: Date.parse(answer.last) };
    counts(answer, interval);
  } finally {
    const changed = counting !== work;
    counting = null;
    if (changed && mine !== work && signedIn) statistics();
    else if (feed) later();
  }
}

function later() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    // The looks at the access log are in it: what came is, before long, only they.
    const due = Date.now() - counted >= REFRESH_QUIET || (uncounted > 0 && view.log !== "access");
    if (document.hidden || !due) return later();
    statistics();
    if (!$("groups").hidden) groups();
  }, REFRESH);
}

function counts(stats, interval) {
  $("total").textContent = count(stats.total);
  $("users").textContent = `${stats.approximate ? "≈ " : ""}${count(stats.unique_users)}`;
  $("errors").textContent = count(stats.by_severity.ERROR + stats.by_severity.CRITICAL);
  $("extent").textContent = stats.first ? `${time(stats.first).slice(0, 19)} – ${time(stats.last).slice(0, 19)}` : "–";
  chart.show(stats.series ?? [], interval ?? "1m");
  $("bucket").textContent = interval && stats.series?.length ? `a bar is ${interval}; click or drag to narrow` : "";
  const map = (object) => Object.entries(object).filter(([key]) => key !== "other");
  facets([
    ["severity", SEVERITIES.map((severity) => [severity, stats.by_severity[severity]])],
    ["action", map(stats.by_action)],
    ["user_id", stats.top_users.map((one) => [one.user_id, one.count])],
    ["resource_type", map(stats.by_resource_type)],
  ]);
}

function facets(groups) {
  if ($("facets").contains(document.activeElement) && document.activeElement.matches(":focus-visible")) return;
  $("facets").replaceChildren(
    ...groups.map(([name, all]) => {
      const chosen = view.filters.get(name) ?? new Set();
      const counted = all.filter(([value, n]) => n || chosen.has(value) || name === "severity").slice(0, TOP);
      for (const value of chosen) if (!counted.some(([one]) => one.toLowerCase() === value.toLowerCase())) counted.push([value, 0]);
      const most = Math.max(1, ...counted.map(([, n]) => n));
      const items = counted.map(([value, n]) => {
        const bar = make("span", { class: `bar ${name === "severity" ? value : ""}` });
        bar.style.width = `${(n / most) * 100}%`;
        return make("button", { type: "button", class: "facet", "aria-pressed": String(chosen.has(value)), title: value, onclick: () => (view.toggle(name, value), refresh()) }, bar, make("span", { class: "name" }, value), make("span", { class: "n" }, count(n)));
      });
      return make("section", {}, make("h2", {}, FIELDS[name]), ...(items.length ? items : [make("p", { class: "dim" }, "none")]));
    }),
  );
}

async function groups() {
  const choice = $("group-by").value;
  const key = choice === "metadata." ? `metadata.${$("group-path").value.trim()}` : choice;
  $("group-path-label").hidden = choice !== "metadata.";
  if (key === "metadata.") return;
  const query = view.parameters();
  query.set("group_by", key);
  query.set("limit", 100);
  const answer = await ask("/logs/stats", query);
  if (!answer?.groups) return;
  $("group-head").replaceChildren(make("tr", {}, ...[GROUPS[choice], "Entries", "", "Users", "First (UTC)", "Last (UTC)"].map((text) => make("th", { scope: "col" }, text))));
  const most = Math.max(1, ...answer.groups.map((group) => group.count));
  $("group-rows").replaceChildren(
    ...answer.groups.map((group) => {
      const value = Object.values(group.key)[0];
      const meter = make("span", { class: "bar" });
      meter.style.width = `${(group.count / most) * 100}%`;
      const name = value === null ? make("span", { class: "dim" }, "(none)") : make("button", { type: "button", class: "quiet link", title: "Show only these", onclick: () => (view.toggle(key, String(value)), select("entries"), refresh()) }, String(value));
      return make("tr", {}, make("td", { class: "key" }, name), make("td", { class: "n" }, count(group.count)), make("td", { class: "meter" }, meter), make("td", { class: "n" }, count(group.unique_users)), make("td", {}, time(group.first).slice(0, 19)), make("td", {}, time(group.last).slice(0, 19)));
    }),
  );
  $("group-empty").hidden = answer.groups.length > 0;
}

function select(tab) {
  for (const name of ["entries", "groups"]) $(`tab-${name}`).setAttribute("aria-selected", String(name === tab));
  $("results").hidden = tab !== "entries";
  $("groups").hidden = tab !== "groups";
  if (tab === "groups") groups();
}

// ---- controls

/** The controls say what the view is. */
function controls() {
  $("search").value = view.search;
  $("log").value = view.log;
  $("log").hidden = !audits && !view.log;
  const custom = typeof view.range !== "string";
  const known = [...$("range").options].some((option) => option.value === view.range);
  if (!custom && !known) $("range").append(make("option", { value: view.range }, `Last ${view.range}`));
  $("range").value = custom ? "custom" : view.range;
  $("custom").hidden = !custom;
  for (const end of ["from", "to"]) {
    const ms = custom ? view.range[end] : null;
    $(end).value = ms === null ? "" : new Date(ms).toISOString().slice(0, 19);
  }
  $("live").setAttribute("aria-pressed", String(view.live && view.canBeLive()));
  $("live").disabled = !view.canBeLive();
  $("live").title = view.canBeLive() ? "Show entries as they come" : "Not with an end or the oldest first";
  $("sort-mark").textContent = view.sort === "timestamp:desc" ? "↓" : "↑";
  $("zoom-out").hidden = zoomed.length === 0;
  const chips = [...view.filters].flatMap(([name, values]) =>
    [...values].map((value) => make("button", { type: "button", class: "chip", title: "Take this filter away", onclick: () => (view.toggle(name, value), refresh()) }, make("b", {}, FIELDS[name] ?? name), ` ${value} `, make("span", { "aria-hidden": "true" }, "×"))),
  );
  if (chips.length > 1) chips.push(make("button", { type: "button", class: "quiet", onclick: () => (view.filters.clear(), refresh()) }, "Clear all"));
  $("chips").replaceChildren(...chips, $("adder"));
}

for (const [name, label] of Object.entries(FIELDS)) $("add-name").append(make("option", { value: name }, label));
for (const [name, label] of Object.entries(GROUPS)) $("group-by").append(make("option", { value: name }, label));

$("with-token").onsubmit = (event) => {
  event.preventDefault();
  login($("token").value);
};
$("with-password").onsubmit = async (event) => {
  event.preventDefault();
  const button = $("with-password").querySelector("button");
  if (button.disabled) return;
  $("login-error").textContent = "";
  button.disabled = true;
  const email = $("email").value.trim();
  try {
    const answer = await logIn(email, $("password").value, $("tenants").hidden ? "" : $("tenant-choice").value);
    login(answer.access_token, { ...about(answer.access_token), tenant: answer.tenant_id, subject: email, ends: Date.now() + answer.expires_in * 1000 });
  } catch (error) {
    $("tenants").hidden = !error.tenants?.length;
    $("tenant-choice").replaceChildren(...(error.tenants ?? []).map((tenant) => make("option", { value: tenant }, tenant)));
    $("login-error").textContent = $("tenants").hidden ? visible(error.message) : "Choose the tenant.";
    $($("tenants").hidden ? "password" : "tenant-choice").focus();
  } finally {
    button.disabled = false;
  }
};
$("sign-out").onclick = () => logout();
$("query").onsubmit = (event) => {
  event.preventDefault();
  view.search = $("search").value.trim();
  refresh();
};
$("search").addEventListener("search", () => $("search").value === "" && view.search !== "" && $("query").requestSubmit());
$("log").onchange = () => {
  // Filters and times of one log say little about the other.
  const log = $("log").value;
  view = Object.assign(new View(), { log, live: view.live });
  zoomed = [];
  refresh();
};
$("range").onchange = () => {
  zoomed = [];
  if ($("range").value === "custom") {
    const [first, last] = view.bounds();
    view.range = { from: first ?? known.first ?? Date.now() - milliseconds("24h"), to: last };
  } else view.range = $("range").value;
  refresh();
};
for (const end of ["from", "to"]) {
  $(end).onchange = () => {
    const ms = Date.parse(`${$(end).value}Z`);
    view.range = { ...view.range, [end]: Number.isNaN(ms) ? null : ms };
    refresh();
  };
}
$("live").onclick = () => {
  view.live = !view.live;
  refresh();
};
$("sort").onclick = () => {
  view.sort = view.sort === "timestamp:desc" ? "timestamp:asc" : "timestamp:desc";
  refresh();
};
$("zoom-out").onclick = () => {
  view.range = zoomed.pop() ?? "";
  refresh();
};
$("widen").onclick = () => {
  [view.range, zoomed] = ["", []];
  refresh();
};
$("more").onclick = async () => {
  if (trimmed) {
    // Old rows made room for new ones: look back with the list standing still.
    view.live = false;
    return refresh();
  }
  $("more").disabled = true;
  await page();
  $("more").disabled = false;
};
$("fresh").onclick = () => window.scrollTo({ top: 0 });
$("tab-entries").onclick = () => select("entries");
$("tab-groups").onclick = () => select("groups");
$("group-by").onchange = () => groups();
$("group-path").onchange = () => groups();
$("add-name").onchange = () => ($("add-path-label").hidden = $("add-name").value !== "metadata.");
$("add").onsubmit = (event) => {
  event.preventDefault();
  const name = $("add-name").value === "metadata." ? `metadata.${$("add-path").value.trim()}` : $("add-name").value;
  const value = $("add-value").value;
  if (name === "metadata." || value === "") return;
  if (!view.has(name, value)) view.toggle(name, value);
  $("add-value").value = "";
  $("adder").open = false;
  refresh();
};
$("rows").onclick = (event) => open(rowOf(event));
$("rows").onkeydown = (event) => {
  if (event.key !== "Enter") return;
  // Else the same key press would press the button of the dialog that has the focus then.
  event.preventDefault();
  open(rowOf(event));
};
$("close").onclick = () => $("detail").close();
$("previous").onclick = () => open(opened - 1);
$("next").onclick = () => open(opened + 1);
$("detail").onclick = (event) => event.target === $("detail") && $("detail").close();
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  if (event.key === "/" && !$("board").hidden) event.preventDefault(), $("search").focus();
  if ($("detail").open && (event.key === "j" || event.key === "k")) open(opened + (event.key === "j" ? 1 : -1));
});

setInterval(() => {
  $("rate").textContent = feed ? count(Math.round(arrivals.reduce((sum, n) => sum + n, 0) / arrivals.length)) : "–";
  arrivals = [...arrivals.slice(1), 0];
  ending();
}, 1000);
requestAnimationFrame(draw);

// The fragment may bring a token (it is taken out at once, so that neither history nor a shared screen keeps it) and a view.
function arrive() {
  const fragment = new URLSearchParams(location.hash.slice(1));
  const given = fragment.get("token");
  fragment.delete("token");
  view = View.fromFragment(fragment);
  history.replaceState(null, "", `${location.pathname}${view.toFragment() ? `#${view.toFragment()}` : ""}`);
  return given;
}
addEventListener("hashchange", () => {
  const given = arrive();
  // A link does not take over somebody's session.
  if (signedIn) refresh();
  else if (given) login(given);
});
const given = arrive();
if (given) login(given);
else logout();
