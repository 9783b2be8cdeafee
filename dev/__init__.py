"""The development stack: PostgreSQL, Kafka and the services, run natively or by Docker Compose."""

from common.terminal import end_with_2_after_traceback

end_with_2_after_traceback()  # 1 means that `just verify` has found a violation
