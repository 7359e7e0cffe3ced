"""The process behind `darkroom hooks`: delivers completions to the addresses that tenants named."""
