#!/usr/bin/env python3
"""Appends one event until it is acknowledged, then prints the log: append.py URL TOKEN. Standard library only."""
import http.client, json, sys, time, urllib.error, urllib.request, uuid

url, token = sys.argv[1], {"Authorization": "Bearer " + sys.argv[2]}
event = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": "/example", "type": "order.placed",
         "subject": f"order-{uuid.uuid4()}", "data": {"items": 3}}
headers = {**token, "Content-Type": "application/cloudevents+json", "Expected-Version": "none"}
append = urllib.request.Request(url + "/v1/append", json.dumps(event).encode(), headers)
while True:  # The id was chosen once: to send it again is always safe.
    try:
        try:
            with urllib.request.urlopen(append, timeout=70) as answer:
                print("acknowledged at", json.load(answer)["events"][0]["position"])
                break
        except urllib.error.HTTPError as refused:
            problem = json.load(refused)
            if problem["kind"] not in ("unavailable", "indeterminate", "fenced"):
                sys.exit(problem["detail"])
            print("once more:", problem["detail"], file=sys.stderr)
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as lost:  # Cut off, or not of ours.
        print("once more:", lost, file=sys.stderr)
    time.sleep(0.2)
with urllib.request.urlopen(urllib.request.Request(url + "/v1/log?from=1", headers=token), timeout=70) as log:
    for record in map(json.loads, log):
        print(record["position"], record["recordedat"], record["type"], record["subject"])
