
import django.db.models.deletion
import towpath.outbox.fields
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('auth', '0012_alter_user_first_name_max_length'),
    ]

    operations = [
        migrations.CreateModel(
            name='User',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('password', models.CharField(max_length=128, verbose_name='password')),
                ('last_login', models.DateTimeField(blank=True, null=True, verbose_name='last login')),
                ('is_superuser', models.BooleanField(default=False, help_text='Designates that this user has all permissions without explicitly assigning them.', verbose_name='superuser status')),
                ('email', models.EmailField(max_length=254, unique=True)),
                ('first_name', models.CharField(max_length=150)),
                ('last_name', models.CharField(max_length=150)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('is_active', models.BooleanField(default=True)),
                ('is_staff', models.BooleanField(default=False)),
                ('groups', models.ManyToManyField(blank=True, help_text='The groups this user belongs to. A user will get all permissions granted to each of their groups.', related_name='user_set', related_query_name='user', to='auth.group', verbose_name='groups')),
                ('user_permissions', models.ManyToManyField(blank=True, help_text='Specific permissions for this user.', related_name='user_set', related_query_name='user', to='auth.permission', verbose_name='user permissions')),
            ],
            options={
                'db_table': 'users',
            },
        ),
        migrations.CreateModel(
            name='OutboxUserChange',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('xid', towpath.outbox.fields.Xid8Field(db_default=models.Func(function='pg_current_xact_id', output_field=towpath.outbox.fields.Xid8Field()), editable=False)),
                ('bound', models.JSONField(editable=False, null=True)),
                ('event_type', models.TextField()),
                ('event_date_time', models.DateTimeField()),
                ('event_context', models.TextField()),
                ('metadata_version', models.BigIntegerField(default=1)),
                ('user_id', models.BigIntegerField()),
            ],
            options={
                'verbose_name': 'undelivered change of a user',
                'db_table': 'outbox_user_change',
                'abstract': False,
                'indexes': [towpath.outbox.fields.TransactionIndex(fields=['xid', 'id'], name='outbox_user_xid_88ddaf_idx')],
                'constraints': [towpath.outbox.fields.TableStorage(lz4_columns=('event_context',), name='users_outboxuserchange_storage', parameters={'autovacuum_analyze_scale_factor': 0, 'autovacuum_analyze_threshold': 100000, 'autovacuum_vacuum_cost_delay': 0, 'autovacuum_vacuum_insert_scale_factor': 0, 'autovacuum_vacuum_insert_threshold': 100000, 'autovacuum_vacuum_scale_factor': 0, 'autovacuum_vacuum_threshold': 20000, 'toast.autovacuum_vacuum_cost_delay': 0, 'toast.autovacuum_vacuum_insert_scale_factor': 0, 'toast.autovacuum_vacuum_insert_threshold': 100000, 'toast.autovacuum_vacuum_scale_factor': 0, 'toast.autovacuum_vacuum_threshold': 20000, 'toast.vacuum_truncate': 'off', 'vacuum_truncate': 'off'}), towpath.outbox.fields.RowLimits(conditions=('id > 0', 'pg_column_size(bound) <= 67108864', "event_date_time >= timestamptz '1900-01-01 00:00:00+00:00'", "event_date_time < timestamptz '2300-01-01 00:00:00+00:00'", 'metadata_version >= 0', 'octet_length(event_context) <= 67108864'), name='users_outboxuserchange_limits')],
            },
        ),
        migrations.CreateModel(
            name='OutboxUser',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('xid', towpath.outbox.fields.Xid8Field(db_default=models.Func(function='pg_current_xact_id', output_field=towpath.outbox.fields.Xid8Field()), editable=False)),
                ('bound', models.JSONField(editable=False, null=True)),
                ('user', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name': 'undelivered user event',
                'db_table': 'outbox_user',
                'abstract': False,
                'indexes': [towpath.outbox.fields.TransactionIndex(fields=['xid', 'id'], name='outbox_user_xid_5615f3_idx')],
                'constraints': [towpath.outbox.fields.TableStorage(name='users_outboxuser_storage', parameters={'autovacuum_analyze_scale_factor': 0, 'autovacuum_analyze_threshold': 100000, 'autovacuum_vacuum_cost_delay': 0, 'autovacuum_vacuum_insert_scale_factor': 0, 'autovacuum_vacuum_insert_threshold': 100000, 'autovacuum_vacuum_scale_factor': 0, 'autovacuum_vacuum_threshold': 20000, 'toast.autovacuum_vacuum_cost_delay': 0, 'toast.autovacuum_vacuum_insert_scale_factor': 0, 'toast.autovacuum_vacuum_insert_threshold': 100000, 'toast.autovacuum_vacuum_scale_factor': 0, 'toast.autovacuum_vacuum_threshold': 20000, 'toast.vacuum_truncate': 'off', 'vacuum_truncate': 'off'}), towpath.outbox.fields.RowLimits(conditions=('id > 0', 'pg_column_size(bound) <= 67108864'), name='users_outboxuser_limits')],
            },
        ),
    ]
