"""The operator's tools: migrations, topics, parked events, replay and the proof."""
