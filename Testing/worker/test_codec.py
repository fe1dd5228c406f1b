# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from typing import get_args

import pytest

from DIANetLib.errors import WorkerError
from DIANetLib.worker import protocol
from DIANetLib.worker.codec import decode_event, decode_request, encode
from Testing.worker.messages import EVENTS, PAYLOADS, REQUESTS, VOLUME


@pytest.mark.parametrize("message", REQUESTS, ids=lambda m: type(m).__name__)
def test_a_request_comes_back_as_it_was(message):
    line = encode(message)
    assert "\n" not in line
    assert line.isascii()
    assert decode_request(line) == message


@pytest.mark.parametrize("message", EVENTS, ids=lambda m: type(m).__name__)
def test_an_event_comes_back_as_it_was_with_and_without_its_separator(message):
    assert decode_event(encode(message)) == message
    assert decode_event(protocol.RECORD_SEPARATOR + encode(message)) == message


def test_every_kind_of_message_is_tested_above():
    assert {type(m) for m in REQUESTS} == set(get_args(protocol.Request))
    assert {type(m) for m in EVENTS} == set(get_args(protocol.Event))
    assert {type(m) for m in PAYLOADS} == set(get_args(protocol.Payload))


def changed(**fields):
    return json.dumps({**json.loads(encode(REQUESTS[1])), **fields})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("", "not a JSON request"),
        ("\x00\xff garbage", "not a JSON request"),
        ("[" * 100_000, "not a JSON request"),
        ("[]", "no request of this protocol"),
        ('{"type": "hello"}', "no request of this protocol"),
        ('{"type": ["segment"]}', "no request of this protocol"),
        ('{"type": "segment"}', "Segment lacks 'id'"),
        (changed(id=3), "id is 3, expected str"),
        (changed(samples=True), "samples is True, expected int"),
        (changed(samples=2.0), "samples is 2.0, expected int"),
        (changed(model=None), "model is None"),
        (changed(volumes={}), "volumes is {}, expected a list"),
        (changed(volumes=[3]), "expected an object for SharedVolume"),
        (changed(more=1), "Segment has no field 'more'"),
        (changed(review={"threshold": "high"}), "threshold is 'high', expected float"),
        (changed(roi={"lo": [0, 0], "hi": [1, 1, 1]}), "lo has 2 entries, expected 3"),
        (changed(roi={"lo": [0, 0, 0], "hi": [1, 1, 10**400]}), r"hi\[2\] is 1000"),
        (changed(roi={"lo": [0, 0, float("nan")], "hi": [1, 1, 1]}), r"lo\[2\] is nan"),
    ],
)
def test_what_is_no_request_gets_a_sentence(line, why):
    with pytest.raises(WorkerError, match=why):
        decode_request(line)


def test_an_unknown_kind_of_map_or_payload_is_refused():
    segmented = json.loads(encode(protocol.Result("s", PAYLOADS[0])))
    segmented["payload"]["maps"][0]["kind"] = "beauty"
    with pytest.raises(WorkerError, match="kind is 'beauty', expected one of total"):
        decode_event(json.dumps(segmented))
    with pytest.raises(WorkerError, match="payload is of no known type"):
        decode_event('{"type": "result", "id": "s", "payload": {"type": "hello"}}')


def test_a_number_that_json_does_not_have_is_not_sent():
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode(replace(REQUESTS[1], volumes=(replace(VOLUME, spacing=(1.0, 1.0, float("inf"))),)))


def test_whole_numbers_may_stand_for_lengths():
    assert decode_request(changed(roi={"lo": [0, 0, 0], "hi": [1, 1, 1]})).roi.hi == (1.0, 1.0, 1.0)
