"""Appends one event until it is acknowledged, then prints the log: append.py URL TOKEN. Standard library only."""
import http.client, json, sys, time, urllib.request, uuid

url, token = sys.argv[1], {"Authorization": "Bearer " + sys.argv[2]}
event = {"specversion": "1.0", "id": str(uuid.uuid4()), "source": "/example", "type": "order.placed",
         "subject": f"order-{uuid.uuid4()}", "data": {"items": 3}}
headers = {**token, "Content-Type": "application/cloudevents+json", "Expected-Version": "none"}
append, position = urllib.request.Request(url + "/v1/append", json.dumps(event).encode(), headers), None
while position is None:  # The id was chosen once: to send it again is always safe.
    try:
        with urllib.request.urlopen(append, timeout=70) as answer:
            position = json.load(answer)["events"][0]["position"]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        if getattr(error, "code", 503) not in (429, 502, 503, 504):  # Neither cut off nor "not now": it is refused.
            sys.exit(error.read().decode())
        print("once more:", error, file=sys.stderr)
        time.sleep(0.2)
print("acknowledged at", position)
with urllib.request.urlopen(urllib.request.Request(url + "/v1/log?from=1", headers=token), timeout=70) as log:
    for record in map(json.loads, log):
        print(record["position"], record["recordedat"], record["type"], record["subject"])
