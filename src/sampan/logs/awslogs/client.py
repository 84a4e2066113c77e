"""CloudWatch Logs through botocore: credentials, region, and what its errors mean for a batch.

Credentials come from where the AWS SDKs take them on this host (the engine's environment, its profile, the instance's
role) or from `awslogs-credentials-endpoint`; nothing of the container is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sampan.errors import Invalid
from sampan.logs.awslogs.events import Event
from sampan.logs.awslogs.outcome import Outcome
from sampan.logs.awslogs.settings import Settings

_CONNECT_TIMEOUT = 5
_READ_TIMEOUT = 15
_ATTEMPTS = 3
_NEVER = frozenset(("InvalidParameterException", "SerializationException", "ValidationException"))
_GARBAGE = (TypeError, ValueError, AttributeError, LookupError, RecursionError)
"""What botocore trips with over an answer that is not one of the service's."""


class LogStreamClient:
    """One log stream. Every error of its methods is an OSError whose text is AWS's."""

    def __init__(self, settings: Settings, stream: str) -> None:
        """Raises `Invalid` for an endpoint or profile that is none, and OSError when the region is not to be found."""
        from botocore.exceptions import BotoCoreError

        self._settings = settings
        self._stream = stream
        try:
            self._client = _make_client(settings)
        except (BotoCoreError, ValueError) as error:
            raise Invalid(f"awslogs: {error}") from error
        self._token: str | None = None
        self._exists = not settings.create_stream

    def create(self) -> None:
        """Make the stream, and its group if the options say so; nothing when they exist. Raises OSError."""
        if self._exists:
            return
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            try:
                self._create_stream()
            except ClientError as error:
                if _code(error) != "ResourceNotFoundException" or not self._settings.create_group:
                    raise
                self._create_group()
                self._create_stream()
        except (BotoCoreError, ClientError, *_GARBAGE) as error:
            raise OSError(f"failed to create Cloudwatch log stream: {error}") from error
        self._exists = True

    def put(self, events: Sequence[Event]) -> tuple[Outcome, list[Event], str]:
        """Send a batch: what became of it, the events of it that the service refused, and the error's text."""
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

        ordered = sorted(events, key=lambda event: event.time)
        try:
            self.create()
            answer = self._put(ordered)
            refused = _refused(ordered, answer.get("rejectedLogEventsInfo") or {})
        except ClientError as error:
            return self._failure(error, _code(error))
        except ParamValidationError as error:
            return Outcome.NEVER, [], str(error)
        except (BotoCoreError, OSError) as error:
            return Outcome.LATER, [], str(error)
        except _GARBAGE as error:
            return Outcome.LATER, [], f"the answer can't be read: {error}"
        self._token = _token(answer.get("nextSequenceToken"))
        return Outcome.TAKEN, refused, ""

    def close(self) -> None:
        self._client.close()

    def _put(self, ordered: Sequence[Event]) -> dict[str, Any]:
        more = {"sequenceToken": self._token} if self._token else {}
        answer: dict[str, Any] = self._client.put_log_events(
            logGroupName=self._settings.group,
            logStreamName=self._stream,
            logEvents=[{"timestamp": event.time, "message": event.text} for event in ordered],
            **more,
        )
        return answer

    def _failure(self, error: Any, code: str) -> tuple[Outcome, list[Event], str]:
        """Sequence tokens are of the past, but services that imitate this one may still want them."""
        if code in ("DataAlreadyAcceptedException", "InvalidSequenceTokenException"):
            self._token = _token(error.response.get("expectedSequenceToken"))
        if code == "DataAlreadyAcceptedException":
            return Outcome.TAKEN, [], ""
        if code == "ResourceNotFoundException":
            self._exists = (
                not self._settings.create_stream
            )  # somebody removed it: made again by the next attempt
        return Outcome.NEVER if code in _NEVER else Outcome.LATER, [], str(error)

    def _create_stream(self) -> None:
        from botocore.exceptions import ClientError

        try:
            self._client.create_log_stream(logGroupName=self._settings.group, logStreamName=self._stream)
        except ClientError as error:
            if _code(error) != "ResourceAlreadyExistsException":
                raise

    def _create_group(self) -> None:
        from botocore.exceptions import ClientError

        try:
            self._client.create_log_group(logGroupName=self._settings.group)
        except ClientError as error:
            if _code(error) != "ResourceAlreadyExistsException":
                raise


def _token(said: object) -> str | None:
    return said if isinstance(said, str) else None


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _refused(ordered: Sequence[Event], info: dict[str, Any]) -> list[Event]:
    """The events that are too old or too new for the service, by its indexes into the batch."""
    first = max(info.get("tooOldLogEventEndIndex", 0), info.get("expiredLogEventEndIndex", 0))
    last = info.get("tooNewLogEventStartIndex", len(ordered))
    return [*ordered[:first], *ordered[max(last, first) :]]


def _make_client(settings: Settings) -> Any:
    """Raises OSError when the region is not to be found."""
    import botocore.session
    from botocore.config import Config

    from sampan import __version__

    session = botocore.session.Session()
    if settings.credentials_endpoint:
        _take_credentials_from(session, settings.credentials_endpoint)
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT,
        read_timeout=_READ_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        user_agent_extra=f"sampan/{__version__}",
    )
    client = session.create_client(
        "logs",
        region_name=settings.region or _region(session),
        endpoint_url=settings.endpoint or None,
        config=config,
    )
    if settings.embedded_metrics:
        client.meta.events.register("before-sign.logs.PutLogEvents", _mark_as_metrics)
    return client


def _mark_as_metrics(request: Any, **_: object) -> None:
    request.headers["x-amzn-logs-format"] = "json/emf"


def _take_credentials_from(session: Any, path: str) -> None:
    """Of the container agent's endpoint on this host (169.254.170.2), and of nowhere else."""
    from botocore.credentials import ContainerProvider, CredentialResolver

    environment = {ContainerProvider.ENV_VAR: path}
    session.register_component(
        "credential_provider", CredentialResolver([ContainerProvider(environ=environment)])
    )


def _region(session: Any) -> str:
    """Of AWS_REGION, the profile, or the instance that this host is. Raises OSError."""
    import os

    from botocore.utils import InstanceMetadataRegionFetcher

    region = os.environ.get("AWS_REGION") or session.get_config_variable("region")
    if not region:
        region = InstanceMetadataRegionFetcher().retrieve_region()
    if not region:
        raise OSError("cannot determine region for awslogs driver")
    return str(region)
