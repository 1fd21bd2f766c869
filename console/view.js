// What is looked at: search text, filters, time range, order. It lives in the URL's fragment, which browsers do not send, so that a view
// can be bookmarked and survives a reload; the credential is never part of it.

export const SEVERITIES = ["INFO", "WARNING", "ERROR", "CRITICAL"];

/** Filters of the API by name, and what people call them. */
export const FIELDS = {
  severity: "Severity", action: "Action", user_id: "User", resource_type: "Resource type", resource_id: "Resource", ip_address: "Address or range",
  email: "E-mail", session_id: "Session", request_id: "Request", actor: "Written by", user_agent: "User agent", id: "Id", "metadata.": "Metadata path",
};

/** What groups can be made by. */
export const GROUPS = {
  action: "Action", user_id: "User", resource_type: "Resource type", resource_id: "Resource", severity: "Severity", ip_address: "Address",
  session_id: "Session", "metadata.": "Metadata path",
};

const UNITS = { s: 1e3, m: 60e3, h: 3600e3, d: 86400e3, w: 7 * 86400e3 };
// Widths of bars, smallest first. Months are as long as they are.
const INTERVALS = ["1s", "2s", "5s", "10s", "30s", "1m", "2m", "5m", "10m", "30m", "1h", "2h", "6h", "12h", "1d", "2d", "1w"];
const MOST_BARS = 90;

export const milliseconds = (span) => Number.parseInt(span, 10) * UNITS[span.at(-1)];

/** The width of bars for so many milliseconds. */
export function intervalFor(span) {
  return INTERVALS.find((interval) => span / milliseconds(interval) <= MOST_BARS) ?? "1M";
}

export class View {
  search = "";
  /** "", a span such as "1h", or {from, to} in milliseconds, each possibly null. */
  range = "";
  sort = "timestamp:desc";
  live = true;
  /** "" is the tenant's audit log, "access" its access log. */
  log = "";
  /** Name → set of values. */
  filters = new Map();

  has(name, value) {
    return this.filters.get(name)?.has(value) ?? false;
  }

  toggle(name, value) {
    const values = this.filters.get(name) ?? new Set();
    if (!values.delete(value)) values.add(value);
    if (values.size) this.filters.set(name, values);
    else this.filters.delete(name);
  }

  /** [from, to] in milliseconds or null, now. */
  bounds(now = Date.now()) {
    if (this.range === "") return [null, null];
    if (typeof this.range === "string") return [now - milliseconds(this.range), null];
    return [this.range.from, this.range.to];
  }

  /** Whether entries that come now can belong here. */
  canBeLive() {
    return this.sort === "timestamp:desc" && (typeof this.range === "string" || this.range.to === null);
  }

  /** The filters as parameters of the API. */
  parameters([from, to] = this.bounds()) {
    const query = new URLSearchParams();
    if (this.log) query.append("log", this.log);
    if (this.search) query.append("search", this.search);
    for (const [name, values] of this.filters) for (const value of values) query.append(name, value);
    if (from !== null) query.append("from", new Date(from).toISOString());
    if (to !== null) query.append("to", new Date(to).toISOString());
    return query;
  }

  toFragment() {
    const query = this.parameters([null, null]);
    if (typeof this.range === "string") {
      if (this.range) query.append("range", this.range);
    } else {
      for (const end of ["from", "to"]) if (this.range[end] !== null) query.append(end, new Date(this.range[end]).toISOString());
    }
    if (this.sort !== "timestamp:desc") query.append("sort", this.sort);
    if (!this.live) query.append("live", "off");
    return query.toString();
  }

  static fromFragment(text) {
    const view = new View();
    const [from, to] = [null, null];
    const custom = { from, to };
    for (const [name, value] of new URLSearchParams(text)) {
      if (name === "search") view.search = value;
      else if (name === "range" && /^\d{1,4}[smhdw]$/.test(value)) view.range = value;
      else if (name === "from" || name === "to") custom[name] = Number.isNaN(Date.parse(value)) ? null : Date.parse(value);
      else if (name === "sort" && value === "timestamp:asc") view.sort = value;
      else if (name === "log" && value === "access") view.log = value;
      else if (name === "live") view.live = value !== "off";
      else if ((Object.hasOwn(FIELDS, name) && name !== "metadata.") || /^metadata\../.test(name)) if (!view.has(name, value)) view.toggle(name, value);
    }
    if (custom.from !== null || custom.to !== null) view.range = custom;
    return view;
  }
}
