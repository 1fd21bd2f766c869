// The console as a person uses it. Started by run.sh, which says where browser, driver and binary are.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const { CHROMIUM, PLAYWRIGHT_CORE, SLUICE_BIN, SHOTS } = process.env;
const { chromium } = createRequire(import.meta.url)(PLAYWRIGHT_CORE);

const folder = mkdtempSync(join(tmpdir(), "sluice-browser-"));
const env = { ...process.env, SLUICE__DATA_DIR: join(folder, "data"), SLUICE__HTTP__LISTEN: "127.0.0.1:0", SLUICE__ADMIN__LISTEN: "127.0.0.1:0", SLUICE__LOG__LEVEL: "warn" };
const server = spawn(SLUICE_BIN, ["serve"], { env, cwd: folder, stdio: ["ignore", "pipe", "inherit"] });
const base = await new Promise((resolve, reject) => {
  let text = "";
  server.stdout.on("data", (data) => {
    const address = (text += data).match(/listening http=(\S+)/)?.[1];
    if (address) resolve(`http://${address}`);
  });
  server.on("exit", (code) => reject(new Error(`the server ended with ${code}`)));
});
const token = (...args) => execFileSync(SLUICE_BIN, ["token", ...args], { env, cwd: folder }).toString().trim();
const post = async (path, bearer, body) => {
  const answer = await fetch(`${base}/api/v1${path}`, { method: "POST", headers: { authorization: `Bearer ${bearer}`, "content-type": "application/json" }, body: JSON.stringify(body) });
  assert.equal(answer.status, 201, await answer.text());
};

// 240 entries over two hours, one of them with markup in it, one with a change and a number that JavaScript would round.
const start = Date.parse("2026-03-01T10:00:00Z");
const entry = (i) => ({
  timestamp: new Date(start + i * 30_000).toISOString(),
  action: ["LOGIN", "UPDATE", "VIEW"][i % 3],
  resource_type: "document",
  resource_id: `doc-${i}`,
  user_id: `user${i % 5}`,
  severity: i % 10 === 0 ? "ERROR" : "INFO",
  message: i % 10 === 0 ? `failed number ${i}` : `fine number ${i}`,
  metadata: { region: { zone: `z${i % 4}` }, tags: ["a", "b.c"] },
});
const evil = "<img src=x onerror=\"document.title='owned'\"> \u202eturned";
// In every place that the console shows: as text in all of them.
const hostile = {
  action: "<script>document.title='owned'</script>",
  resource_type: "<svg/onload=document.title='owned'>",
  resource_id: "javascript:document.title='owned'",
  user_id: "\"><img src=x onerror=document.title='owned'>\u2066",
  session_id: "data:text/html,<script>alert(1)</script>",
  user_agent: "{{constructor.constructor('alert(1)')()}}",
  metadata: { "<b onmouseover=document.title='owned'>key</b>": "<iframe srcdoc='<script>top.document.title=1</script>'>", link: "javascript:alert(1)", ["__proto__"]: { polluted: "yes" } },
  before_state: { "<i>k</i>": "<a href='javascript:alert(1)'>old</a>" },
  after_state: { "<i>k</i>": "\u202e<style>*{display:none}</style>" },
};
const email = "ada@example.com";
const password = "correct horse battery staple";
let failed = null;
let browser;
try {
  const admin = token("--tenant", "acme", "--role", "admin");
  await post("/tenants", token("--role", "platform_admin"), { tenant_id: "acme" });
  const entries = Array.from({ length: 240 }, (_, i) => entry(i));
  entries[238] = { ...entries[238], ...hostile };
  entries[239] = { ...entries[239], action: "CHANGE", message: evil, before_state: { plan: "free", seats: 1, old: true, same: "x" }, after_state: { plan: "team", seats: 1, new: [1, 2], same: "x" } };
  await post("/logs/bulk?wait=stored", admin, entries);
  await post("/tenants/acme/users", admin, { email, password, role: "auditor" });

  browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"] });
  const page = await (await browser.newContext({ viewport: { width: 1440, height: 900 } })).newPage();
  const complaints = [];
  const elsewhere = [];
  let refused = 0;
  // What breaks a content policy says so in each page.
  await page.addInitScript(() => addEventListener("securitypolicyviolation", (event) => console.error(`breach of ${event.violatedDirective} by ${event.blockedURI}`)));
  page.on("request", (request) => !request.url().startsWith(base) && !/^(data|blob):/.test(request.url()) && elsewhere.push(request.url()));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("response", (answer) => answer.status() === 422 && (refused += 1));
  const shot = async (name) => SHOTS && page.screenshot({ path: join(SHOTS, `${name}.png`) });
  const rows = page.locator("#rows tr");
  const text = (selector) => page.locator(selector).textContent();
  const until = (what, condition, argument) => page.waitForFunction(condition, argument, { timeout: 15_000 }).catch(() => assert.fail(`never: ${what}`));

  // A token in the fragment is used and taken out of the address at once; the page at / is the same page.
  await page.goto(`${base}/#token=${token("--tenant", "acme", "--role", "viewer")}`);
  await until("50 rows", () => document.querySelectorAll("#rows tr").length === 50);
  assert(!page.url().includes("token"), page.url());
  assert.equal(await text("#tenant"), "acme");
  await until("statistics", () => document.getElementById("total").textContent === "240");
  assert.equal(await text("#errors"), "24");
  await until("a live feed", () => document.getElementById("state").textContent === "live");
  await until("bars", () => document.querySelectorAll("#histogram rect.ERROR").length > 5);
  await shot("list");

  // What is in an entry is text.
  assert.equal(await rows.first().locator("td.message").textContent(), evil.replace("\u202e", "\ufffd"));
  assert.equal(await page.title(), "Sluice");
  const shown = (text) => text.replace(/[\u202e\u2066]/g, "\ufffd");
  assert.deepEqual(await rows.nth(1).locator("td").allTextContents(), ["2026-03-01 11:59:00.000", "INFO", hostile.action, shown(hostile.user_id), `${hostile.resource_type} ${hostile.resource_id}`, "fine number 238"]);
  await rows.nth(1).click();
  await page.locator("#detail .raw summary").click();
  for (const value of [hostile.action, hostile.resource_id, shown(hostile.user_id), hostile.user_agent, "__proto__.polluted", Object.keys(hostile.metadata)[0], Object.values(hostile.metadata)[0], hostile.before_state["<i>k</i>"], shown(hostile.after_state["<i>k</i>"])]) {
    assert((await text("#detail")).includes(value), value);
  }
  assert.deepEqual(await page.evaluate(() => [document.querySelectorAll("main img, main script, main svg svg, dialog :is(a, img, iframe, i, style, script)").length, document.title, {}.polluted]), [0, "Sluice", undefined]);
  await shot("hostile");
  await page.click("#close");
  await page.locator(`#facets .facet`, { hasText: hostile.action }).click();
  await until("one entry", () => document.querySelectorAll("#rows tr").length === 1);
  await page.locator(".chip", { hasText: hostile.action }).click();
  await until("all again", () => document.querySelectorAll("#rows tr").length === 50);
  await until("a live feed", () => document.getElementById("state").textContent === "live");

  // Live: an entry that is written now is on top.
  await post("/logs", admin, { ...entry(1), timestamp: undefined, action: "NOW", metadata: undefined });
  await until("the new entry", () => document.querySelector("#rows td.action").textContent === "NOW");

  // Further down by cursor: everything, nothing twice.
  await page.click("#live");
  await until("the feed is off", () => document.getElementById("state").textContent === "not live");
  for (const n of [100, 150, 200, 241]) {
    await until("more can be loaded", () => !document.getElementById("more").hidden && !document.getElementById("more").disabled);
    await page.click("#more");
    await until(`${n} rows`, (n) => document.querySelectorAll("#rows tr").length === n, n);
  }
  await until("the end", () => document.getElementById("more").hidden);
  const ids = await rows.evaluateAll((all) => all.map((row) => row.dataset.id));
  assert.equal(new Set(ids).size, 241);

  // Facets, search, filters; the address keeps them.
  await page.click('#facets .facet[title="ERROR"]');
  await until("24 errors", () => document.querySelectorAll("#rows .badge.ERROR").length === 24 && document.querySelectorAll("#rows tr").length === 24);
  await page.fill("#search", '"failed number" -100');
  await page.press("#search", "Enter");
  await until("a search", () => document.querySelectorAll("#rows tr").length === 23);
  assert(page.url().includes("severity=ERROR") && page.url().includes("search="), page.url());
  await page.fill("#search", '"unbalanced');
  await page.press("#search", "Enter");
  await until("the server's words", () => /character 1/.test(document.getElementById("problem").textContent));
  await shot("problem");
  await page.fill("#search", "");
  await page.press("#search", "Enter");
  await page.click(".chip");
  await until("no filter", () => document.querySelectorAll("#rows tr").length === 50);
  await page.click("#adder summary");
  await page.selectOption("#add-name", "metadata.");
  await page.fill("#add-path", "region.zone");
  await page.fill("#add-value", "z3");
  await page.click("#add button");
  await until("60 in the zone", () => document.getElementById("total").textContent === "60");

  // Aggregates, and from a group to its entries.
  await page.click("#tab-groups");
  await page.selectOption("#group-by", "action");
  await until("groups", () => document.querySelectorAll("#group-rows tr").length === 4);
  await shot("groups");
  await page.locator("#group-rows button", { hasText: "CHANGE" }).click();
  await until("one entry", () => document.querySelectorAll("#rows tr").length === 1);

  // Detail: what changed, and what the fields lead to.
  await rows.first().focus();
  await page.keyboard.press("Enter");
  const changes = await page.locator(".diff tbody tr").evaluateAll((all) => all.map((row) => [row.className, row.querySelector("th").textContent]));
  assert.deepEqual(changes, [["changed", "plan"], ["removed", "old"], ["added", "new.0"], ["added", "new.1"]]);
  await shot("detail");
  await page.locator(".leaves tr", { hasText: "tags.1" }).locator(".narrow").click();
  await until("a filter by an array's element", () => [...document.querySelectorAll(".chip")].some((chip) => chip.textContent.includes("metadata.tags b.c")));
  await until("it matches", () => document.querySelectorAll("#rows tr").length === 1);

  // The histogram narrows and widens.
  await page.locator(".chips .quiet", { hasText: "Clear all" }).click();
  await page.click("#tab-entries");
  await page.selectOption("#range", "custom");
  await page.fill("#from", "2026-03-01T10:00:00");
  await page.fill("#to", "2026-03-01T12:00:00");
  await page.press("#to", "Enter");
  await until("two hours", () => document.getElementById("total").textContent === "240");
  const box = await page.locator("#histogram svg").boundingBox();
  await page.mouse.move(box.x + box.width * 0.25, box.y + 60);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.49, box.y + 60);
  await page.mouse.up();
  await until("narrower", () => Number(document.getElementById("total").textContent) < 80 && Number(document.getElementById("total").textContent) > 40);
  await page.click("#zoom-out");
  await until("as before", () => document.getElementById("total").textContent === "240");

  // Dark, narrow, signed out.
  await page.emulateMedia({ colorScheme: "dark" });
  await shot("dark");
  await page.setViewportSize({ width: 420, height: 800 });
  assert(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), "nothing sticks out on a telephone");
  await shot("narrow");
  await page.setViewportSize({ width: 1440, height: 900 });

  // A token in a link does not take over a session, and is taken out of the address all the same.
  await page.evaluate(() => (location.hash = "token=somebody.elses.token"));
  await until("a clean address", () => !location.href.includes("token"));
  assert.equal(await text("#tenant"), "acme");

  // Signed out: nothing of the tenant is left, in the page or where other scripts could look.
  await page.click("#sign-out");
  assert.equal(await rows.count(), 0);
  const left = await page.evaluate(() => document.body.textContent);
  for (const word of ["acme", "user1", "LOGIN", "document"]) assert(!left.includes(word), word);
  await shot("login-dark");
  await page.emulateMedia({ colorScheme: "light" });
  await shot("login-light");
  await page.fill("#token", "not.a.token");
  await page.press("#token", "Enter");
  await until("the refusal", () => document.getElementById("login-error").textContent !== "" && !document.getElementById("login").hidden);

  // By keyboard: e-mail, password, wrong and right.
  await page.focus("#email");
  await page.keyboard.type(email);
  await page.keyboard.press("Tab");
  await page.keyboard.type("wrong");
  await page.keyboard.press("Enter");
  await until("the refusal", () => /password/.test(document.getElementById("login-error").textContent));
  assert.equal(await page.evaluate(() => document.activeElement.id), "password");
  await shot("login-wrong");
  await page.fill("#password", password);
  await page.keyboard.press("Enter");
  await until("the log", () => document.querySelectorAll("#rows tr").length > 0);
  assert.deepEqual([await text("#tenant"), await text("#who")], ["acme", email]);
  assert.equal(await page.inputValue("#password"), "");
  const stored = () => page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie, indexedDB.databases ? 0 : 0]);
  assert.deepEqual(await stored(), [0, 0, "", 0]);
  await shot("signed-in");

  // An auditor sees who has looked; a viewer is not offered it.
  assert(await page.locator("#log").isVisible());
  await page.selectOption("#log", "access");
  await until("the access log", () => [...document.querySelectorAll("#rows td.action")].some((cell) => cell.textContent.startsWith("sluice.")));
  assert(page.url().includes("log=access"), page.url());
  await shot("access-log");
  await page.selectOption("#log", "");
  await until("the audit log", () => [...document.querySelectorAll("#rows td.action")].some((cell) => cell.textContent === "LOGIN"));

  // The end of a sign-in is said in time, and is the end.
  await page.click("#sign-out");
  await page.clock.install();
  await page.goto(`${base}/#token=${token("--tenant", "acme", "--role", "viewer", "--ttl", "10m")}`);
  await page.reload();
  assert(await page.locator("#login").isVisible(), "a reload forgets");
  await page.fill("#token", token("--tenant", "acme", "--role", "viewer", "--ttl", "10m"));
  await page.press("#token", "Enter");
  await until("the log", () => document.querySelectorAll("#rows tr").length > 0);
  assert(await page.locator("#ending").isHidden());
  assert(await page.locator("#log").isHidden());
  await page.clock.fastForward("06:00");
  await page.clock.runFor(2000);
  assert.match(await text("#ending"), /ends in 4 minutes/);
  await shot("ending");
  await page.clock.fastForward("04:00");
  await page.clock.runFor(2000);
  assert.match(await text("#login-error"), /has ended/);
  assert.equal(await rows.count(), 0);

  // An API key says nothing about itself; the tenant is read from the entries.
  const made = await fetch(`${base}/api/v1/tenants/acme/keys`, { method: "POST", headers: { authorization: `Bearer ${admin}`, "content-type": "application/json" }, body: JSON.stringify({ name: "board", role: "viewer" }) });
  assert.equal(made.status, 201);
  await page.fill("#token", (await made.json()).key);
  await page.press("#token", "Enter");
  await until("the log", () => document.querySelectorAll("#rows tr").length > 0);
  assert.equal(await text("#tenant"), "acme");
  assert.deepEqual(await stored(), [0, 0, "", 0]);

  // The documentation, as strict.
  await page.goto(`${base}/docs`);
  await page.locator(".opblock-summary", { hasText: "/api/v1/health" }).first().click();
  await page.locator(".try-out__btn").first().click();
  await page.locator(".execute").first().click();
  await page.locator(".live-responses-table .response-col_status", { hasText: "200" }).waitFor();
  await page.locator(".btn.authorize").first().click();
  await page.locator(".auth-container input").first().fill("a-token");
  await page.locator(".auth-btn-wrapper .authorize").first().click();
  assert.deepEqual(await stored(), [0, 0, "", 0]);
  await shot("docs");
  await page.goto(`${base}/redoc`);
  await page.locator('[role="search"] input, input[placeholder="Search..."]').first().fill("tenant");
  await page.locator('[data-role="search:results"] li, [data-role="search:results"] label').first().waitFor();
  await shot("redoc");
  assert.deepEqual(elsewhere, [], "nothing is loaded from elsewhere");

  // Chromium writes a line for each 4xx; there is nothing else to complain of, such as a breach of the content policy.
  const other = complaints.filter((line) => !/status of (422|401)|WebSocket connection/.test(line));
  assert.deepEqual(other, []);
  assert(refused >= 1);
  console.log("console: ok");
} catch (error) {
  failed = error;
} finally {
  await browser?.close();
  server.removeAllListeners("exit");
  const ended = new Promise((resolve) => server.once("exit", resolve));
  server.kill("SIGTERM");
  await ended;
  rmSync(folder, { recursive: true, force: true });
}
if (failed) {
  console.error(failed);
  process.exitCode = 1;
}
