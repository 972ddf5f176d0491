"""The broker, and everything that nats-py needs knowing; the only package that imports `nats`.

`connect` gives a `Bus` (`dial` as section `broker` of the configuration says): publish, request,
subscribe, with callbacks from the read loop and errors at once when the connection breaks. `bus.js`
is JetStream; `Pull` takes messages of a durable consumer; `ObjectBucket` keeps large objects;
`BrokerProcess` runs a server of our own.
"""

from headrace.bus._bus import Bus, Subscription
from headrace.bus._connect import Credentials, Timings, connect
from headrace.bus._dial import credentials, dial
from headrace.bus._errors import (
    Disconnected,
    JetStreamBusy,
    JetStreamDisabled,
    JetStreamError,
    JetStreamInUse,
    JetStreamMissing,
    NoResponders,
    StorageFull,
    TimedOut,
    WrongLastSequence,
)
from headrace.bus._facts import ServerFacts
from headrace.bus._jetstream import (
    ConsumerConfig,
    ConsumerInfo,
    Delivered,
    JetStream,
    PubAck,
    Stored,
    StreamConfig,
    StreamInfo,
    StreamState,
)
from headrace.bus._objects import CorruptObject, ObjectBucket, ObjectEntry, ObjectInfo
from headrace.bus._pull import Pull
from headrace.bus._relay import SharedObjects, read_lines, stored_lines
from headrace.bus._server import BrokerCluster, BrokerProcess, FolderInUse, find_server, free_port
from headrace.bus._wire import Message

__all__ = [
    "BrokerCluster",
    "BrokerProcess",
    "Bus",
    "ConsumerConfig",
    "ConsumerInfo",
    "CorruptObject",
    "Credentials",
    "Delivered",
    "Disconnected",
    "FolderInUse",
    "JetStream",
    "JetStreamBusy",
    "JetStreamDisabled",
    "JetStreamError",
    "JetStreamInUse",
    "JetStreamMissing",
    "Message",
    "NoResponders",
    "ObjectBucket",
    "ObjectEntry",
    "ObjectInfo",
    "PubAck",
    "Pull",
    "ServerFacts",
    "SharedObjects",
    "StorageFull",
    "Stored",
    "StreamConfig",
    "StreamInfo",
    "StreamState",
    "Subscription",
    "TimedOut",
    "Timings",
    "WrongLastSequence",
    "connect",
    "credentials",
    "dial",
    "find_server",
    "free_port",
    "read_lines",
    "stored_lines",
]
