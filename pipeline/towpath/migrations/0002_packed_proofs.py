"""Proofs are packed after RECEIPT_DAYS. What contradicts a window has a table of its own, so that no proof changes."""

import django.db.models.deletion
import towpath.ledger.models
from django.db import migrations, models

COPY_CONTRADICTIONS = """
INSERT INTO pipeline_contradictedwindow (window_id, contradiction)
SELECT DISTINCT ON (window_id) window_id, contradiction FROM pipeline_proof
WHERE contradiction IS NOT NULL ORDER BY window_id, position DESC
"""


class Migration(migrations.Migration):

    dependencies = [
        ('towpath', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='ContradictedWindow',
            fields=[
                ('window_id', models.UUIDField(primary_key=True, serialize=False)),
                ('contradiction', models.TextField()),
            ],
            options={
                'db_table': 'pipeline_contradictedwindow',
            },
        ),
        migrations.RunSQL(COPY_CONTRADICTIONS, migrations.RunSQL.noop),
        migrations.RemoveIndex(
            model_name='proof',
            name='proof_contradicted',
        ),
        # The column stays: processes of 0.1.0 read it until they are updated, too. A later migration drops it.
        migrations.SeparateDatabaseAndState(
            state_operations=[migrations.RemoveField(model_name='proof', name='contradiction')],
        ),
        migrations.CreateModel(
            name='PackedProofs',
            fields=[
                ('first_position', models.BigIntegerField(primary_key=True, serialize=False)),
                ('month', models.DateField()),
                ('dispatched_from', models.DateTimeField()),
                ('dispatched_to', models.DateTimeField()),
                ('first_window', models.UUIDField()),
                ('last_window', models.UUIDField()),
                ('outboxes', towpath.ledger.models.ListField('text')),
                ('places', towpath.ledger.models.ListField('smallint')),
                ('windows', towpath.ledger.models.ListField('uuid')),
                ('outbox_numbers', towpath.ledger.models.ListField('smallint')),
                ('rows', towpath.ledger.models.ListField('integer')),
                ('digests', models.BinaryField()),
                ('digest_sums', towpath.ledger.models.ListField('integer')),
                ('id_sums', towpath.ledger.models.ListField('integer')),
                ('coverage', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='towpath.coverage')),
            ],
            options={
                'db_table': 'pipeline_packedproofs',
            },
        ),
    ]
