"""A plain producer: puts CloudTrail records into an SQS queue as entries, by boto3 and nothing of Sluice.

    send.py --make-queue NAME                       makes a queue with 14 days of retention, prints its URL
    send.py --queue URL --tenant acme [FILE.gz]     sends a file of records, one JSON object per line (gzip); without a file, made-up ones

Each message is an array of entries; the last line says how many there were: `entries=3003 severity_error=60 messages=…`. A second run doubles
nothing: `id` is the record's own `eventID`. Where SQS is, and with which credentials: the ordinary environment of AWS.
"""
import argparse
import gzip
import json
import uuid

import boto3

PER_MESSAGE = 20


def records(path):
    if path:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.strip())
        return
    for i in range(2000):
        denied = {"errorCode": "AccessDenied"} if i % 50 == 0 else {}
        yield {"eventID": str(uuid.uuid4()), "eventTime": f"2024-03-01T{i // 100:02}:{i % 60:02}:00Z", "eventName": ["AssumeRole", "GetObject"][i % 2],
               "eventSource": "s3.amazonaws.com", "awsRegion": "eu-central-1", "sourceIPAddress": f"10.0.{i % 250}.7",
               "userIdentity": {"arn": f"arn:aws:iam::1:user/u{i % 17}"}, "requestParameters": {"bucketName": f"bucket-{i % 40}"}, **denied}


def entry(record, tenant):
    identity = record.get("userIdentity") or {}
    code = record.get("errorCode")
    resource = next((r["ARN"] for r in record.get("resources") or [] if r.get("ARN")), None)
    made = {
        "tenant_id": tenant,
        "id": record["eventID"],
        "timestamp": record.get("eventTime") or record["@timestamp"],
        "action": record["eventName"],
        "resource_type": record["eventSource"],
        "resource_id": resource or record["eventSource"],
        "user_id": identity.get("arn") or identity.get("principalId") or identity.get("type"),
        "user_agent": (record.get("userAgent") or "")[:1024] or None,
        "severity": None if not code else "ERROR" if any(w in code for w in ("AccessDenied", "Unauthorized", "Forbidden")) else "WARNING",
        "message": f"sharedqueueproof: {record['eventName']} of {record['eventSource']} in {record.get('awsRegion')}",
        "metadata": record,
    }
    address = record.get("sourceIPAddress") or ""
    if address.replace(".", "").isdigit():
        made["ip_address"] = address
    return {name: value for name, value in made.items() if value is not None}


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--make-queue")
    options.add_argument("--queue")
    options.add_argument("--tenant", default="acme")
    options.add_argument("file", nargs="?")
    given = options.parse_args()
    sqs = boto3.client("sqs")
    if given.make_queue:
        print(sqs.create_queue(QueueName=given.make_queue, Attributes={"MessageRetentionPeriod": "1209600", "VisibilityTimeout": "120"})["QueueUrl"])
        return
    bodies, chunk, entries, errors, messages = [], [], 0, 0, 0

    def flush(last=False):
        nonlocal bodies, messages
        while len(bodies) >= (1 if last else 10):
            batch, bodies = bodies[:10], bodies[10:]
            answer = sqs.send_message_batch(QueueUrl=given.queue, Entries=[{"Id": str(i), "MessageBody": body} for i, body in enumerate(batch)])
            assert not answer.get("Failed"), answer["Failed"]
            messages += len(batch)

    for record in records(given.file):
        made = entry(record, given.tenant)
        chunk.append(made)
        entries += 1
        errors += made.get("severity") == "ERROR"
        # A batch of ten messages may hold one MiB.
        if len(chunk) == PER_MESSAGE:
            bodies.append(json.dumps(chunk))
            chunk = []
            flush()
    if chunk:
        bodies.append(json.dumps(chunk))
    flush(last=True)
    print(f"entries={entries} severity_error={errors} messages={messages}")


main()
