"""The contract as a FastAPI project might do it: Pydantic models, SQLAlchemy's ORM, a session and
a key as dependencies, an exception handler, uvicorn with its access log.

Run from this folder: `DATABASE=... API_KEYS=... uvicorn fastapi_app:app`.
"""

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from datetime import date, datetime, timezone
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, StringConstraints
from sqlalchemy import ForeignKey, UniqueConstraint, create_engine, event, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException

# --- Tables ------------------------------------------------------------------------------------

engine = create_engine(f"sqlite:///{os.environ['DATABASE']}", connect_args={"timeout": 30})
SessionLocal = sessionmaker(engine, expire_on_commit=False)


@event.listens_for(engine, "connect")
def set_pragmas(connection: Any, _: object) -> None:
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def now() -> datetime:
    return datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0)


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str]
    api_key_sha256: Mapped[str] = mapped_column(unique=True)
    api_key_last4: Mapped[str | None]
    suppress_notifications: Mapped[bool] = mapped_column(default=False)
    suppress_billing: Mapped[bool] = mapped_column(default=False)
    is_active: Mapped[bool] = mapped_column(default=True)
    dispute_account_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    updated_at: Mapped[datetime] = mapped_column(default=now, onupdate=now)


class Usage(Base):
    __tablename__ = "usage"
    __table_args__ = (UniqueConstraint("account_id", "date"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    date: Mapped[date]
    lookups: Mapped[int]


Base.metadata.create_all(engine)


# --- Shapes ------------------------------------------------------------------------------------

CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def check_name(value: str) -> str:
    if CONTROL_CHARACTER.search(value):
        raise ValueError("must have no control characters")
    if not 1 <= len(value := value.strip()) <= 255:
        raise ValueError("must be 1 to 255 characters")
    return value


ApiKey = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,255}$", strict=True)]
Name = Annotated[str, StringConstraints(strict=True), AfterValidator(check_name)]
Email = Annotated[str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+$", max_length=254, strict=True)]
Day = Annotated[date, Query()]
AccountId = Annotated[int, Path()]


class AccountCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    api_key: ApiKey
    name: Name
    email: Email
    suppress_notifications: StrictBool = False
    suppress_billing: StrictBool = False
    dispute_account_id: UUID | None = None


class AccountUpdate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    api_key: ApiKey = Field(default=None)
    name: Name = Field(default=None)
    suppress_notifications: StrictBool = Field(default=None)
    suppress_billing: StrictBool = Field(default=None)
    is_active: StrictBool = Field(default=None)
    dispute_account_id: UUID | None = None


class AccountOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    fense_account_id: int = Field(validation_alias="id")
    name: str
    email: str
    api_key_last4: str | None
    suppress_notifications: bool
    suppress_billing: bool
    is_active: bool
    dispute_account_id: str | None
    created_at: datetime
    updated_at: datetime


class DayOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    date: date
    lookups: int


class AccountUsageOut(BaseModel):
    fense_account_id: int
    name: str
    dispute_account_id: str | None
    start_date: date | None
    end_date: date | None
    total_lookups: int
    daily: list[DayOut]


class AccountTotalOut(BaseModel):
    fense_account_id: int
    name: str
    dispute_account_id: str | None
    total_lookups: int


class AllUsageOut(BaseModel):
    start_date: date | None
    end_date: date | None
    total_lookups: int
    accounts: list[AccountTotalOut]


class UsageQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    start_date: date | None = None
    end_date: date | None = None
    fense_account_id: int | None = None


class NoQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")


# --- Dependencies ------------------------------------------------------------------------------


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEYS = [digest(key) for key in os.environ["API_KEYS"].split(",")]


def get_session() -> Iterator[Session]:
    with SessionLocal() as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session)]


def check_key(
    session: SessionDep,
    key: Annotated[str | None, Depends(APIKeyHeader(name="x-api-key", auto_error=False))],
) -> None:
    sent = digest(key or "")
    if True not in [hmac.compare_digest(sent, known) for known in KEYS]:
        if key and session.scalar(select(Account.id).where(Account.api_key_sha256 == sent)):
            raise HTTPException(403, "a merchant's key gives no access to these endpoints")
        raise HTTPException(401, "unknown key", {"WWW-Authenticate": "ApiKey"})


def find_account(session: Session, account_id: int) -> Account:
    account = session.get(Account, account_id)
    if account is None:
        raise HTTPException(404, "no account has this fense_account_id")
    return account


# --- The application ---------------------------------------------------------------------------


class RequestIdMiddleware:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = sent if re.fullmatch(r"[\x21-\x7e]{1,128}", sent) else secrets.token_hex(8)

        async def send_with_id(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = request_id
                headers["Cache-Control"] = "no-store"
            await send(message)

        await self.app(scope, receive, send_with_id)


app = FastAPI(dependencies=[Depends(check_key)])
app.add_middleware(RequestIdMiddleware)

CODES = {400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found"}


def render_error(status: int, message: str, details: Any = (), headers: Any = None) -> JSONResponse:
    error = {"code": CODES.get(status, "error"), "message": message, "details": list(details)}
    return JSONResponse({"error": error}, status, headers)


@app.exception_handler(RequestValidationError)
async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
    details = [
        {"field": str(fault["loc"][-1]), "message": fault["msg"]} for fault in error.errors()
    ]
    message = "; ".join(f"{it['field']} {it['message']}" for it in details)
    return render_error(400, message, details)


@app.exception_handler(StarletteHTTPException)
async def explain(request: Request, error: StarletteHTTPException) -> JSONResponse:
    return render_error(error.status_code, error.detail, headers=error.headers)


def key_columns(fields: dict[str, Any]) -> dict[str, Any]:
    if key := fields.pop("api_key", None):
        fields["api_key_sha256"] = digest(key)
        fields["api_key_last4"] = key[-4:] if len(key) >= 12 else None
    if fields.get("dispute_account_id"):
        fields["dispute_account_id"] = str(fields["dispute_account_id"])
    return fields


def save(session: Session) -> None:
    try:
        session.commit()
    except IntegrityError as error:
        raise HTTPException(400, "api_key belongs to another account") from error


@app.post("/accounts", status_code=201)
def create_account(
    sent: AccountCreate,
    query: Annotated[NoQuery, Query()],
    response: Response,
    session: SessionDep,
) -> AccountOut:
    account = Account(**key_columns(sent.model_dump()))
    session.add(account)
    save(session)
    response.headers["Location"] = f"/accounts/{account.id}"
    return account


@app.get("/accounts/usage")
def read_all_usage(
    query: Annotated[UsageQuery, Query()], session: SessionDep
) -> AccountUsageOut | AllUsageOut:
    if query.fense_account_id is not None:
        return read_usage(query.fense_account_id, query, session)
    statement = (
        select(Account.id, Account.name, Account.dispute_account_id, func.sum(Usage.lookups))
        .outerjoin(Usage, (Usage.account_id == Account.id) & in_range(query))
        .group_by(Account.id)
        .order_by(Account.id)
    )
    accounts = [
        AccountTotalOut(
            fense_account_id=account_id,
            name=name,
            dispute_account_id=dispute_account_id,
            total_lookups=total or 0,
        )
        for account_id, name, dispute_account_id, total in session.execute(statement)
    ]
    return AllUsageOut(
        start_date=query.start_date,
        end_date=query.end_date,
        total_lookups=sum(account.total_lookups for account in accounts),
        accounts=accounts,
    )


@app.get("/accounts/usage/{fense_account_id}")
def read_usage(
    fense_account_id: AccountId, query: Annotated[UsageQuery, Query()], session: SessionDep
) -> AccountUsageOut:
    if query.fense_account_id not in (None, fense_account_id):
        raise HTTPException(400, "fense_account_id differs between path and query")
    account = find_account(session, fense_account_id)
    days = session.scalars(
        select(Usage)
        .where(Usage.account_id == fense_account_id, in_range(query))
        .order_by(Usage.date)
    ).all()
    return AccountUsageOut(
        fense_account_id=account.id,
        name=account.name,
        dispute_account_id=account.dispute_account_id,
        start_date=query.start_date,
        end_date=query.end_date,
        total_lookups=sum(day.lookups for day in days),
        daily=[DayOut.model_validate(day) for day in days],
    )


def in_range(query: UsageQuery) -> Any:
    if query.start_date and not query.end_date:
        raise HTTPException(400, "end_date is required with start_date")
    if query.start_date and query.start_date > query.end_date:
        raise HTTPException(400, "start_date must not be after end_date")
    return Usage.date.between(query.start_date or date.min, query.end_date or date.max)


@app.get("/accounts/{fense_account_id}")
def read_account(
    fense_account_id: AccountId, query: Annotated[NoQuery, Query()], session: SessionDep
) -> AccountOut:
    return find_account(session, fense_account_id)


@app.post("/accounts/{fense_account_id}")
def update_account(
    fense_account_id: AccountId,
    sent: AccountUpdate,
    query: Annotated[NoQuery, Query()],
    session: SessionDep,
) -> AccountOut:
    account = find_account(session, fense_account_id)
    for name, value in key_columns(sent.model_dump(exclude_unset=True)).items():
        setattr(account, name, value)
    save(session)
    return account


@app.get("/healthz", dependencies=[])
def health(session: SessionDep) -> dict[Literal["status"], Literal["ok"]]:
    session.execute(select(1))
    return {"status": "ok"}
