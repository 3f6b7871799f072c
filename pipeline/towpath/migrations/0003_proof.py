import django.db.models.deletion
import towpath.ledger.models
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('towpath', '0002_backfill'),
    ]

    operations = [
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
        migrations.AddField(
            model_name='window',
            name='loaded',
            field=models.BinaryField(null=True),
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
    ]
