"""The contract as a first version with Bottle and peewee: a connection for each request,
a query built for each question, `request.json`, waitress as it comes.

Run as `python naive_app.py PORT DATABASE`, with API_KEYS.
"""

import datetime
import hashlib
import os
import sys

import peewee
import waitress
from bottle import Bottle, HTTPResponse, request, response
from playhouse.shortcuts import model_to_dict

db = peewee.SqliteDatabase(
    sys.argv[2], pragmas={"journal_mode": "wal", "synchronous": "full", "foreign_keys": 1}
)
app = Bottle()


class Account(peewee.Model):
    name = peewee.CharField()
    email = peewee.CharField()
    api_key_sha256 = peewee.CharField(unique=True)
    api_key_last4 = peewee.CharField(null=True)
    suppress_notifications = peewee.BooleanField(default=False)
    suppress_billing = peewee.BooleanField(default=False)
    is_active = peewee.BooleanField(default=True)
    dispute_account_id = peewee.CharField(null=True)
    created_at = peewee.DateTimeField(default=datetime.datetime.now)
    updated_at = peewee.DateTimeField(default=datetime.datetime.now)

    class Meta:
        database = db


class Usage(peewee.Model):
    account = peewee.ForeignKeyField(Account)
    date = peewee.DateField()
    lookups = peewee.IntegerField()

    class Meta:
        database = db
        indexes = ((("account", "date"), True),)


def refuse(status, message):
    raise HTTPResponse({"error": {"message": message}}, status)


@app.hook("before_request")
def open_database():
    db.connect()


@app.hook("after_request")
def close_database():
    db.close()


def check_key():
    if request.get_header("x-api-key") not in os.environ["API_KEYS"].split(","):
        refuse(401, "unknown key")


def as_json(account):
    shown = model_to_dict(account, exclude=[Account.api_key_sha256])
    for name in ("created_at", "updated_at"):
        shown[name] = str(shown[name])
    return shown


def find(account_id):
    try:
        return Account.get_by_id(account_id)
    except Account.DoesNotExist:
        refuse(404, "no such account")


@app.post("/accounts")
def create_account():
    check_key()
    sent = dict(request.json)
    if missing := {"api_key", "name", "email"} - sent.keys():
        refuse(400, f"required: {missing}")
    key = sent.pop("api_key")
    digest = hashlib.sha256(key.encode()).hexdigest()
    account = Account.create(api_key_sha256=digest, api_key_last4=key[-4:], **sent)
    response.status = 201
    return as_json(account)


@app.get("/accounts/<account_id:int>")
def get_account(account_id):
    check_key()
    return as_json(find(account_id))


@app.get("/accounts/usage/<account_id:int>")
def get_usage(account_id):
    check_key()
    account = find(account_id)
    days = Usage.select().where(
        Usage.account == account,
        Usage.date.between(request.query.start_date, request.query.end_date),
    )
    daily = [{"date": str(day.date), "lookups": day.lookups} for day in days.order_by(Usage.date)]
    return {"account": account.id, "total": sum(d["lookups"] for d in daily), "daily": daily}


if __name__ == "__main__":
    with db:
        db.create_tables([Account, Usage])
    waitress.serve(app, host="127.0.0.1", port=int(sys.argv[1]), threads=4)
