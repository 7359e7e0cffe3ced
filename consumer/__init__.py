"""Takes requests off Kafka: the worker, and the commands that run, check, plan and show one."""
