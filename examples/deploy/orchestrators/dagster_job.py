"""A Dagster asset that publishes each day: `dagster dev -f dagster_job.py`, beside `publish.py`."""

import dagster as dg
from publish import Refused, TryAgain, publish


@dg.asset(partitions_def=dg.DailyPartitionsDefinition(start_date="2024-03-01"))
def activity_embeddings(context: dg.AssetExecutionContext) -> None:
    """Published activity embeddings."""
    day = context.partition_time_window
    try:
        publish(day.start, day.end)
    except Refused as refused:
        raise dg.Failure(str(refused), allow_retries=False) from refused
    except TryAgain as again:
        raise dg.RetryRequested(max_retries=6, seconds_to_wait=60) from again


daily = dg.define_asset_job("daily", [activity_embeddings])
defs = dg.Definitions(
    assets=[activity_embeddings],
    schedules=[dg.build_schedule_from_partitioned_job(daily)],
)
