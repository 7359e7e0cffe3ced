#!/bin/sh
# Publishes a generation request with kcat. Usage: sh examples/publish.sh localhost:9092 [topic]
# The same request id again is the same request: take a new one for each new picture.
printf '%s|%s\n' order-7781 '{"request_id": "order-7781", "prompt": "a fencer in white, side view", "preset": "fast", "seed": 7, "progress": "steps"}' |
kcat -P -b "$1" -t "${2:-generation.requests}" -K '|' -X partitioner=murmur2_random -X acks=all \
  -H ce_specversion=1.0 \
  -H ce_type=darkroom.generation.requested.v1 \
  -H ce_source=/shop/orders \
  -H "ce_id=$(cat /proc/sys/kernel/random/uuid)" \
  -H "ce_time=$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
  -H content-type=application/json
