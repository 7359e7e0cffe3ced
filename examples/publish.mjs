// Publishes a generation request with kafkajs: npm install kafkajs
// Usage: node examples/publish.mjs localhost:9092 [topic]

import { randomUUID } from "node:crypto";
import kafkajs from "kafkajs";

// The same request id again is the same request: take a new one for each new picture.
const request = {
  "request_id": "order-7783",
  "prompt": "a hiker at dawn, wide valley",
  "negative_prompt": "blurry",
  "width": 1216,
  "height": 832,
  "deadline": "2099-01-31T12:00:00Z",
  "output": { "format": "webp", "quality": 85 },
  "labels": { "campaign": "spring" }
};

const headers = {
  "ce_specversion": "1.0",
  "ce_type": "darkroom.generation.requested.v1",
  "ce_source": "/shop/orders",
  "ce_id": randomUUID(),
  "ce_time": new Date().toISOString(),
  "content-type": "application/json"
};

const [broker, topic = "generation.requests"] = process.argv.slice(2);
const kafka = new kafkajs.Kafka({ brokers: [broker], clientId: "shop" });
const producer = kafka.producer({ idempotent: true, createPartitioner: kafkajs.Partitioners.DefaultPartitioner });
await producer.connect();
const value = JSON.stringify(request);
const [kept] = await producer.send({ topic, acks: -1, messages: [{ key: request.request_id, value, headers }] });
console.log(`${request.request_id} is record ${topic}-${kept.partition}@${kept.baseOffset}`);
await producer.disconnect();
