#!/usr/bin/env python3
"""One tenant floods far over its limit; what does another one feel? Usage: loadtest/fairness.py BINARY

Starts BINARY on a temporary folder, measures a calm tenant's writes and lists alone, then beside four connections that send bulks
of 100 against a limit of 1,000 entries a second. Client and server share the machine, so compare the two lines of one run.
"""
import http.client, json, os, subprocess, sys, tempfile, threading, time

SECONDS = 6
binary = sys.argv[1]
folder = tempfile.TemporaryDirectory()
env = dict(os.environ, SLUICE__DATA_DIR=folder.name + "/data", SLUICE__HTTP__LISTEN="127.0.0.1:0", SLUICE__ADMIN__LISTEN="127.0.0.1:0")
server = subprocess.Popen([binary, "serve"], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
address = server.stdout.readline().split("http=")[1].split()[0]


def token(*args):
    return subprocess.run([binary, "token", *args], env=env, capture_output=True, text=True, check=True).stdout.strip()


def ask(connection, method, path, credential, body=None):
    connection.request(method, "/api/v1" + path, body, {"authorization": "Bearer " + credential, "content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status, answer.getheader("retry-after")


def calm(credential):
    connection, times, end = http.client.HTTPConnection(address), {"write": [], "list": []}, time.time() + SECONDS
    one = json.dumps({"action": "A", "resource_type": "r", "resource_id": "1"})
    while time.time() < end:
        for what, request, want in (("write", ("POST", "/logs", credential, one), 201), ("list", ("GET", "/logs", credential), 200)):
            since = time.perf_counter()
            status, _ = ask(connection, *request)
            times[what].append(time.perf_counter() - since)
            assert status == want, (what, status)
        time.sleep(0.01)
    at = lambda values, share: sorted(values)[int(len(values) * share)] * 1000
    return " ".join(f"{what}_p50_ms={at(v, .5):.2f} {what}_p99_ms={at(v, .99):.2f}" for what, v in times.items())


def flood(credential, over, seen):
    connection = http.client.HTTPConnection(address)
    bulk = json.dumps([{"action": "A", "resource_type": "r", "resource_id": str(i), "message": "x" * 400} for i in range(100)])
    while not over.is_set():
        status, retry_after = ask(connection, "POST", "/logs/bulk", credential, bulk)
        seen.append((status, retry_after))
        if status == 429:
            time.sleep(0.02)


try:
    platform, first = token("--role", "platform_admin"), http.client.HTTPConnection(address)
    for tenant, settings in (("noisy", {"rate_limit": {"entries_per_second": 1000, "burst": 1000}}), ("calm", {})):
        assert ask(first, "POST", "/tenants", platform, json.dumps({"tenant_id": tenant, "settings": settings}))[0] == 201
    noisy, quiet = (token("--tenant", tenant, "--role", "admin") for tenant in ("noisy", "calm"))
    print("alone: ", calm(quiet))
    over, seen = threading.Event(), []
    threads = [threading.Thread(target=flood, args=(noisy, over, seen)) for _ in range(4)]
    for thread in threads:
        thread.start()
    print("beside:", calm(quiet))
    over.set()
    for thread in threads:
        thread.join()
    print("flood: ", {answer: seen.count(answer) for answer in sorted(set(seen), key=str)})
finally:
    server.terminate()
    server.wait()
