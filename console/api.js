// The API as the console uses it: one credential in memory, requests, problems in words, the live feed.
// The credential goes out in a header or in the socket's first frame, never in a URL, and is never stored.
const BASE = `${location.origin}/api/v1`;

let token = "";
let onSignedOut = () => {};

export function signIn(text, signedOut) {
  token = text.trim();
  onSignedOut = signedOut;
}

export function signOut() {
  token = "";
}

/**
 * What a token says about itself, as far as it is a JWT: tenant, subject, roles (null: it does not say), when it ends (milliseconds, or
 * null). For people to read; the server decides what it is worth.
 */
export function about(text) {
  try {
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(text.split(".")[1].replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0))));
    const named = (claim) => (typeof claim === "string" ? claim : "");
    const roles = claims.role === undefined ? null : [claims.role].flat().map((role) => String(role).toLowerCase());
    return { tenant: named(claims.tenant), subject: named(claims.sub), roles, ends: typeof claims.exp === "number" ? claims.exp * 1000 : null };
  } catch {
    return { tenant: "", subject: "", roles: null, ends: null };
  }
}

/** A number that JavaScript would round: what the server sent, digit by digit. */
export class Exact {
  constructor(source) {
    this.source = source;
  }
  toString() {
    return this.source;
  }
  toJSON() {
    return JSON.rawJSON ? JSON.rawJSON(this.source) : this.source;
  }
}

/** JSON with numbers as they were sent (where the browser tells; older ones round beyond 2^53). */
export function parse(text) {
  return JSON.parse(text, (_, value, context) => (typeof value === "number" && context?.source !== undefined && String(value) !== context.source ? new Exact(context.source) : value));
}

/** An answer that is no success. */
export class Problem extends Error {
  constructor(status, body) {
    super(body?.detail || `The server answered ${status}.`);
    this.status = status;
    this.code = body?.code ?? "";
    this.errors = Array.isArray(body?.errors) ? body.errors : [];
    /** The tenants to choose among, where a password is right for several. */
    this.tenants = Array.isArray(body?.tenants) ? body.tenants : [];
  }
}

async function ask(path, options) {
  let answer;
  try {
    // Nothing that the browser would add by itself: the credential is the one in this page.
    answer = await fetch(`${BASE}${path}`, { cache: "no-store", credentials: "same-origin", redirect: "error", ...options });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Problem(0, { detail: "The server cannot be reached." });
  }
  const text = await answer.text();
  if (answer.ok) return parse(text);
  let body = null;
  try {
    body = JSON.parse(text);
  } catch {
    // Something between us and the server has answered.
  }
  throw new Problem(answer.status, body);
}

export async function get(path, query, signal) {
  const used = token;
  try {
    return await ask(`${path}${query?.size ? `?${query}` : ""}`, { headers: { Authorization: `Bearer ${used}` }, signal });
  } catch (error) {
    if (error.status === 401 && used === token) onSignedOut(error.message);
    throw error;
  }
}

/** A password for a token: {access_token, expires_in, tenant_id}. */
export function logIn(email, password, tenant) {
  const body = JSON.stringify({ email, password, ...(tenant ? { tenant_id: tenant } : {}) });
  return ask("/login", { method: "POST", headers: { "Content-Type": "application/json" }, body });
}

/**
 * The live feed after a number, until `stop()`: reconnects by itself and goes on where it was.
 * `on` has entry(entry), gap(from, to), state(text, kind).
 */
export class Feed {
  #socket = null;
  #timer = 0;
  #wait = 500;
  #stopped = false;

  constructor(filters, after, on) {
    this.filters = filters;
    this.after = after;
    this.on = on;
    this.#connect();
  }

  #connect() {
    const query = new URLSearchParams(this.filters);
    query.set("after", this.after);
    const socket = (this.#socket = new WebSocket(`${BASE.replace(/^http/, "ws")}/logs/stream?${query}`));
    this.on.state("connecting…", "");
    socket.onopen = () => {
      socket.send(JSON.stringify({ token }));
      this.on.state("live", "live");
    };
    socket.onmessage = ({ data }) => {
      this.#wait = 500;
      const frame = parse(data);
      if (frame.type === "gap") this.on.gap(frame.from, frame.to);
      if (frame.type) this.after = frame.to ?? this.after;
      else {
        this.after = frame.sequence;
        this.on.entry(frame);
      }
    };
    socket.onclose = ({ code }) => {
      if (this.#stopped) return;
      if (code === 4001) {
        this.stop();
        return onSignedOut("The credential is not valid (any more).");
      }
      this.on.state(`connection lost, next try in ${this.#wait / 1000} s`, "lost");
      this.#timer = setTimeout(() => this.#connect(), this.#wait);
      this.#wait = Math.min(this.#wait * 2, 10_000);
    };
  }

  stop() {
    this.#stopped = true;
    clearTimeout(this.#timer);
    this.#socket?.close();
  }
}
