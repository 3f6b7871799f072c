"""ClickHouse of a deployment: users with their rights and limits, and the table on one node or on replicas."""
