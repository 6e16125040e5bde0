-- The tables. A column, its limits and its default are decided here and nowhere else. A database of
-- an earlier version gets the sections of the later ones; a new one gets them all.

-- version 1

CREATE TABLE account (
    -- AUTOINCREMENT: an id is never used twice, not even after its account is gone.
    fense_account_id       INTEGER PRIMARY KEY AUTOINCREMENT,
    name                   TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 255),
    email                  TEXT NOT NULL CHECK (length(email) BETWEEN 3 AND 254),
    -- The merchant's api_key is a credential: its SHA-256 in hex is kept, and what may be shown of it.
    api_key_sha256         TEXT NOT NULL UNIQUE CHECK (api_key_sha256 NOT GLOB '*[^0-9a-f]*' AND length(api_key_sha256) = 64),
    api_key_last4          TEXT CHECK (length(api_key_last4) = 4),
    suppress_notifications INTEGER NOT NULL DEFAULT 0 CHECK (suppress_notifications IN (0, 1)),
    suppress_billing       INTEGER NOT NULL DEFAULT 0 CHECK (suppress_billing IN (0, 1)),
    is_active              INTEGER NOT NULL DEFAULT 1 CHECK (is_active IN (0, 1)),
    dispute_account_id     TEXT CHECK (length(dispute_account_id) = 36),
    created_at             TEXT NOT NULL CHECK (created_at < '1600' OR created_at IS strftime('%Y-%m-%dT%H:%M:%SZ', created_at, '+0 days')),
    updated_at             TEXT NOT NULL CHECK (updated_at < '1600' OR updated_at IS strftime('%Y-%m-%dT%H:%M:%SZ', updated_at, '+0 days'))
);

-- '+0 days' makes SQLite work a date out, so that 2026-02-30 is found to be none. (Long ago its
-- calendar is wrong in some versions, 0300-03-01 say: there it is not asked.)
-- TEXT, not DATE: a column declared DATE is numeric to SQLite, and text bounds would match nothing.
-- WITHOUT ROWID: an account's days lie side by side, so a sum over them reads few pages.
CREATE TABLE usage (
    fense_account_id       INTEGER NOT NULL REFERENCES account,
    date                   TEXT NOT NULL CHECK (date < '1600' OR date IS date(date, '+0 days')),
    -- 10^12 a day keeps every sum of days within 64 bits; a day of 0 is not kept.
    lookups                INTEGER NOT NULL CHECK (typeof(lookups) = 'integer' AND lookups BETWEEN 1 AND 1000000000000),
    PRIMARY KEY (fense_account_id, date)
) WITHOUT ROWID;

-- version 2

-- The sums of the days, so that a query need not add up a long history. What writes usage writes them,
-- too, in the same transaction.
CREATE TABLE usage_month (
    fense_account_id       INTEGER NOT NULL REFERENCES account,
    month                  TEXT NOT NULL CHECK (month < '1600' OR month IS strftime('%Y-%m', month || '-01', '+0 days')),
    lookups                INTEGER NOT NULL CHECK (typeof(lookups) = 'integer' AND lookups > 0),
    PRIMARY KEY (fense_account_id, month)
) WITHOUT ROWID;
INSERT INTO usage_month
SELECT fense_account_id, substr(date, 1, 7) AS month, SUM(lookups) FROM usage GROUP BY 1, 2;

-- version 3

-- The checks of dates let those before 1600 pass, as above. What a CHECK says is not in the rows, so
-- its text alone is changed. RESET makes this connection read it again; a table that is
-- created and dropped makes the others do so.
PRAGMA writable_schema = ON;
UPDATE sqlite_master SET sql = replace(replace(replace(replace(sql,
    'CHECK (created_at IS', 'CHECK (created_at < ''1600'' OR created_at IS'),
    'CHECK (updated_at IS', 'CHECK (updated_at < ''1600'' OR updated_at IS'),
    'CHECK (date IS', 'CHECK (date < ''1600'' OR date IS'),
    'CHECK (month IS', 'CHECK (month < ''1600'' OR month IS')
WHERE name IN ('account', 'usage', 'usage_month');
PRAGMA writable_schema = RESET;
CREATE TABLE schema_changed (x);
DROP TABLE schema_changed;
