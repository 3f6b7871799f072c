from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('towpath', '0001_initial'),
    ]

    operations = [
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
    ]
