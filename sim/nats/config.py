"""What streams and consumers are asked to be, with JetStream's defaults, and what it refuses.

Source: nats-server 2.15 (``server/stream.go`` checkStreamCfg, ``server/consumer.go``
setConsumerConfigDefaults and checkConsumerCfg).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.nats.errors import ApiError
from sim.nats.stream import DEFAULTS, NANOSECONDS
from sim.nats.subjects import is_valid, overlap

Config = dict[str, Any]

_STREAM_FIELDS = {
    *DEFAULTS, "name", "description", "subjects", "metadata", "discard_new_per_subject", "no_ack",
    "subject_delete_marker_ttl", "first_seq", "placement", "mirror", "sources", "republish",
    "subject_transform", "template_owner", "allow_atomic", "allow_msg_counter",
    "allow_msg_schedules", "persist_mode",
}  # fmt: skip
_CONSUMER_DEFAULTS = {
    "deliver_policy": "all",
    "ack_policy": "none",
    "max_deliver": -1,
    "replay_policy": "instant",
    "num_replicas": 0,
}
_EPHEMERAL = 5 * NANOSECONDS
_POLICIES = {
    "by_start_sequence": "deliver by start sequence",
    "by_start_time": "deliver by start time",
    "last_per_subject": "deliver last per subject",
    "all": "deliver all",
    "new": "deliver new",
    "last": "deliver last",
}


def metadata(asked: Config, version: str) -> dict[str, str]:
    """What was given, and what the server says of itself."""
    levels = {"_nats.level": "5", "_nats.req.level": "0", "_nats.ver": version}
    return {**(asked.get("metadata") or {}), **levels}


def stream_config(name: str, asked: Config, *, clustered: bool, version: str) -> Config:
    """The whole configuration of a stream. Raises ApiError."""
    if asked.get("name") != name:
        raise ApiError(400, 10056, "stream name in subject does not match request")
    for key in asked:
        if key not in _STREAM_FIELDS:
            raise ApiError(400, 10025, f'invalid JSON: json: unknown field "{key}"')
    config = {**DEFAULTS, **{k: v for k, v in asked.items() if v is not None}}
    for key in ("max_msgs", "max_bytes", "max_msgs_per_subject", "max_msg_size"):
        config[key] = config[key] or -1
    config["num_replicas"] = config["num_replicas"] or 1
    config["subjects"] = asked.get("subjects") or [name]
    if not asked.get("duplicate_window"):
        longest = config["max_age"] or float("inf")
        config["duplicate_window"] = min(DEFAULTS["duplicate_window"], longest)
    if config["num_replicas"] > 1 and not clustered:
        raise ApiError(500, 10074, "replicas > 1 not supported in non-clustered mode")
    problem = _unsound(config)
    if problem:
        raise ApiError(500, 10052, problem)
    config["metadata"] = metadata(asked, version)
    return config


def _unsound(config: Config) -> str:
    if config["max_age"] and config["duplicate_window"] > config["max_age"]:
        return "duplicates window can not be larger then max age"
    if config.get("discard_new_per_subject") and config["discard"] != "new":
        return "discard new per subject requires discard new policy to be set"
    if config["allow_rollup_hdrs"] and config["deny_purge"]:
        return "roll-ups require the purge permission"
    if not all(is_valid(s) for s in config["subjects"]):
        return "invalid subject"
    if any(overlap(s, "$JS.API.>") for s in config["subjects"]):
        return "subjects that overlap with jetstream api require no-ack to be true"
    return ""


def check_stream_update(former: Config, config: Config) -> None:
    """Raises ApiError."""
    problem = ""
    if config["storage"] != former["storage"]:
        problem = "change storage type"
    elif config["retention"] != former["retention"]:
        problem = "change retention policy to/from workqueue"
    elif former["deny_delete"] and not config["deny_delete"]:
        problem = "cancel deny message deletes"
    elif former["deny_purge"] and not config["deny_purge"]:
        problem = "cancel deny purge"
    if problem:
        raise ApiError(500, 10052, f"stream configuration update can not {problem}")


def consumer_config(
    named: list[str], asked: Config, *, takes: Callable[[str], bool], version: str
) -> Config:
    """The whole configuration of a consumer. ``named``: what the request's subject says, a name and
    the tokens of a filter; ``takes``: whether its stream takes a subject. Raises ApiError."""
    name = _name(named[0] if named else "", asked)
    _check_filters(named[1:], asked)
    given = {k: v for k, v in asked.items() if v not in (None, "", [], False, 0)}
    config = {**_CONSUMER_DEFAULTS, **given}
    if name:
        config["name"] = name
    problem = _misplaced_start(config)
    if problem:
        policy = _POLICIES.get(config["deliver_policy"], config["deliver_policy"])
        raise ApiError(400, 10094, f"consumer delivery policy is {policy}, {problem}")
    if config["ack_policy"] != "none":
        config.setdefault("ack_wait", 30 * NANOSECONDS)
        config.setdefault("max_ack_pending", 1000)
    if config.get("deliver_subject"):
        _check_push(config, takes)
    else:
        config.setdefault("max_waiting", 512)
    if not config.get("durable_name"):
        config.setdefault("inactive_threshold", _EPHEMERAL)
    config["metadata"] = metadata(asked, version)
    return config


def _name(in_subject: str, asked: Config) -> str:
    durable = asked.get("durable_name")
    if durable and in_subject and durable != in_subject:
        raise ApiError(
            400, 10017, "consumer name in subject does not match durable name in request"
        )
    return in_subject or durable or asked.get("name") or ""


def _check_filters(in_subject: list[str], asked: Config) -> None:
    one, several = asked.get("filter_subject"), asked.get("filter_subjects") or []
    if in_subject and ".".join(in_subject) != one:
        raise ApiError(
            400,
            10131,
            "Consumer create request did not match filtered subject from create subject",
        )
    if one and several:
        raise ApiError(
            400, 10136, "consumer cannot have both FilterSubject and FilterSubjects specified"
        )
    if any(overlap(a, b) for i, a in enumerate(several) for b in several[i + 1 :]):
        raise ApiError(400, 10138, "consumer subject filters cannot overlap")


def _misplaced_start(config: Config) -> str:
    policy = config["deliver_policy"]
    by_sequence, by_time = config.get("opt_start_seq"), config.get("opt_start_time")
    filtered = config.get("filter_subject") or config.get("filter_subjects")
    if policy == "by_start_sequence" and not by_sequence:
        return "but optional start sequence is not set"
    if policy == "by_start_time" and not by_time:
        return "but optional start time is not set"
    if policy == "last_per_subject" and not filtered:
        return "but optional filter subject is not set"
    if policy != "by_start_sequence" and by_sequence:
        return "but optional start sequence is also set"
    if policy != "by_start_time" and by_time:
        return "but optional start time is also set"
    return ""


def _check_push(config: Config, takes: Callable[[str], bool]) -> None:
    if takes(config["deliver_subject"]):
        raise ApiError(400, 10081, "consumer deliver subject forms a cycle")
    beat = config.get("idle_heartbeat")
    if beat and beat < NANOSECONDS // 10:
        raise ApiError(400, 10083, "consumer idle heartbeat needs to be >= 100ms")
    if config.get("flow_control") and not beat:
        raise ApiError(400, 10108, "consumer with flow control also needs heartbeats")


def check_consumer_update(former: Config, config: Config, *, bound: bool) -> None:
    """``bound``: somebody listens to its deliver subject. Raises ApiError."""
    for key, words in (
        ("ack_policy", "ack policy"),
        ("deliver_policy", "deliver policy"),
        ("opt_start_seq", "start sequence"),
    ):
        if former.get(key) != config.get(key):
            raise ApiError(500, 10012, f"{words} can not be updated")
    to, now = config.get("deliver_subject"), former.get("deliver_subject")
    if to and not now:
        raise ApiError(500, 10012, "can not update pull consumer to push based")
    if to != now and bound:
        raise ApiError(400, 10013, "consumer name already in use")
