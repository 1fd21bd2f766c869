// One entry in full: its fields, what changed between the states, its metadata, the raw JSON.
import { Exact } from "./api.js";
import { count, make, time } from "./dom.js";
import { FIELDS } from "./view.js";

const isObject = (value) => typeof value === "object" && value !== null && !(value instanceof Exact);

const shown = (value) => (value === undefined ? "" : value instanceof Exact ? value.source : typeof value === "string" ? value : JSON.stringify(value));

/** Leaves by path; a dot within a key is written `\.`, as the API takes it. */
export function leaves(value, path = [], out = new Map()) {
  const inner = isObject(value) ? Object.entries(value) : [];
  if (inner.length === 0) {
    if (path.length) out.set(path.map((key) => String(key).replaceAll(".", "\\.")).join("."), value);
  } else {
    for (const [key, child] of inner) leaves(child, [...path, key], out);
  }
  return out;
}

const same = (a, b) => shown(a) === shown(b) && typeof a === typeof b && Array.isArray(a) === Array.isArray(b);

/** [{path, before, after, kind}], kind one of added, removed, changed, same; in the order of the states. */
export function difference(before, after) {
  const [old, now] = [leaves(before ?? {}), leaves(after ?? {})];
  const paths = new Set([...old.keys(), ...now.keys()]);
  return [...paths].map((path) => {
    const kind = !old.has(path) ? "added" : !now.has(path) ? "removed" : same(old.get(path), now.get(path)) ? "same" : "changed";
    return { path, before: old.get(path), after: now.get(path), kind };
  });
}

const SIGNS = { added: "+", removed: "−", changed: "~", same: "" };

function changes(entry) {
  if (entry.before_state === null && entry.after_state === null) return [];
  const rows = difference(entry.before_state, entry.after_state);
  const kept = rows.filter((row) => row.kind === "same");
  const body = make("tbody", {});
  const draw = (all) =>
    body.replaceChildren(
      ...rows
        .filter((row) => all || row.kind !== "same")
        .map(({ path, before, after, kind }) =>
          make("tr", { class: kind }, make("td", { class: "sign" }, make("span", { "aria-hidden": "true" }, SIGNS[kind]), make("span", { class: "sr" }, kind)),
            make("th", { scope: "row" }, path), make("td", {}, kind === "added" ? "" : make("del", {}, shown(before))), make("td", {}, kind === "removed" ? "" : make("ins", {}, shown(after)))),
        ),
    );
  draw(false);
  const summary = ["changed", "added", "removed"].map((kind) => [kind, rows.filter((row) => row.kind === kind).length]).filter(([, n]) => n);
  const parts = [make("h3", {}, "Changes ", make("span", { class: "dim" }, summary.map(([kind, n]) => `${count(n)} ${kind}`).join(", ") || "none"))];
  const head = make("thead", {}, make("tr", {}, make("th", { class: "sign" }, make("span", { class: "sr" }, "kind")), make("th", { scope: "col" }, "Path"), make("th", { scope: "col" }, "Before"), make("th", { scope: "col" }, "After")));
  parts.push(make("table", { class: "diff" }, head, body));
  if (kept.length) {
    const button = make("button", { type: "button", class: "quiet" }, `Show ${count(kept.length)} unchanged`);
    button.onclick = () => {
      draw(true);
      button.remove();
    };
    parts.push(button);
  }
  return parts;
}

const FACTS = [
  ["timestamp", "Time (UTC)"], ["received_at", "Received"], ["severity", "Severity"], ["action", "Action"], ["resource_type", "Resource type"], ["resource_id", "Resource"],
  ["user_id", "User"], ["email", "E-mail"], ["actor", "Written by"], ["ip_address", "Address"], ["user_agent", "User agent"], ["session_id", "Session"], ["request_id", "Request"],
  ["id", "Id"], ["sequence", "Sequence"],
];

/** The nodes of the detail view. `filter(name, value)` narrows to a value; `has(name, value)` says whether it does already. */
export function detail(entry, filter, has) {
  const narrow = (name, value) => {
    const text = String(value);
    const on = has(name, text);
    return make("button", { type: "button", class: "quiet narrow", title: on ? "Take this filter away" : "Show only entries with this value", onclick: () => filter(name, text) },
      on ? "−" : "+", make("span", { class: "sr" }, ` filter by ${name}`));
  };
  const fact = (label, value, name) => make("div", {}, make("dt", {}, label), make("dd", {}, value, ...(name ? [narrow(name, value)] : [])));
  const facts = FACTS.filter(([name]) => entry[name] !== null && entry[name] !== "").map(([name, label]) =>
    fact(label, ["timestamp", "received_at"].includes(name) ? time(entry[name]) : String(entry[name]), Object.hasOwn(FIELDS, name) ? name : ""),
  );
  const metadata = [...leaves(entry.metadata ?? {})];
  // An element of an array is found by the array's path.
  const path = (text) => `metadata.${text.split(/(?<!\\)\./).filter((key, i, all) => !isIndex(entry.metadata, all, i)).join(".")}`;
  const rows = metadata.map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, shown(value), ...(isObject(value) || shown(value).length > 512 ? [] : [narrow(path(name), shown(value))]))),
  );
  const raw = JSON.stringify(entry, null, 2);
  const copy = make("button", { type: "button", class: "quiet" }, "Copy");
  copy.onclick = async () => {
    await navigator.clipboard?.writeText(raw);
    copy.textContent = "Copied";
  };
  return [
    ...(entry.message ? [make("p", { class: "quote" }, entry.message)] : []),
    make("dl", { class: "facts" }, ...facts),
    ...changes(entry),
    ...(rows.length ? [make("h3", {}, "Metadata"), make("table", { class: "leaves" }, make("tbody", {}, ...rows))] : []),
    make("details", { class: "raw" }, make("summary", {}, "JSON as stored"), copy, make("pre", {}, raw)),
  ];
}

function isIndex(value, path, i) {
  let at = value;
  for (const key of path.slice(0, i)) at = at?.[key.replaceAll("\\.", ".")];
  return Array.isArray(at);
}
