-- Made by `python -m deploy.clickhouse.tables`: what `manage.py eventlog migrate` creates on a single node.

CREATE TABLE IF NOT EXISTS event_log_migration (
    number UInt32, name String, checksum String, applied_at DateTime('UTC') DEFAULT now()
) ENGINE = MergeTree ORDER BY number;

CREATE TABLE IF NOT EXISTS event_log (
    event_type      String CODEC(ZSTD(1)),
    event_date_time DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    environment     String CODEC(ZSTD(1)),
    event_context   String CODEC(ZSTD(3)),
    metadata_version UInt64 CODEC(ZSTD(1)),
    outbox          String CODEC(ZSTD(1)),
    outbox_id       UInt64 CODEC(Delta, ZSTD(1)),
    window_id       UUID CODEC(ZSTD(1)),
    written_at      DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    INDEX window_id_bloom window_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX event_type_bloom event_type TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(event_date_time)
ORDER BY (event_date_time, outbox, outbox_id)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, min_parts_to_merge_at_once = 10;

ALTER TABLE event_log ADD COLUMN IF NOT EXISTS actor String CODEC(ZSTD(1));

ALTER TABLE event_log ADD INDEX IF NOT EXISTS actor_bloom actor TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE event_log ADD COLUMN IF NOT EXISTS request_id String CODEC(ZSTD(1));

ALTER TABLE event_log ADD INDEX IF NOT EXISTS request_id_bloom request_id TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE event_log ADD COLUMN IF NOT EXISTS ip String CODEC(ZSTD(1));

ALTER TABLE event_log ADD COLUMN IF NOT EXISTS target String CODEC(ZSTD(1));

ALTER TABLE event_log ADD INDEX IF NOT EXISTS target_bloom target TYPE bloom_filter(0.01) GRANULARITY 1;

ALTER TABLE event_log ADD COLUMN IF NOT EXISTS outcome LowCardinality(String) CODEC(ZSTD(1));
