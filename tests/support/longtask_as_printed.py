"""The example class printed in "Long running Tasks for Websites", run as its author meant it.

Changes to the printed code:

- the imports, which were not printed, are supplied: ``datetime``, ``date``, ``timedelta``, ``longtask``;
- ``Rechnung.all().filter('datum =', tag).run()`` is SQLAlchemy's ``select``, and ``tag`` the loop's ``day``;
- ``vormonatsletzter`` is the variable ``monthlast``, which the author had translated elsewhere;
- ``day`` runs from ``monthfirst`` to ``monthlast``, because the loop as printed never runs;
- lines that the print lost are supplied: ``days.append(day)``, the body of the innermost loop, and the lines
  by which ``display_result`` belongs to the class and writes the result;
- the report's own functions, ``intrastat_rechnung``, ``intrastat_monat_aufsummieren`` and ``reformat``, and
  the model ``Rechnung``, which were not printed, are ours.

The spelling ``paramters`` is the author's.
"""

INTRASTAT = """\
import datetime
from datetime import date, timedelta
import longtask
from lastacross import datastore
from sqlalchemy import select
from models import Rechnung, intrastat_monat_aufsummieren, intrastat_rechnung, reformat


class IntrastatRohdaten(longtask.LongRunningTaskHandler):
    def execute_task(self, parameters):
        monthlast = date.today() - timedelta(days=datetime.date.today().day + 1)
        monthfirst = monthlast - timedelta(days=monthlast.day - 1)
        self.log_progress("Calculating INTRASTAT Data %s to %s"
                          % (monthlast, monthfirst),
                          step=0, total_steps=33)
        count = 0
        days = []
        day = monthfirst
        while day <= monthlast:
            days.append(day)
            day += datetime.timedelta(days=1)

        for day in days:
            count += 1
            self.log_progress("Handling %s: so far %d Invoices" % (day, count),
                              step=day.day, total_steps=len(days) + 2)
            with datastore.session(read_only=True) as session:
                for rechnung in session.scalars(select(Rechnung).where(Rechnung.datum == day)):
                    intrastat_rechnung(rechnung)

        self.log_progress("Summing up", step=32, total_steps=33)
        vormonat = intrastat_monat_aufsummieren(monthfirst)
        self.log_progress("Formating", step=33, total_steps=33)
        csvdata = reformat(vormonat)
        return csvdata

    def display_result(self, paramters, result):
        self.response.headers['Content-Type'] = 'text/plain'
        self.response.out.write(result)
"""

MODELS = """\
import datetime
import time

import sqlalchemy
from sqlalchemy.orm import Mapped, mapped_column

from lastacross import datastore


class Rechnung(datastore.Model):
    __tablename__ = "rechnung"

    id: Mapped[int] = mapped_column(primary_key=True)
    datum: Mapped[datetime.date] = mapped_column(sqlalchemy.Date)
    betrag: Mapped[int]


def intrastat_rechnung(rechnung):
    time.sleep(0.05)


def intrastat_monat_aufsummieren(monthfirst):
    query = sqlalchemy.select(sqlalchemy.func.count(), sqlalchemy.func.sum(Rechnung.betrag))
    with datastore.session(read_only=True) as session:
        return [monthfirst, *session.execute(query.where(Rechnung.datum >= monthfirst)).one()]


def reformat(vormonat):
    return ";".join(str(value) for value in vormonat) + "\\r\\n"
"""

MIGRATION = """\
import datetime

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade():
    table = op.create_table(
        "rechnung",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("datum", sa.Date, nullable=False),
        sa.Column("betrag", sa.Integer, nullable=False),
    )
    today = datetime.date.today()
    first = (today.replace(day=1) - datetime.timedelta(days=1)).replace(day=1)
    rows = [{"datum": first + datetime.timedelta(days=n % 25), "betrag": n} for n in range(1, 41)]
    op.bulk_insert(table, rows)
"""

FILES = {
    "intrastat.py": INTRASTAT,
    "models.py": MODELS,
    "main.py": """\
import webapp2

import intrastat

app = webapp2.WSGIApplication([("/intrastat", intrastat.IntrastatRohdaten)])
""",
    "app.yaml": "handlers:\n- url: /intrastat\n  script: main.app\n",
    "migrations/versions/0001_rechnung.py": MIGRATION,
}
