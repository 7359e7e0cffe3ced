"""The operations of the chart's README, run as they stand there and held against what each is for."""
