"""The story of an order as a trace, after the fact. Its times are the broker's; its ids are those of live tracing."""

from common.tracing.ids import Trace, processed_span_id, sent_span_id
from common.tracing.spans import NS_PER_MS, Sent, Span, SpanEvent, process_span, send_span
from ops.dead_letters.parked import record_id
from ops.trace.story import BY_API, PLACED, ParkedEvent, Stage, Story, made_at


def spans_of(story: Story) -> list[Span]:
    """The spans: for each event the one that sent it, and for each service the one in which it processed the cause."""
    trace = Trace(story.trace_id, story.caller_span_id)
    stages = {stage.event_id: stage for stage in reversed(story.stages)}
    made: dict[str, Span] = {}

    def sent(stage: Stage) -> Sent:
        return Sent(stage.event_id, stage.topic, stage.partition, stage.offset)

    for stage in story.stages:
        if stage.repeat:
            continue
        at_ns = stage.at * NS_PER_MS
        parent_id, start_ns = story.caller_span_id, at_ns
        if stage.cause_id is not None and stage.cause_id in stages:
            cause = stages[stage.cause_id]
            processed = process_span(stage.by, trace, sent(cause), cause.at * NS_PER_MS, at_ns)
            parent_id = processed.span_id
            made.setdefault(parent_id, processed)
        elif stage.event == PLACED:
            start_ns = min(at_ns, (made_at(story.order_id) or stage.at) * NS_PER_MS)
        elif stage.event not in BY_API:
            parent_id = sent_span_id(f"{story.order_id}:{PLACED}:1")
        span = send_span(stage.by, trace, sent(stage), parent_id, start_ns, at_ns)
        made.setdefault(span.span_id, span)
    for parked in story.parked:
        made[processed_span_id(parked.group, parked.event_id)] = _parked(trace, parked)
    return list(made.values())


def _parked(trace: Trace, parked: ParkedEvent) -> Span:
    record = record_id(parked.record)
    sent = Sent(parked.event_id, record.topic, record.partition, record.offset)
    end_ns = parked.parked_at * NS_PER_MS
    acts = tuple(SpanEvent(act, end_ns) for act in parked.acts)
    return process_span(
        parked.group, trace, sent, parked.record_time * NS_PER_MS, end_ns, events=acts,
        error="" if parked.state == "done" else f"parked: {parked.error}",
    )  # fmt: skip
