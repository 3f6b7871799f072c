
import django.db.models.deletion
import towpath.ledger.models
import towpath.outbox.fields
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='Cursor',
            fields=[
                ('pk', models.CompositePrimaryKey('outbox', 'version', blank=True, editable=False, primary_key=True, serialize=False)),
                ('outbox', models.TextField()),
                ('version', models.BigIntegerField(db_default=0)),
                ('cluster', models.TextField()),
                ('seen', towpath.ledger.models.SnapshotField()),
                ('runs', models.JSONField(default=list)),
                ('is_rewound', models.BooleanField(default=False)),
                ('table_oid', models.BigIntegerField(null=True)),
                ('dispatched_at', models.DateTimeField(null=True)),
            ],
            options={
                'db_table': 'pipeline_cursor',
            },
        ),
        migrations.CreateModel(
            name='Shift',
            fields=[
                ('pk', models.CompositePrimaryKey('name', 'version', blank=True, editable=False, primary_key=True, serialize=False)),
                ('name', models.TextField()),
                ('version', models.BigIntegerField(db_default=0)),
                ('token', models.UUIDField()),
                ('taken_at', models.DateTimeField()),
                ('alive_at', models.DateTimeField()),
                ('interrupted_at', models.DateTimeField(null=True)),
                ('last_error', models.TextField(db_default='')),
            ],
            options={
                'db_table': 'pipeline_shift',
            },
        ),
        migrations.CreateModel(
            name='Foreign',
            fields=[
                ('queue', models.TextField(primary_key=True, serialize=False)),
                ('ledger', models.TextField()),
                ('seen_at', models.DateTimeField()),
            ],
            options={
                'db_table': 'pipeline_foreign',
            },
        ),
        migrations.CreateModel(
            name='DeadLetter',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('outbox', models.TextField()),
                ('row_id', models.BigIntegerField()),
                ('error', models.TextField()),
                ('window_id', models.UUIDField()),
                ('at', models.DateTimeField()),
            ],
            options={
                'db_table': 'pipeline_deadletter',
                'constraints': [models.UniqueConstraint(fields=('outbox', 'row_id'), name='deadletter_once')],
            },
        ),
        migrations.CreateModel(
            name='Mark',
            fields=[
                ('pk', models.CompositePrimaryKey('name', 'version', blank=True, editable=False, primary_key=True, serialize=False)),
                ('name', models.TextField()),
                ('version', models.BigIntegerField()),
                ('value', models.BigIntegerField()),
            ],
            options={
                'db_table': 'pipeline_mark',
                'constraints': [towpath.outbox.fields.TableStorage(name='mark_storage', parameters={'autovacuum_analyze_scale_factor': 0, 'autovacuum_analyze_threshold': 5000, 'autovacuum_vacuum_cost_delay': 0, 'autovacuum_vacuum_scale_factor': 0, 'autovacuum_vacuum_threshold': 2000})],
            },
        ),
        migrations.CreateModel(
            name='OutboxEvent',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('xid', towpath.outbox.fields.Xid8Field(db_default=models.Func(function='pg_current_xact_id', output_field=towpath.outbox.fields.Xid8Field()), editable=False)),
                ('bound', models.JSONField(editable=False, null=True)),
                ('event_type', models.TextField()),
                ('event_date_time', models.DateTimeField()),
                ('event_context', models.TextField()),
                ('metadata_version', models.BigIntegerField(default=1)),
            ],
            options={
                'verbose_name': 'undelivered event',
                'db_table': 'outbox_event',
                'abstract': False,
                'indexes': [towpath.outbox.fields.TransactionIndex(fields=['xid', 'id'], name='outbox_even_xid_f07688_idx')],
                'constraints': [towpath.outbox.fields.TableStorage(lz4_columns=('event_context',), name='towpath_outboxevent_storage', parameters={'autovacuum_analyze_scale_factor': 0, 'autovacuum_analyze_threshold': 100000, 'autovacuum_vacuum_cost_delay': 0, 'autovacuum_vacuum_insert_scale_factor': 0, 'autovacuum_vacuum_insert_threshold': 100000, 'autovacuum_vacuum_scale_factor': 0, 'autovacuum_vacuum_threshold': 20000, 'toast.autovacuum_vacuum_cost_delay': 0, 'toast.autovacuum_vacuum_insert_scale_factor': 0, 'toast.autovacuum_vacuum_insert_threshold': 100000, 'toast.autovacuum_vacuum_scale_factor': 0, 'toast.autovacuum_vacuum_threshold': 20000, 'toast.vacuum_truncate': 'off', 'vacuum_truncate': 'off'}), towpath.outbox.fields.RowLimits(conditions=('id > 0', 'pg_column_size(bound) <= 67108864', "event_date_time >= timestamptz '1900-01-01 00:00:00+00:00'", "event_date_time < timestamptz '2300-01-01 00:00:00+00:00'", 'metadata_version >= 0', 'octet_length(event_context) <= 67108864'), name='towpath_outboxevent_limits')],
            },
        ),
        migrations.CreateModel(
            name='Window',
            fields=[
                ('id', models.UUIDField(primary_key=True, serialize=False)),
                ('number', towpath.ledger.models.NumberField(unique=True)),
                ('is_late', models.BooleanField(db_default=False)),
                ('lease_token', models.UUIDField()),
                ('lease_until', models.DateTimeField()),
                ('attempts', models.IntegerField(default=1)),
                ('cut_levels', models.SmallIntegerField(db_default=0)),
                ('is_write_begun', models.BooleanField(db_default=False)),
                ('is_isolated', models.BooleanField(db_default=False)),
                ('refused_at', models.DateTimeField(null=True)),
                ('failed_at', models.DateTimeField(null=True)),
                ('last_error', models.TextField(db_default='')),
                ('found', models.TextField(db_default='message')),
                ('rows', models.JSONField()),
                ('bytes', models.BigIntegerField()),
                ('sealed_at', models.DateTimeField()),
                ('acked_at', models.DateTimeField(null=True)),
                ('store_error', models.TextField(db_default='')),
                ('verified_at', models.DateTimeField(null=True)),
                ('contradiction', models.TextField(null=True)),
                ('closed_reason', models.TextField(db_default='')),
                ('delivered', models.JSONField(null=True)),
                ('vanished', models.JSONField(null=True)),
                ('refused', models.JSONField(null=True)),
                ('isolated', models.JSONField(null=True)),
                ('dispatched_from', models.DateTimeField()),
                ('dispatched_to', models.DateTimeField()),
                ('loaded', models.BinaryField(null=True)),
            ],
            options={
                'db_table': 'pipeline_window',
                'indexes': [models.Index(fields=['dispatched_from'], name='window_dispatched'), models.Index(condition=models.Q(('is_late', True)), fields=['number'], name='window_late'), models.Index(condition=models.Q(('closed_reason', ''), ('vanished__isnull', False)), fields=['number'], name='window_vanished'), models.Index(condition=models.Q(('store_error', ''), _negated=True), fields=['dispatched_from'], name='window_store_error')],
                'constraints': [towpath.outbox.fields.TableStorage(name='window_storage', parameters={'autovacuum_analyze_scale_factor': 0, 'autovacuum_analyze_threshold': 5000, 'autovacuum_vacuum_cost_delay': 0, 'autovacuum_vacuum_scale_factor': 0, 'autovacuum_vacuum_threshold': 2000, 'fillfactor': 80})],
            },
        ),
        migrations.CreateModel(
            name='Batch',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('outbox', models.TextField()),
                ('ids', towpath.ledger.models.IdsField()),
                ('rows', models.IntegerField()),
                ('bytes', models.BigIntegerField()),
                ('is_backlog', models.BooleanField(db_default=True)),
                ('dispatched_at', models.DateTimeField()),
                ('window', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='batches', to='towpath.window')),
                ('is_late', models.BooleanField(db_default=False)),
            ],
            options={
                'db_table': 'pipeline_batch',
                'indexes': [models.Index(condition=models.Q(('window__isnull', False)), fields=['window'], name='batch_window'), models.Index(condition=models.Q(('is_late', True)), fields=['id'], name='batch_late')],
                'constraints': [towpath.outbox.fields.TableStorage(name='batch_storage', parameters={'autovacuum_analyze_scale_factor': 0, 'autovacuum_analyze_threshold': 5000, 'autovacuum_vacuum_cost_delay': 0, 'autovacuum_vacuum_scale_factor': 0, 'autovacuum_vacuum_threshold': 2000, 'toast.autovacuum_vacuum_cost_delay': 0, 'toast.autovacuum_vacuum_scale_factor': 0, 'toast.autovacuum_vacuum_threshold': 2000, 'toast.vacuum_truncate': 'off', 'vacuum_truncate': 'off'}, uncompressed_columns=('ids',))],
            },
        ),
        migrations.CreateModel(
            name='Backfill',
            fields=[
                ('outbox', models.TextField(primary_key=True, serialize=False)),
                ('position', models.TextField(null=True)),
                ('published', models.BigIntegerField(default=0)),
                ('already_published', models.BigIntegerField(default=0)),
                ('started_at', models.DateTimeField()),
                ('finished_at', models.DateTimeField(null=True)),
            ],
            options={
                'db_table': 'pipeline_backfill',
            },
        ),
        migrations.CreateModel(
            name='Coverage',
            fields=[
                ('id', towpath.ledger.models.NumberField(primary_key=True, serialize=False)),
                ('columns', models.TextField(unique=True)),
            ],
            options={
                'db_table': 'pipeline_coverage',
            },
        ),
        migrations.CreateModel(
            name='Seal',
            fields=[
                ('number', models.BigIntegerField(primary_key=True, serialize=False)),
                ('last_position', models.BigIntegerField()),
                ('sealed_at', models.DateTimeField()),
                ('statement', models.TextField()),
                ('digest', models.TextField()),
                ('signature', models.BinaryField(db_default=b'')),
            ],
            options={
                'db_table': 'pipeline_seal',
            },
        ),
        migrations.CreateModel(
            name='Proof',
            fields=[
                ('position', towpath.ledger.models.NumberField(primary_key=True, serialize=False)),
                ('kind', models.TextField()),
                ('window_id', models.UUIDField()),
                ('outbox', models.TextField()),
                ('month', models.DateField(null=True)),
                ('rows', models.BigIntegerField()),
                ('digest', models.BinaryField()),
                ('digest_sum', models.DecimalField(decimal_places=0, max_digits=60)),
                ('id_sum', models.DecimalField(decimal_places=0, max_digits=60)),
                ('receipt', models.BinaryField()),
                ('dispatched_at', models.DateTimeField()),
                ('proven_at', models.DateTimeField()),
                ('reason', models.TextField(db_default='')),
                ('contradiction', models.TextField(null=True)),
                ('coverage', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='towpath.coverage')),
            ],
            options={
                'db_table': 'pipeline_proof',
                'indexes': [models.Index(fields=['window_id'], name='proof_window'), models.Index(condition=models.Q(('contradiction__isnull', False)), fields=['position'], name='proof_contradicted'), models.Index(condition=models.Q(('kind', 'verified'), _negated=True), fields=['position'], name='proof_amended')],
            },
        ),
        migrations.CreateModel(
            name='History',
            fields=[
                ('minute', models.DateTimeField(primary_key=True, serialize=False)),
                ('measured_at', models.DateTimeField()),
                ('seconds', models.FloatField()),
                ('mark', models.BigIntegerField()),
                ('stored', models.BigIntegerField()),
                ('pending', models.BigIntegerField()),
                ('in_flight', models.BigIntegerField()),
                ('dead_letters', models.BigIntegerField()),
                ('open_windows', models.IntegerField()),
                ('oldest_age_seconds', models.FloatField(null=True)),
                ('typical_seconds', models.FloatField(null=True)),
            ],
            options={
                'db_table': 'pipeline_history',
            },
        ),
        migrations.CreateModel(
            name='Canary',
            fields=[
                ('number', models.BigAutoField(primary_key=True, serialize=False)),
                ('token', models.UUIDField()),
                ('published_at', models.DateTimeField()),
                ('queryable_at', models.DateTimeField(null=True)),
                ('every_seconds', models.FloatField()),
                ('last_error', models.TextField(db_default='')),
            ],
            options={
                'db_table': 'pipeline_canary',
            },
        ),
        migrations.CreateModel(
            name='Pause',
            fields=[
                ('outbox', models.TextField(primary_key=True, serialize=False)),
                ('paused_by', models.TextField()),
                ('reason', models.TextField()),
                ('paused_at', models.DateTimeField()),
            ],
            options={
                'db_table': 'pipeline_pause',
            },
        ),
    ]
