"""An Airflow 3 DAG that publishes each day; it lies beside `publish.py` in the folder of DAGs."""

from datetime import datetime, timedelta

from airflow.sdk import CronDataIntervalTimetable, dag, task
from airflow.sdk.exceptions import AirflowFailException
from publish import Refused, publish


# Other timetables of Airflow 3 give intervals of no length.
@dag(
    schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"),
    start_date=datetime(2024, 3, 1),
    catchup=True,
    max_active_runs=1,
)
def activity_embeddings():
    """Publish activity embeddings."""

    @task(retries=6, retry_delay=timedelta(minutes=1), retry_exponential_backoff=True)
    def publish_day(data_interval_start=None, data_interval_end=None):
        try:
            publish(data_interval_start, data_interval_end)
        except Refused as refused:
            raise AirflowFailException(str(refused)) from refused  # no retry

    publish_day()


activity_embeddings()
