"""One partition's transactional producer: the only thing that ever commits that partition's offset.

Its transactional id is made of group, topic and partition, so starting one fences every earlier one, wherever
it runs, and settles the transaction that the earlier one left (KIP-98). aiokafka's offset commits carry no
generation (KIP-447 is missing), so this fence is what keeps a zombie from committing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    InvalidProducerEpoch,
    KafkaError,
    OutOfOrderSequenceNumber,
    ProducerFenced,
    TransactionalIdAuthorizationFailed,
)
from aiokafka.structs import OffsetAndMetadata

from darkroom.consumer.core.partition_key import PartitionKey
from darkroom.consumer.kafka.verdicts import refused
from darkroom.consumer.worker.ports import BrokerUnavailable, OutgoingRecord, PublicationUnknown, WriterFenced
from darkroom.producer.kafka.broker_client import harden
from darkroom.producer.kafka.closing import CLOSE_S_MAX, close
from darkroom.producer.kafka.denials import denial, lacks
from darkroom.schemas.settings import KafkaSettings

log = structlog.get_logger(__name__)


class PartitionWriter:
    """Starts once, publishes serially, and is thrown away after its first error: fencing is for good."""

    def __init__(
        self, partition: PartitionKey, kafka: KafkaSettings, arguments: dict[str, Any], *, timeout_s: float, **more: Any
    ) -> None:
        """`arguments` are those of every client, as `darkroom.producer.kafka.connection.kafka_arguments` makes them."""
        self._partition = partition
        self._kafka = kafka
        self._timeout_s = timeout_s
        self._producer = AIOKafkaProducer(
            **arguments,
            **more,
            transactional_id=f"{kafka.group_id}-{partition.topic}-{partition.partition}",
            acks="all",
        )
        harden(self._producer.client)

    async def start(self) -> None:
        """Take over the transactional id. Raises `BrokerUnavailable`: `InitProducerId` retries for ever by itself."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._producer.start()
        except (KafkaError, OSError, TimeoutError) as error:
            await self.stop()
            name = f"{self._kafka.group_id}-{self._partition.topic}-{self._partition.partition}"
            if isinstance(error, TransactionalIdAuthorizationFailed):
                why = lacks(self._kafka, [f"Write on the transactional id {name}"])
            else:
                why = denial(error, self._kafka) or f"{_sentence(error)}."
            raise BrokerUnavailable(f"Partition {self._partition.partition}'s writer did not start: {why}") from error
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def publish(self, records: Sequence[OutgoingRecord], offset: int, metadata: str) -> None:
        """Commit one transaction.

        Raises `WriterFenced`, `PublicationRefused` or `PublicationUnknown`; then the writer is of no further use.
        """
        committed = {
            TopicPartition(self._partition.topic, self._partition.partition): OffsetAndMetadata(offset, metadata)
        }
        sent: list[asyncio.Future[Any]] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._producer.begin_transaction()
                for record in records:
                    sending = await self._producer.send(
                        record.topic, value=record.value, key=record.key, headers=list(record.headers)
                    )
                    sending.add_done_callback(_retrieve)
                    sent.append(sending)
                await self._producer.send_offsets_to_transaction(committed, self._kafka.group_id)
                await asyncio.gather(*sent)
                await self._producer.commit_transaction()
        except (ProducerFenced, InvalidProducerEpoch) as error:
            raise WriterFenced(f"Partition {self._partition.partition}'s writer was fenced.") from error
        except OutOfOrderSequenceNumber as error:
            raise WriterFenced(f"Partition {self._partition.partition}'s writer lost its sequence.") from error
        except (KafkaError, OSError, TimeoutError) as error:
            verdict = refused(error, self._partition, self._kafka, missing=self._missing(error, records))
            if verdict is not None:
                raise verdict from error
            raise PublicationUnknown(
                f"Partition {self._partition.partition}'s transaction failed: {_sentence(error)}."
            ) from error
        finally:
            self._retrieve_transaction()

    def _missing(self, error: BaseException, records: Sequence[OutgoingRecord]) -> str | None:
        """Return a topic of these records that the cluster does not know: the client waits for one until its limit."""
        if not isinstance(error, TimeoutError):
            return None
        known = self._producer.client.cluster.topics()
        return next((record.topic for record in records if record.topic not in known), None)

    async def stop(self) -> None:
        """Close the producer within a limit. Never raises."""
        await close(self._producer, min(CLOSE_S_MAX, self._timeout_s))
        self._retrieve_transaction()

    def _retrieve_transaction(self) -> None:
        """Take note of the transaction's own error, for which aiokafka keeps a future that nobody waits for here.

        It would be logged with a traceback for every transaction that fails before its commit. A producer whose sender
        ends has a new such future, so this is done at the stop again.
        """
        waiter = self._producer._txn_manager._transaction_waiter
        if waiter is not None:
            waiter.add_done_callback(_retrieve)


def _retrieve(sending: asyncio.Future[Any]) -> None:
    """Take note of a record's error: the transaction's says it already, and nobody may wait for this one."""
    if not sending.cancelled():
        sending.exception()


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
