"""What a job needs of the store and what is published of it: look up, fetch the pose, settle, and the records.

Outcome first, then publication. A terminal outcome is decided by the conditional put of `result.json`; whoever
loses adopts what stands, and only what stands is ever published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import structlog

from consumer.core.jobs import Verdict, VerdictKind
from consumer.core.partition_key import JobKey
from consumer.intake import Payload, Stopwatch
from consumer.ports import OutgoingRecord
from inference.contract import ModelInfo
from producer.results.objects import BucketForbidden, Objects, ObjectTooLarge, StoreUnavailable
from producer.results.outcomes import OutcomeUnreadable, Outcomes
from schemas.completion import Completion, Source
from schemas.errors import ErrorCode
from schemas.names import Topic
from schemas.pose import PeoplePose, SkeletonPose, StoredPicture
from schemas.settings import Settings

log = structlog.get_logger(__name__)

Payloads = dict[JobKey, Payload]
