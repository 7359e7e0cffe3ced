"""Which files make up Kafka: each jar by its Maven coordinates and the SHA-256 of its bytes.

A list instead of a version number, since resolving the dependencies anew on each machine is slow and need not give
the same answer: nothing but these very bytes is ever run. `python -m darkroom.consumer.stack.relock VERSION` makes the
list of another version.
"""

from __future__ import annotations

from typing import Final, NamedTuple

KAFKA_VERSION: Final = "4.2.2"
DOWNLOAD_BYTES: Final = 45_114_260


class Jar(NamedTuple):
    """One file of Kafka's class path."""

    coordinates: str
    """`group:artifact:version`."""
    sha256: str
    """In Base64."""

    @property
    def file_name(self) -> str:
        """As Maven names it."""
        _, artifact, version = self.coordinates.split(":")
        return f"{artifact}-{version}.jar"


def parse(text: str) -> tuple[Jar, ...]:
    """The jars in a list: one a line, coordinates and digest."""
    return tuple(Jar(*line.split()) for line in text.splitlines() if line.strip())


# The broker, what it needs to run, and the binding of its logs to log4j.
KAFKA_JARS: Final = parse("""
at.yawk.lz4:lz4-java:1.11.2 inRYZXk46baSIk24OqxFjBOr16Wat1w9Owi9IjOmRqI=
com.dynatrace.hash4j:hash4j:0.22.0 IwKKP9AG5TC/SV9VEIMggYfK/Y+AYk0EjrpWRC8WpQ4=
com.fasterxml.jackson.core:jackson-annotations:2.21 U8oIX0oVD3A/SeGqvZNb0DtD4eo9VdE1Q4KSryLO9Ws=
com.fasterxml.jackson.core:jackson-core:2.21.6 NhEcOkNyzVwr5vTsRKBQOCSHkg8/w4yjAVycFni9fFY=
com.fasterxml.jackson.core:jackson-databind:2.21.6 YhNKmN4S0KQhzS9bmFTI5j8Q9SSwNB5mz9MaQyb2oyk=
com.fasterxml.jackson.dataformat:jackson-dataformat-csv:2.21.6 wJ1GftnEwIr7SEcX17sfsFFooj/+d5cFcy0opdAuucM=
com.fasterxml.jackson.dataformat:jackson-dataformat-yaml:2.21.6 5aTqjIb5+NBouygLab5cRQ8mM0O0vx2BvoWG1OjVxpg=
com.fasterxml.jackson.datatype:jackson-datatype-jdk8:2.21.6 /8tgbMn+xK0iwJb9wQG/G26xe19Tx0GrMGYy7N9KQ44=
com.github.ben-manes.caffeine:caffeine:3.2.0 7EEd/fDAPyUhhkjOiYYWMLcWgOWFippyeOusjlXKs9c=
com.github.luben:zstd-jni:1.5.6-10 tsMjfiS4JSpanDoOGuMO+PMjQS50vTWFSLep5SfWdt8=
com.google.re2j:re2j:1.8 e1LHIVbdf5izI3pbNcHTT7o4GyEEjIkgiROtgKRd+9c=
com.typesafe.scala-logging:scala-logging_2.13:3.9.6 CtDD9NidU4s7bDABWFVeJmqmnPG19lIquotbrSOOuZQ=
com.yammer.metrics:metrics-core:2.2.0 a3oUpvNMEPhoP3teLznfDwe1jH3/DkaOu8cTkFxGl5w=
commons-beanutils:commons-beanutils:1.11.0 nkS6aOyaPyEob6Kou7ADtzXA9pEBu0MUS3n0+KqnRwk=
commons-collections:commons-collections:3.2.2 7urpF5FxRKaKdB1MDf9mqlxcX9hVk/8he87T/Iyng7g=
commons-digester:commons-digester:2.1 4LK5gKhPxlM8XOKR8ZF7MsUH9ivK1kGY//RDaMIZaj0=
commons-logging:commons-logging:1.3.5 bXp0TkAnZJ+7UIld+Ul9EJ+Yx2amNwYv6NLqu7MUC6Q=
commons-validator:commons-validator:1.10.1 7XRxGnjXk8o39gdeSh6T0QcjPf0g0LsX4yutiNOOVqo=
net.sf.jopt-simple:jopt-simple:5.0.4 3ybMWPI19HfbB/dTulo6skPr5Xidn4ns9o3WLqmmbCg=
net.sourceforge.argparse4j:argparse4j:0.7.0 Zc62adiPYzBsaA+AiLv3ZbvKctKIphoDcDAAB2w9P1Y=
org.apache.kafka:kafka-clients:4.2.2 EJtsZcE0/WWkJFY8g3dRD01C4njp/vCWHQRQFz5lSWo=
org.apache.kafka:kafka-coordinator-common:4.2.2 btWU1Bn562+2HAOSF7UtEjROGEQG755I6lIhXLARTf8=
org.apache.kafka:kafka-group-coordinator-api:4.2.2 fZ3zejd9lUZHvSYsbYMdkntHFUY1jssR5Wnj2V5vYVg=
org.apache.kafka:kafka-group-coordinator:4.2.2 dVIJ4XLpc5hZVvUY9VqcyMN3PnSswXsKnw34PHkkw/A=
org.apache.kafka:kafka-metadata:4.2.2 bw03l4YoTZW1+UCt5AtkOisAK3Rapj2hmvH1wF7w4nw=
org.apache.kafka:kafka-raft:4.2.2 ThYih1K+6QvXTJ//yX7H2/vTWpMGwXlLLtZHDTfrdeU=
org.apache.kafka:kafka-server-common:4.2.2 hvJCqG5wxck1tlPvAwCOvyz1g0C57qojeFKBIZbEKTg=
org.apache.kafka:kafka-server:4.2.2 KwsurUZaEdBYQugDejS3UmVPgH8UFFkswEXm1bHFm9I=
org.apache.kafka:kafka-share-coordinator:4.2.2 Jud0liFgfL4HnbP3qQY8w38mI9KDBTHNF1xNnTBktMc=
org.apache.kafka:kafka-storage-api:4.2.2 GfoZzmZcwzh4MeWinMlfSExyIYYikfibdLX+yEsR/r4=
org.apache.kafka:kafka-storage:4.2.2 2S/ZXkL6xfbX/aPhJy/qj1MuC9w28NvphvQux0F2YLM=
org.apache.kafka:kafka-tools-api:4.2.2 VFzZiDsJxNyLtWhSyLXWajJj2ADrDO60L6KF51GBgWQ=
org.apache.kafka:kafka-transaction-coordinator:4.2.2 juggY55vk0uwDUVIJFa/L/NquaBo6z3o4d4uuRs/KAY=
org.apache.kafka:kafka_2.13:4.2.2 nLXJ44Uew4kr+/BUHhH3A+veAdQ2D70YPRcS7s7fKvA=
org.apache.logging.log4j:log4j-api:2.25.5 ZHd/c+oLMQTATrgr773MwwpCWhnoOtBssvk6owNRGGM=
org.apache.logging.log4j:log4j-core:2.25.5 BQxPhd60iwVenAQaw5BD+7ec5HeEGhGh6ylpyGxqAHI=
org.apache.logging.log4j:log4j-slf4j-impl:2.25.5 PSW5JrxgJcR+wBBFl0nBKqZrnVU3uhki1n2JoJimZgc=
org.bitbucket.b_c:jose4j:0.9.6 cxSvUM3pyZ6Or0Pu5heiPtzGu0MDYiEGQ1UJSZnYN+8=
org.hdrhistogram:HdrHistogram:2.2.2 ItHUMWxOwTpotVnpjIJW1pBxWTcx2pYTZkD4ZPoU+tg=
org.jspecify:jspecify:1.0.0 H61ua+dVd4Hk0zcp1Jrhzcj92m/kd7sMxozjUer9+6s=
org.pcollections:pcollections:4.0.2 K77vV5eiQTAMT3UTzVRiOWKe197aT8DDHfkLuV9fE+8=
org.scala-lang:scala-library:2.13.17 t4IsQiUkMhXxhZJXJKbt/5LPGHd6E2zHOCdsREb6x2w=
org.scala-lang:scala-reflect:2.13.17 c0UziXvPq+em5/oJ2+4WWyV7A5bhTopXx1ER244Eu5g=
org.slf4j:slf4j-api:1.7.36 0+9XXj5JeWeNwBvx3M5RAhSTtNEft/G+itmCh3wWocA=
org.xerial.snappy:snappy-java:1.1.10.7 THZss/hVQV7nNLI5KUmgtvEqYIeTNKdFGN6vYnDTLjY=
org.yaml:snakeyaml:2.5 5mgqzxrOd1CO8TZJy/T40J0s9UV722HSX/tqwCM9eN0=
""")
