"""Whatever takes events off Kafka: the worker, and the commands that run, check and show one."""
