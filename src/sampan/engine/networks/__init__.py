"""The networks of an engine: their records, subnets and addresses."""
