#!/usr/bin/env bash
# DescribeGroups calls a consumer group Dead, without members and without an error, while a consumer is in it.
#
# Guess:   DescribeGroups (API 15) lists the members of a group whichever group protocol they joined by, or answers with
#          an error code for a group that it cannot describe. An empty answer with error 0 means that nobody is there.
# Instead: for a group whose member joined by the new protocol (KIP-848, group.protocol=consumer), Kafka answers the old
#          DescribeGroups with error 0, state "Dead" and no members: word for word what it says of a group that never
#          existed. The same client is listed by ConsumerGroupDescribe (API 69), which aiokafka does not have; so it is
#          asked here through confluent-kafka.
# Matters: a tool that commits or resets offsets "while nobody is in the group" does so beside a live consumer, and a
#          worker that asks who owns a partition is told that nobody does.
# Source:  Apache Kafka 4.2.0, aiokafka 0.14.0 (describe_consumer_groups, DescribeGroups v3), confluent-kafka 2.16.1;
#          KIP-848, "Compatibility". The group coordinator answers old versions of DescribeGroups for such groups this way
#          instead of with an error, because those versions have no error code for it.
# Needs:   python3, mvn and java 17 or newer. Installs into a temporary folder, starts one broker on loopback, ends it.
set -euo pipefail
folder=$(mktemp -d)
broker=
trap '[ -z "$broker" ] || kill "$broker" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet aiokafka==0.14.0 confluent-kafka==2.16.1
cat >pom.xml <<'POM'
<project><modelVersion>4.0.0</modelVersion><groupId>x</groupId><artifactId>x</artifactId><version>1</version>
<dependencies><dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>4.2.0</version>
</dependency></dependencies></project>
POM
mvn -q -B dependency:copy-dependencies -DoutputDirectory=jars >/dev/null
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port=$(free_port) controller=$(free_port)
cat >server.properties <<PROPERTIES
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$controller
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
log.dirs=$folder/data
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
PROPERTIES
java -cp 'jars/*' kafka.tools.StorageTool format -t 4L6g3nShT-eMCtK--X86sw -c server.properties >/dev/null 2>&1
java -Xmx384m -cp 'jars/*' kafka.Kafka server.properties >server.log 2>&1 &
broker=$!
cat >observe.py <<'PYTHON'
import asyncio
import logging
import sys
import time

import aiokafka
import confluent_kafka
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from confluent_kafka.admin import AdminClient

servers = sys.argv[1]
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the broker is still starting


async def described(group):
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    for _ in range(120):  # until the broker is up
        try:
            await admin.start()
            break
        except aiokafka.errors.KafkaError:
            await asyncio.sleep(0.5)
    try:
        if "t" not in await admin.list_topics():
            await admin.create_topics([NewTopic("t", 1, 1)])
        for _ in range(60):  # until the topic of offsets is there
            try:
                (answer,) = await admin.describe_consumer_groups([group])
                found = answer.to_object()["groups"][0]
                if found["error_code"] not in (14, 15, 16):
                    return {name: found[name] for name in ("error_code", "state", "members")}
            except aiokafka.errors.KafkaError as error:
                if not error.retriable:
                    raise
            await asyncio.sleep(0.5)
        raise SystemExit("the coordinator did not come up")
    finally:
        await admin.close()


print("aiokafka", aiokafka.__version__, "confluent-kafka", confluent_kafka.version(), "Apache Kafka 4.2.0")
never = asyncio.run(described("never-there"))
print("a group that never existed:", never)
settings = {"bootstrap.servers": servers, "group.id": "g", "group.protocol": "consumer", "client.id": "guest"}
member = confluent_kafka.Consumer(settings)
member.subscribe(["t"])
until = time.monotonic() + 60
while not member.assignment() and time.monotonic() < until:
    member.poll(0.2)
print("the consumer in the group g holds:", member.assignment())
assert member.assignment(), "the consumer was given nothing"
old = asyncio.run(described("g"))
print("DescribeGroups of g, as aiokafka asks it:", old)
admin = AdminClient({"bootstrap.servers": servers})
new = admin.describe_consumer_groups(["g"], request_timeout=20)["g"].result(timeout=60)
print("ConsumerGroupDescribe of g:", new.state, [one.client_id for one in new.members])
member.poll(0.1)
member.close()
assert old == never == {"error_code": 0, "state": "Dead", "members": []}, "the old answer changed"
assert [one.client_id for one in new.members] == ["guest"], "the new answer changed"
print("as claimed: one member, and the old question is answered Dead, no members, no error")
PYTHON
venv/bin/python observe.py "127.0.0.1:$port"
