"""Publish events from standard input, one JSON object a line, each to the stream of its customer.

python publish.py amqp://till:secret@localhost:5672 64 < events.ndjson
"""

import functools
import json
import sys
import zlib

import pika

url, shards = sys.argv[1], int(sys.argv[2])  # 0 shards: the nodes find each event's

connection = pika.BlockingConnection(pika.URLParameters(url))
properties = pika.BasicProperties(content_type="application/json", delivery_mode=pika.DeliveryMode.Persistent)


@functools.cache
def channel(key):
    """Return the channel of a routing key: each stream needs one that no other stream is published on."""
    new = connection.channel()
    # From here on basic_publish waits for the confirm, and raises where the message was refused or came back.
    new.confirm_delivery()
    return new


for line in sys.stdin.buffer:
    customer = json.loads(line)["customer_id"].encode()
    key = str(zlib.crc32(customer) % shards) if shards else ""
    try:
        channel(key).basic_publish("footfall.events", key, line.rstrip(b"\n"), properties, mandatory=True)
    except pika.exceptions.UnroutableError:
        sys.exit(f"came back: {line.decode()}")
    except pika.exceptions.NackError:
        sys.exit(f"the broker refused: {line.decode()}")
connection.close()
