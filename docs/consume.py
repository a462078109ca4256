#!/usr/bin/env python3
"""Reads a stream of Keepstep from Kafka, without Keepstep: one JSON object a line.

    pip install confluent-kafka fastavro
    python3 consume.py --brokers 127.0.0.1:9092 --topic keepstep.settings [--route NAME] [--no-follow]

The three rules of docs/consume.md stand in `valid`, `decode` and `main`.
"""

import argparse
import io
import json
import pathlib
import struct
import sys

import fastavro
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

SCHEMA = fastavro.parse_schema(
    json.loads((pathlib.Path(__file__).parent.parent / "schemas/change.v1.avsc").read_text())
)


def valid(headers, state):
    """Rule 1: a record with an older fence than one before it is of an owner that was shut out."""
    epoch, session = headers["keepstep.fence"].split(".")
    fence = (int(epoch), int(session))
    if fence < state["fence"]:
        return False
    state["fence"] = fence
    return True


def decode(value):
    """Rule 2: an Avro single object begins with C3 01 and 8 bytes of fingerprint, a registry's format with 00 and an id."""
    if value[:2] == b"\xc3\x01":
        return fastavro.schemaless_reader(io.BytesIO(value[10:]), SCHEMA)
    if value[:1] == b"\x00":
        (schema_id,) = struct.unpack(">I", value[1:5])
        # Ask the registry for GET /schemas/ids/{schema_id} where the schema may be another than the one beside this file.
        del schema_id
        return fastavro.schemaless_reader(io.BytesIO(value[5:]), SCHEMA)
    raise ValueError("this is no change")


def text(value):
    return None if value is None else value.decode("utf-8", "backslashreplace")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--brokers", required=True)
    arguments.add_argument("--topic", required=True)
    arguments.add_argument("--route")
    arguments.add_argument("--no-follow", action="store_true")
    options = arguments.parse_args()
    consumer = Consumer(
        {
            "bootstrap.servers": options.brokers,
            "group.id": "keepstep-example",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            # Never `latest`: what was missed is to be noticed.
            "auto.offset.reset": "error",
        }
    )
    consumer.assign([TopicPartition(options.topic, 0, OFFSET_BEGINNING)])
    state = {"fence": (-1, 0)}
    while True:
        message = consumer.poll(10.0)
        if message is None:
            continue
        if message.error():
            if message.error().code() != KafkaError._PARTITION_EOF:
                sys.exit(str(message.error()))
            if options.no_follow:
                break
            continue
        headers = {name: value.decode() for name, value in message.headers() or []}
        if "keepstep.fence" not in headers or not valid(headers, state):
            continue
        # Rule 3: no value is a tombstone, which ends a key; the delete before it is the change. A marker is no change.
        if message.value() is None or headers["keepstep.op"] == "m":
            continue
        # A filter needs no decoding.
        if options.route and headers["keepstep.route"] != options.route:
            continue
        change = decode(message.value())
        row = {
            "position": message.offset() + 1,
            "op": change["op"],
            "route": change["route"],
            "zookeeper": change["pair"]["zookeeper"],
            "redis": text(change["pair"]["redis"]),
            "before": text(change["before"]),
            "after": text(change["after"]),
        }
        print(json.dumps(row), flush=True)
    consumer.close()


if __name__ == "__main__":
    main()
