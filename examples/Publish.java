// Publishes a generation request with kafka-clients.
// Usage: java -cp 'kafka-clients.jar:slf4j-api.jar:...' examples/Publish.java localhost:9092 [topic]

import static java.nio.charset.StandardCharsets.UTF_8;

import java.time.Instant;
import java.util.Map;
import java.util.UUID;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

class Publish {
    public static void main(String[] arguments) throws Exception {
        // The same request id again is the same request: take a new one for each new picture.
        String requestId = "order-7782";
        String request = """
            {
              "request_id": "order-7782",
              "prompt": "a dancer on a stage, studio light",
              "preset": "quality",
              "count": 2,
              "pose": {
                "people": [[
                  [0.50, 0.14], [0.50, 0.23], [0.42, 0.24], [0.39, 0.37], [0.37, 0.50], [0.58, 0.24],
                  [0.61, 0.37], [0.63, 0.50], [0.45, 0.50], [0.44, 0.70], [0.43, 0.89], [0.55, 0.50],
                  [0.56, 0.70], [0.57, 0.89], [0.48, 0.12], [0.52, 0.12], [0.46, 0.13], null
                ]],
                "format": "coco18"
              }
            }
            """;
        String topic = arguments.length > 1 ? arguments[1] : "generation.requests";
        var record = new ProducerRecord<>(topic, requestId, request);
        record.headers()
            .add("ce_specversion", "1.0".getBytes(UTF_8))
            .add("ce_type", "darkroom.generation.requested.v1".getBytes(UTF_8))
            .add("ce_source", "/shop/orders".getBytes(UTF_8))
            .add("ce_id", UUID.randomUUID().toString().getBytes(UTF_8))
            .add("ce_time", Instant.now().toString().getBytes(UTF_8))
            .add("content-type", "application/json".getBytes(UTF_8));

        Map<String, Object> settings = Map.of("bootstrap.servers", arguments[0], "acks", "all", "enable.idempotence", true);
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            var kept = producer.send(record).get();
            System.out.println(requestId + " is record " + kept.topic() + "-" + kept.partition() + "@" + kept.offset());
        }
    }
}
