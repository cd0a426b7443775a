"""The application of the rows: each task notes its attempts and writes one row to the database."""

from sqlalchemy import text

from lastacross import datastore
from tests.support import endless_app

_WRITE = '''\
def write(seen):
    """One row for each attempt that came to its end."""
    with datastore.transaction() as transaction:
        statement = text("INSERT INTO done (task) VALUES (:task)")
        transaction.session.execute(statement, {"task": f"{seen['queue']}_{seen['task']}"})


def app('''

_MAIN = (
    endless_app.MAIN.replace(
        "from lastacross import taskqueue\n",
        "from sqlalchemy import text\n\nfrom lastacross import datastore, taskqueue\n",
    )
    .replace("def app(", _WRITE)
    .replace('    note(environ, "end")\n', '    write(seen)\n    note(environ, "end")\n')
    # A row may set the clock of some processes.
    .replace('"at": time.time(),', '"at": time.time() - float(os.environ.get("TEST_CLOCK_OFF", "0")),')
)

FILES = {
    "main.py": _MAIN,
    "cron.yaml": "cron:\n- description: every minute\n  url: /cron\n  schedule: every 1 minutes\n",
}


def create_table() -> None:
    """Create the table to which the tasks write."""
    with datastore.session() as session:
        session.execute(text("CREATE TABLE done (task VARCHAR(200) NOT NULL)"))


def written() -> set[str]:
    """The ids of the tasks that have written their row."""
    with datastore.session(read_only=True) as session:
        return set(session.scalars(text("SELECT DISTINCT task FROM done")))
